//! The part about streams.

use std::fmt::Write as _;

use super::markdown::{count, ratio, row, spread, wide};
use crate::measures::tails::{IDLE, RATE, STREAMS, Tails};

pub(super) fn tails(tails: &Tails) -> String {
    let mut text = format!(
        "{streams} streams (`GET /events/stream`), each of one topic, beside {rate} deliveries a second in batches of 20, by\n\
         a schedule that does not wait. *Delay* is the time from `processed_at` to the reader, on the same machine. The\n\
         streams delivered every event of their topics, and no other.\n\n\
         | topics | events handed out | delay p50 | delay p99 | p99 of a publish request beside them |\n|--:|--:|--:|--:|--:|\n",
        streams = count(f64::from(STREAMS)),
        rate = count(f64::from(RATE)),
    );
    for line in &tails.tailing {
        let ms = |ms: f64| format!("{ms:.1} ms");
        let figures = [
            line.topics.to_string(),
            count(wide(line.delivered)),
            ms(line.delay_p50_ms),
            ms(line.delay_p99_ms),
            ms(line.publish_p99_ms),
        ];
        row(&mut text, &figures, &[]);
    }
    for line in &tails.ingest {
        let _ = writeln!(
            text,
            "\nBatches of 500 as fast as the server takes them, over {} topics: {}/s alone, {}/s beside {} streams, {} of it.",
            line.topics,
            spread(line.alone),
            spread(line.beside),
            count(f64::from(STREAMS)),
            ratio(line.ratio),
        );
    }
    if let Some(idle) = tails.idle {
        let _ = writeln!(
            text,
            "\n{} idle streams: {:.1} KiB of memory and {:.2} file descriptors each.",
            count(f64::from(IDLE)),
            wide(idle.bytes_each) / 1024.0,
            idle.descriptors_each,
        );
    }
    text
}
