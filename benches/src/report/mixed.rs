//! The part about reads beside appends.

use std::fmt::Write as _;

use super::markdown::{count, ratio, row, spread, wide};
use crate::measures::Spread;
use crate::measures::mixed::reads::{
    IDS, LISTS_PER_SECOND, LOOKUPS_PER_SECOND, PAGE, PAGES_PER_SECOND, UNKNOWN,
};
use crate::measures::mixed::{BATCH, Mixed, STREAMS, TOPICS};

pub(super) fn mixed(measured: &Mixed) -> String {
    let mut text = format!(
        "Half of the full rate, in batches of {BATCH} over {topics} topics, by a schedule that does not wait; {seconds} s a turn, on a\n\
         store of {events} events that grows. The full rate was measured just before, in the same store:\n\
         {full}/s. Beside that {STREAMS} streams, each of one topic, and one connection for each kind of read: pages of\n\
         {page} events of all topics and of one ({PAGES_PER_SECOND} a second each, of which only full ones count in the figures), lookups\n\
         of {IDS} identities ({LOOKUPS_PER_SECOND} a second; {UNKNOWN} of the identities are not stored), and lists of all topics\n\
         ({LISTS_PER_SECOND} a second). *Without a pause*: each page and each lookup follows the one before at once. Every event was read\n\
         once by each walk and each stream, and every lookup was right.\n\n\
         | ingest | deliveries/s | of what was due | server's processors | p99 of a publish request, of alone |\n|---|--:|--:|--:|--:|\n",
        topics = count(f64::from(TOPICS)),
        seconds = measured.seconds,
        events = count(wide(measured.events)),
        full = spread(measured.full_rate),
        page = count(wide(PAGE)),
    );
    for turn in &measured.turns {
        let ratios = [turn.kept, turn.cpu, turn.p99_to_alone].map(ratio);
        row(&mut text, &[turn.name.to_owned(), spread(turn.rate)], &ratios);
    }
    let _ = write!(text, "\n| what | ingest | a second | p50 | p99 |\n|---|---|--:|--:|--:|\n");
    let ms = |Spread { median, min, max }: Spread| format!("{median:.1} ms ({min:.1}–{max:.1})");
    for turn in &measured.turns {
        // In a small store no topic fills a page.
        for requests in turn.requests.iter().filter(|requests| requests.per_second.max > 0.0) {
            let cells = [requests.name.to_owned(), turn.name.to_owned(), spread(requests.per_second)];
            row(&mut text, &cells, &[requests.p50_ms, requests.p99_ms].map(ms));
        }
    }
    text
}
