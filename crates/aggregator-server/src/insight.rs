//! What the repeats mean: who repeats, how late, what would have been lost elsewhere.
//!
//! Insight listens to receipts, so a store knows nothing of it. It costs about 0.1 µs for each event (docs/performance.md), is
//! bounded whatever publishers send, and is kept in records ([`records`]).

mod differences;
mod duplicates;
mod follow;
mod lateness;
mod latest;
mod most_repeated;
mod records;
mod report;
mod sequence;
mod series;
mod series_route;
mod snapshot;
mod streams;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use aggregator_core::{EventRef, Identity, Outcome, Receipt, Timestamp};

pub(crate) use duplicates::duplicates;
pub(crate) use follow::{begin, end, follow};
pub(crate) use report::insight;
pub(crate) use series_route::series;

use latest::Latest;
use most_repeated::MostRepeated;
use records::Keeper;
use sequence::Sequence;
use series::{Sample, Series};
use snapshot::{Head, Snapshot};
use streams::Streams;

/// The most streams that are counted one by one: what is kept of them has to fit into one write of records.
pub(crate) const MAX_STREAMS: u16 = 1_000;

/// What this process knows, and how it is shared with others.
pub(crate) struct Insight {
    observed: Mutex<Observed>,
    /// What the counters of the process said when they were looked at last.
    sampled: Mutex<Sample>,
    /// Locked while the store writes, which has no deadline: a reader must not wait for it.
    keeper: Mutex<Keeper>,
    /// What this node is called in the records.
    node: Mutex<String>,
    others: Mutex<Others>,
}

/// What the other nodes had counted, and when that was read.
#[derive(Default)]
struct Others {
    snapshots: Arc<Vec<Snapshot>>,
    read_at: Option<Instant>,
}

/// What was observed since counting began.
#[derive(Debug)]
struct Observed {
    capacity: usize,
    since: Timestamp,
    streams: Streams,
    most_repeated: MostRepeated,
    latest: Latest,
    series: Series,
}

impl Insight {
    /// Counts each of the busiest `streams`.
    pub(crate) fn new(streams: u16) -> Self {
        let keeper = Keeper::new();
        Self {
            observed: Mutex::new(Observed::new(streams.min(MAX_STREAMS).into(), Timestamp::now())),
            sampled: Mutex::default(),
            node: Mutex::new(keeper.node().to_owned()),
            keeper: Mutex::new(keeper),
            others: Mutex::default(),
        }
    }

    /// From now on, this one keeps what is counted.
    fn replace(&self, keeper: &mut Keeper, by: Keeper) {
        *lock(&self.node) = by.node().to_owned();
        *keeper = by;
    }

    /// Forgets what was in the payloads of conflicts with these identities, which were erased. Sources are not looked at: more
    /// may go than has to.
    pub(crate) fn forget_values(&self, erased: &[Identity]) {
        lock(&self.observed).latest.forget_values(|conflict| {
            erased.iter().any(|id| {
                *conflict.event_id == *id.event_id.as_str() && *conflict.topic == *id.topic.as_str()
            })
        });
    }

    /// Forgets what was in the payloads of all conflicts.
    pub(crate) fn forget_all_values(&self) {
        lock(&self.observed).latest.forget_values(|_| true);
    }

    /// Counts events of one commit, with the receipt of each.
    pub(crate) fn observe<'e>(&self, events: impl Iterator<Item = EventRef<'e>>, receipts: &[Receipt]) {
        let mut observed = lock(&self.observed);
        if observed.capacity > 0 {
            observed.observe(events, receipts, Timestamp::now());
        }
    }
}

/// Nothing under these locks leaves anything half done: if a thread panicked, what it has counted is there.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observed {
    fn new(capacity: usize, since: Timestamp) -> Self {
        Self {
            capacity,
            since,
            streams: Streams::new(capacity),
            most_repeated: MostRepeated::default(),
            latest: Latest::default(),
            series: Series::default(),
        }
    }

    /// The same without anything observed.
    fn emptied(&self) -> Self {
        Self::new(self.capacity, Timestamp::now())
    }

    fn observe<'e>(
        &mut self,
        events: impl Iterator<Item = EventRef<'e>>,
        receipts: &[Receipt],
        now: Timestamp,
    ) {
        let mut position = 0;
        let mut noted = self.latest.group();
        for (event, receipt) in events.zip(receipts) {
            position = self.streams.position(event.topic(), event.source(), position);
            let stream = self.streams.at(position);
            stream.heat += 1;
            let counts = &mut stream.counts;
            counts.last_at = now.as_micros();
            match receipt.outcome {
                Outcome::Stored => {
                    counts.stored += 1;
                    if let Some(number) = event.sequence() {
                        match &mut stream.sequence {
                            Some(sequence) => sequence.observe(number),
                            none => *none = Some(Box::new(Sequence::new(number))),
                        }
                    }
                    continue;
                }
                Outcome::Duplicate => counts.duplicates += 1,
                Outcome::Conflict => counts.conflicts += 1,
            }
            // The clock of the store may be ahead.
            let late = now.as_micros().saturating_sub(receipt.processed_at.as_micros()) / 1_000;
            counts.lateness.observe(u64::try_from(late).unwrap_or(0));
            self.most_repeated.observe(&stream.topic, event.event_id());
            noted.note(&stream.topic, event, receipt, now);
        }
    }

    /// Adds what another node has counted, or this one before it started again. `interrupted` says that the end of its
    /// counting is lost.
    fn add(&mut self, other: &Snapshot, interrupted: bool) {
        self.since = self.since.min(Timestamp::from_micros(other.head.since));
        self.streams.others.add(&other.head.others);
        other.streams.iter().for_each(|stream| self.streams.add(stream, interrupted));
        for of in &other.most_repeated {
            self.most_repeated.observe_many(&of.topic, &of.event_id, of.at_least);
        }
        other.latest.iter().cloned().for_each(|repeat| self.latest.push(repeat));
        self.series.add_all(&other.series);
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { latest: self.latest.all(), series: self.series.clone(), ..self.counts() }
    }

    /// A snapshot without the newest repeats and the series, which are its larger part.
    fn counts(&self) -> Snapshot {
        let head =
            Head { since: self.since.as_micros(), others: self.streams.others.clone(), ..Head::default() };
        let (streams, most_repeated) = (self.streams.all().to_vec(), self.most_repeated.all());
        Snapshot { head, streams, most_repeated, ..Snapshot::default() }
    }
}
