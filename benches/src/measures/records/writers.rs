//! Threads that write records. Each has its own records.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aggregator_core::{DedupStore, Record, RecordOutcome, RecordWrite, Records};
use anyhow::{Context as _, anyhow, bail, ensure};
use hdrhistogram::Histogram;

use crate::load::histogram;

/// The bytes of a value.
pub(crate) const VALUE_BYTES: usize = 200;

/// How many records each thread has. It writes one after the other. The records of 64 threads can be created in one
/// call.
pub(crate) const RECORDS_EACH: usize = 10;

const KIND: &str = "bench";

pub(super) struct Writers<'s> {
    records: &'s dyn Records,
    /// The expected state of each thread's records, in the order of their names.
    own: Vec<Vec<Record>>,
}

/// The result of writing.
pub(super) struct Written {
    pub(super) seconds: f64,
    /// How long each write took, in µs. A write with a schedule counts from when it was due.
    pub(super) took: Histogram<u64>,
}

impl Written {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    pub(super) fn rate(&self) -> f64 {
        self.took.len() as f64 / self.seconds
    }
}

/// Microseconds in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "a latency needs no 53 bits")]
pub(super) fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

impl<'s> Writers<'s> {
    /// Creates the records of all threads.
    pub(super) fn create(store: &'s dyn DedupStore, threads: usize) -> anyhow::Result<Self> {
        let records = store.records().context("the store has no records")?;
        let name = |thread, place| format!("writer-{thread:03}-{place:02}");
        let creates: Vec<_> = (0..threads)
            .flat_map(|thread| (0..RECORDS_EACH).map(move |place| name(thread, place)))
            .map(|name| RecordWrite::create(KIND, name, value(0)))
            .collect();
        let versions = written(records.write(&creates)?)?;
        let made: Vec<_> = creates
            .into_iter()
            .zip(versions)
            .map(|(create, version)| Record::new(create.kind, create.name, version, value(0)))
            .collect();
        Ok(Self { records, own: made.chunks(RECORDS_EACH).map(<[_]>::to_vec).collect() })
    }

    /// All threads write while `body` runs. With `per_second`, they make this many writes per second together, by a
    /// schedule that does not wait for them. Without it, they write as fast as they can.
    pub(super) fn write_while<R>(
        &mut self,
        per_second: Option<u32>,
        body: impl FnOnce() -> R,
    ) -> anyhow::Result<(R, Written)> {
        let records = self.records;
        let is_over = AtomicBool::new(false);
        let step = u32::try_from(self.own.len())?;
        let start = Instant::now();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..)
                .zip(&mut self.own)
                .map(|(first, own)| {
                    let schedule = per_second.map(|rate| {
                        let interval = Duration::from_secs(1) / rate;
                        Schedule { due: start + interval * first, step: interval * step }
                    });
                    let is_over = &is_over;
                    scope.spawn(move || write(records, own, schedule, is_over))
                })
                .collect();
            let end = SetOnDrop(&is_over);
            let result = body();
            drop(end);
            let mut took = histogram();
            for thread in threads {
                took.add(thread.join().map_err(|_| anyhow!("a thread that writes records panicked"))??)?;
            }
            Ok((result, Written { seconds: start.elapsed().as_secs_f64(), took }))
        })
    }

    /// Checks that the store has the last value of each record, and no other record.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let mut after = None;
        for own in &self.own {
            let found = self.records.list(KIND, "", after, own.len())?;
            ensure!(
                found.len() == own.len(),
                "{} of a thread's {} records were found",
                found.len(),
                own.len()
            );
            for (found, own) in found.iter().zip(own) {
                ensure!(found == own, "a record is {found:?}, but {own:?} was written");
            }
            after = own.last().map(|last| last.name.as_str());
        }
        let more = self.records.list(KIND, "", after, 1)?;
        ensure!(more.is_empty(), "there are records that nobody wrote: {more:?}");
        Ok(())
    }
}

/// When a thread's next write is due.
struct Schedule {
    due: Instant,
    /// The time between two of its writes.
    step: Duration,
}

/// Tells the threads to end, even if the body panics.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs one thread. Returns how long each of its writes took.
fn write(
    records: &dyn Records,
    own: &mut [Record],
    mut schedule: Option<Schedule>,
    is_over: &AtomicBool,
) -> anyhow::Result<Histogram<u64>> {
    let mut took = histogram();
    loop {
        let place = usize::try_from(took.len())? % own.len();
        let began = match &mut schedule {
            None => Instant::now(),
            Some(Schedule { due, step }) => {
                let began = *due;
                thread::sleep(began.saturating_duration_since(Instant::now()));
                *due += *step;
                began
            }
        };
        if is_over.load(Ordering::Relaxed) {
            return Ok(took);
        }
        let value = value(took.len() + 1);
        let update = RecordWrite::update(&own[place], value.clone());
        let versions = written(records.write(&[update])?)?;
        ensure!(versions[0] > own[place].version, "version {} follows {:?}", versions[0], own[place]);
        own[place].version = versions[0];
        own[place].value = value;
        took.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
}

/// The new versions. Nobody else writes these records, so none may be stale.
fn written(outcome: RecordOutcome) -> anyhow::Result<Vec<u64>> {
    match outcome {
        RecordOutcome::Written(versions) => Ok(versions),
        RecordOutcome::Stale(stale) => bail!("somebody else wrote a record: {stale:?}"),
    }
}

/// The value of a write with this number.
fn value(number: u64) -> Vec<u8> {
    format!("{number:0VALUE_BYTES$}").into_bytes()
}

#[cfg(test)]
mod tests {
    use aggregator_core::SqliteStore;
    use tempfile::TempDir;

    use super::*;

    fn store() -> (TempDir, SqliteStore) {
        let directory = TempDir::new().unwrap();
        let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
        (directory, store)
    }

    /// Returns once each thread has made `writes` writes.
    fn until_each_has_written(store: &SqliteStore, threads: usize, writes: usize) {
        for thread in 0..threads {
            let name = format!("writer-{thread:03}-{:02}", (writes - 1) % RECORDS_EACH);
            while store.get(KIND, &name).unwrap().unwrap().value == value(0) {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn every_thread_writes_its_own_and_a_write_of_somebody_else_is_found() {
        let (_directory, store) = store();
        let mut writers = Writers::create(&store, 3).unwrap();
        let ((), written) =
            writers.write_while(None, || until_each_has_written(&store, 3, RECORDS_EACH)).unwrap();
        assert!(written.took.len() >= 3 * RECORDS_EACH as u64 && written.rate() > 0.0);
        writers.check().unwrap();

        let other = RecordWrite::update(&writers.own[2][0], value(7));
        assert!(matches!(store.write(&[other]).unwrap(), RecordOutcome::Written(_)));
        assert!(writers.check().is_err());
        let stale = write(&store, &mut writers.own[2], None, &AtomicBool::new(false)).unwrap_err();
        assert!(stale.to_string().starts_with("somebody else wrote a record"), "{stale}");
    }

    #[test]
    fn a_schedule_is_not_overtaken() {
        let (_directory, store) = store();
        let mut writers = Writers::create(&store, 2).unwrap();
        let body = || until_each_has_written(&store, 2, 5);
        let ((), written) = writers.write_while(Some(100), body).unwrap();
        let (writes, due) = (u32::try_from(written.took.len()).unwrap(), written.seconds * 100.0 + 1.0);
        assert!(writes >= 10 && f64::from(writes) <= due, "{writes} writes, and {due} were due");
        writers.check().unwrap();
    }
}
