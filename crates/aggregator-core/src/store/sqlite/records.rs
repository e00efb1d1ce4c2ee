//! Small named values with versions, in the same file.

use super::{SqliteStore, read};
use crate::store::records::{
    Record, RecordOutcome, RecordWrite, Records, check_key, check_list, check_writes,
};
use crate::store::sqlite::write::record_queue::Joined;
use crate::{StoreError, Timestamp};

impl Records for SqliteStore {
    fn get(&self, kind: &str, name: &str) -> Result<Option<Record>, StoreError> {
        const DOING: &str = "reading a record";
        check_key(kind, name)?;
        read::records::get(&mut *self.reader(DOING)?, DOING, kind, name)
    }

    fn list(
        &self,
        kind: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        const DOING: &str = "listing records";
        check_list(kind, limit)?;
        read::records::list(&mut *self.reader(DOING)?, DOING, kind, prefix, after, limit)
    }

    fn write(&self, writes: &[RecordWrite]) -> Result<RecordOutcome, StoreError> {
        check_writes(writes)?;
        let mut turn = match self.record_queue.join(writes) {
            Joined::Done(outcome) => return outcome,
            Joined::Leads(turn) => turn,
        };
        // Whoever comes until the writer is free goes along.
        let written = self.writer().and_then(|mut writer| writer.write_records(&turn.gather()));
        // Stale writes commit nothing, so they do not show that there is room.
        let commits = |outcome: &RecordOutcome| matches!(outcome, RecordOutcome::Written(_));
        if written.as_ref().map_or(true, |outcomes| outcomes.iter().any(commits)) {
            self.room.note(&written);
        }
        turn.end(written)
    }

    fn now(&self) -> Result<Timestamp, StoreError> {
        Ok((self.clock)())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::store::sqlite::file::files::beside;

    #[test]
    fn writes_that_wait_for_the_writer_share_one_commit() {
        const THREADS: usize = 8;
        let directory = tempfile::TempDir::new().unwrap();
        let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
        let log = beside(store.path(), "-wal");
        let written = |names: &[String]| {
            let before = fs::metadata(&log).map_or(0, |log| log.len());
            let writer = store.writer().unwrap();
            thread::scope(|scope| {
                for name in names {
                    let store = &store;
                    scope.spawn(move || {
                        store.write(&[RecordWrite::create("k", name, "1")]).map(drop).unwrap();
                    });
                }
                while store.record_queue.len() < names.len() {
                    thread::yield_now();
                }
                drop(writer);
            });
            fs::metadata(&log).unwrap().len() - before
        };
        let names = |of: &str, count| (0..count).map(|n| format!("{of}-{n}")).collect::<Vec<_>>();
        // The first one also marks the file.
        written(&names("first", 1));
        let alone = written(&names("alone", 1));
        let together = written(&names("together", THREADS));
        assert!(alone > 0 && together <= alone, "{together} bytes of log for {THREADS}, {alone} for one");
        assert_eq!(store.list("k", "", None, 100).unwrap().len(), 2 + THREADS);
    }

    #[test]
    fn a_panic_while_records_are_written_stops_the_store_and_leaves_nobody_waiting() {
        let directory = tempfile::TempDir::new().unwrap();
        let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
        let has_writer = Barrier::new(2);
        let panicked = thread::scope(|scope| {
            let holds = scope.spawn(|| {
                let _writer = store.writer().unwrap();
                has_writer.wait();
                while store.record_queue.len() < 4 {
                    thread::yield_now();
                }
                panic!("as planned");
            });
            has_writer.wait();
            let waiting: Vec<_> = (0..4)
                .map(|n: u32| {
                    scope.spawn({
                        let store = &store;
                        move || store.write(&[RecordWrite::create("k", n.to_string(), "1")])
                    })
                })
                .collect();
            for one in waiting {
                assert!(matches!(one.join().unwrap(), Err(StoreError::Poisoned { .. })));
            }
            holds.join().is_err()
        });
        assert!(panicked);
        assert_eq!(store.list("k", "", None, 100).unwrap(), []);
    }
}
