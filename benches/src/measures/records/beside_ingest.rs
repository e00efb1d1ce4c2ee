//! How much writes of records at a fixed rate slow ingest down. One thread appends batches of events, alone and beside
//! the writers in turn, to the same store.

use std::ops::Range;
use std::time::{Duration, Instant};

use aggregator_core::{AttemptId, DedupStore, Event, EventRef, Outcome, Partition};
use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::writers::{Writers, ms};
use super::{Scratch, Spread, open, order, settle};
use crate::load::histogram;
use crate::options::Options;
use crate::workload::{RECENT, Row, TEMPLATE, Workload};

pub(crate) const WRITERS: usize = 16;
/// Writes per second of all writers together.
pub(crate) const WRITES_PER_SECOND: u32 = 1_000;
pub(crate) const BATCH: u32 = 2_000;

/// Deliveries of the first turn, which counts in no figure.
const FIRST: u64 = 50_000;
/// The most deliveries of a turn: its events are in memory before it begins.
const MOST: u64 = 600_000;

/// A turn ends after this time, even if the disk has become slow.
const LONGEST: Duration = Duration::from_millis(1_500);

#[derive(Debug, Clone, Serialize)]
pub(crate) struct BesideIngest {
    pub(crate) rounds: u32,
    /// The most deliveries of a turn.
    pub(crate) deliveries: u64,
    /// Deliveries per second.
    pub(crate) alone: Spread,
    pub(crate) beside_writers: Spread,
    /// The ratio of two turns of the same round.
    pub(crate) beside_to_alone: Spread,
    /// Record writes per second: fewer than were due if the store cannot take them.
    pub(crate) writes: Spread,
    /// Latency from when a write was due.
    pub(crate) p99_ms: f64,
}

pub(crate) fn measure(options: &Options, measured: &mut Option<BesideIngest>) -> anyhow::Result<()> {
    // An even number of rounds, so that each turn comes first equally often.
    let rounds = 2 * options.rounds();
    let directory = Scratch::new(options, "records-beside-ingest")?;
    let store = open(directory.path())?;
    let mut writers = Writers::create(&store, WRITERS)?;
    let mut ingest =
        Ingest { store: &store, workload: Workload::new(options.seed, RECENT, options.topics), made: 0 };
    // The first turn creates the topics and fills the caches. Its rate determines the size of the other turns.
    let first = ingest.prepare(FIRST)?.append(&mut ingest)?;
    let deliveries = turn_size(first, if options.quick { 0.3 } else { 1.0 });
    let (mut rates, mut writes, mut took) = (Vec::new(), Vec::new(), histogram());
    for round in 1..=rounds {
        let mut of = [0.0; 2];
        for place in order(2, round) {
            let turn = ingest.prepare(deliveries)?;
            settle()?;
            of[place] = if place == 0 {
                turn.append(&mut ingest)?
            } else {
                let (rate, written) =
                    writers.write_while(Some(WRITES_PER_SECOND), || turn.append(&mut ingest))?;
                writes.push(written.rate());
                took.add(&written.took)?;
                rate?
            };
        }
        let [alone, beside] = of;
        eprintln!(
            "records, round {round}: ingest {alone:.0}/s alone, {beside:.0}/s beside writes of records"
        );
        rates.push(of);
    }
    writers.check()?;
    let spread = |figure: fn(&[f64; 2]) -> f64| Spread::of(rates.iter().map(figure));
    *measured = Some(BesideIngest {
        rounds,
        deliveries,
        alone: spread(|[alone, _]| *alone),
        beside_writers: spread(|[_, beside]| *beside),
        beside_to_alone: spread(|[alone, beside]| beside / alone),
        writes: Spread::of(writes),
        p99_ms: ms(took.value_at_quantile(0.99)),
    });
    Ok(())
}

/// The deliveries of a turn that takes about `seconds` at this rate, in whole batches.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is no negative number")]
fn turn_size(rate: f64, seconds: f64) -> u64 {
    let batches = (rate * seconds) as u64 / u64::from(BATCH);
    (batches.max(1) * u64::from(BATCH)).min(MOST)
}

/// The thread that appends.
struct Ingest<'s> {
    store: &'s dyn DedupStore,
    workload: Workload,
    /// The deliveries made so far.
    made: u64,
}

impl Ingest<'_> {
    /// Renders the next deliveries before the clock runs, so that only the store is measured.
    fn prepare(&self, deliveries: u64) -> anyhow::Result<Turn> {
        let mut text = TEMPLATE.to_vec();
        let events = (self.made..self.made + deliveries).map(|n| {
            self.workload.render(self.workload.identity(n), &mut text);
            Row::of(&text).event()
        });
        Ok(Turn { events: events.collect::<Result<_, _>>().context("a delivery")? })
    }

    /// Appends a batch with these deliveries.
    fn append(&self, deliveries: Range<u64>, batch: &[EventRef<'_>]) -> anyhow::Result<()> {
        let receipts = self.store.append(Partition(0), AttemptId::new(), batch)?;
        let count = |outcome| receipts.iter().map(|receipt| u64::from(receipt.outcome == outcome)).sum();
        let (stored, conflicts): (u64, u64) = (count(Outcome::Stored), count(Outcome::Conflict));
        let new = self.workload.identities(deliveries.end) - self.workload.identities(deliveries.start);
        ensure!(
            stored == new && conflicts == 0,
            "of deliveries {deliveries:?} {stored} were stored and {conflicts} conflicted: {new} are new"
        );
        Ok(())
    }
}

/// Deliveries to append in one go.
struct Turn {
    events: Vec<Event>,
}

impl Turn {
    /// Appends the turn's events. Returns the deliveries per second.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    fn append(&self, ingest: &mut Ingest<'_>) -> anyhow::Result<f64> {
        let first = ingest.made;
        let started = Instant::now();
        for events in self.events.chunks(BATCH as usize) {
            let batch: Vec<_> = events.iter().map(Event::view).collect();
            let end = ingest.made + batch.len() as u64;
            ingest.append(ingest.made..end, &batch)?;
            ingest.made = end;
            if started.elapsed() >= LONGEST {
                break;
            }
        }
        Ok((ingest.made - first) as f64 / started.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use aggregator_core::SqliteStore;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_turn_has_whole_batches_and_bounds() {
        let batch = u64::from(BATCH);
        assert_eq!([0.0, 4_999.0, 1e9].map(|rate| turn_size(rate, 1.0)), [batch, 2 * batch, MOST]);
    }

    #[test]
    fn a_turn_goes_on_where_the_last_one_ended_and_events_that_are_not_new_are_found() {
        let directory = TempDir::new().unwrap();
        let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
        let mut ingest = Ingest { store: &store, workload: Workload::new(1, RECENT, 4_u16), made: 0 };
        for _ in 0..2 {
            assert!(ingest.prepare(u64::from(BATCH) * 2).unwrap().append(&mut ingest).unwrap() > 0.0);
        }
        assert_eq!(store.stats().unwrap().stored, ingest.workload.identities(u64::from(BATCH) * 4));
        ingest.made -= u64::from(BATCH);
        assert!(ingest.prepare(u64::from(BATCH)).unwrap().append(&mut ingest).is_err());
    }
}
