//! The part about retention.

use super::markdown::{count, ratio, row, spread, wide};
use crate::measures::Spread;
use crate::measures::retention::{BATCH, BesidePurges, RATE};

pub(super) fn beside_purges(measured: &BesidePurges) -> String {
    let mut text = format!(
        "{rate} deliveries a second in batches of {BATCH} for {seconds} s, by a schedule that does not wait, on a store of\n\
         {events} events: first without a rule, then while a rule purges it down to 1,000 events a topic. It purged\n\
         {purged} events a second meanwhile. The ratio is that of the p99 of one round.\n\n\
         | | p50 of a publish request | p99 | ratio |\n|---|--:|--:|--:|\n",
        rate = count(f64::from(RATE)),
        seconds = measured.seconds,
        events = count(wide(measured.events)),
        purged = spread(measured.purged_rate),
    );
    let ms = |spread: Spread| format!("{:.2} ms ({:.2} to {:.2})", spread.median, spread.min, spread.max);
    let (alone, beside) = (
        [ms(measured.alone_p50_ms), ms(measured.alone_p99_ms)],
        [ms(measured.beside_p50_ms), ms(measured.beside_p99_ms)],
    );
    let [p50, p99] = alone;
    row(&mut text, &["without a rule".to_owned(), p50, p99, String::new()], &[]);
    let [p50, p99] = beside;
    row(&mut text, &["beside purges".to_owned(), p50, p99, ratio(measured.ratio)], &[]);
    text
}
