//! The part about records.

use std::fmt::Write as _;

use super::markdown::{count, ratio, row, spread, wide};
use crate::measures::records::beside_ingest::{BATCH, BesideIngest, WRITERS, WRITES_PER_SECOND};
use crate::measures::records::{RECORDS_EACH, VALUE_BYTES, Writing};

pub(super) fn writing(lines: &[Writing]) -> String {
    let mut text = format!(
        "The SQLite store without a server; durable (fsync before a write returns). Each thread has {RECORDS_EACH} records. It\n\
         writes one after the other by compare-and-set, with values of {VALUE_BYTES} bytes. A round makes each run once on a\n\
         fresh store, and every other round goes backwards. Every version and every last value were checked.\n\n\
         | threads | writes | writes/s | p99 (closed loop) |\n|--:|--:|--:|--:|\n",
    );
    for line in lines {
        let p99 = format!("{:.1} ms", line.p99_ms);
        row(&mut text, &[line.threads.to_string(), count(wide(line.writes)), spread(line.rate), p99], &[]);
    }
    text
}

pub(super) fn beside_ingest(measured: &BesideIngest) -> String {
    let mut text = format!(
        "One thread appends batches of {batch} events to the SQLite store without a server, alone and while {WRITERS}\n\
         threads write {due} records a second by a schedule that does not wait. {rounds} rounds run both in turn on one\n\
         store, with up to {deliveries} deliveries each. The ratio compares two turns of the same round. *p99* counts from\n\
         when a write was due.\n\n\
         | alone, deliveries/s | beside the writers | ratio | record writes/s | p99 of those |\n|--:|--:|--:|--:|--:|\n",
        batch = count(BATCH.into()),
        due = count(WRITES_PER_SECOND.into()),
        rounds = measured.rounds,
        deliveries = count(wide(measured.deliveries)),
    );
    let rates = [measured.alone, measured.beside_writers].map(spread);
    let writes =
        [ratio(measured.beside_to_alone), spread(measured.writes), format!("{:.1} ms", measured.p99_ms)];
    row(&mut text, &rates, &writes);
    if measured.writes.median < f64::from(WRITES_PER_SECOND) * KEPT_UP {
        let _ = writeln!(
            text,
            "\n**The writers did not keep up with their schedule**, so ingest met fewer writes than it should."
        );
    }
    text
}

/// The smallest share of the due writes at which the writers have kept up.
const KEPT_UP: f64 = 0.95;
