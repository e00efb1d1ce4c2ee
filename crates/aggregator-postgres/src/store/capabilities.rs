//! What a PostgreSQL store can do besides appending and reading.

use std::ops::{ControlFlow, RangeInclusive};
use std::path::Path;

use aggregator_core::store::backend::{
    check_amended, check_key, check_list, check_partition, check_seqs, check_writes,
};
use aggregator_core::store::{
    Amend, AppendAcross, BackupProgress, EraseProgress, Erased, Forget, Import, Imported, Maintain, Record,
    RecordOutcome, RecordWrite, Records, RowLimit, Transfer, VerifyReport, Watch,
};
use aggregator_core::{
    AttemptId, CommitCallback, CommitListener, EventRef, Identity, Partition, Receipt, Seen, StoreError,
    StoredRow, Timestamp, Topic,
};

use crate::amend::AmendTx;
use crate::connection::retry;
use crate::forget::{self, ForgetTx, Oldest, Slice};
use crate::import::ImportTx;
use crate::purge;
use crate::read::{bytes, rows, verify};
use crate::records::{self, RecordTx};
use crate::store::{KIND, PostgresStore};

impl AppendAcross for PostgresStore {
    fn append_across(&self, attempt: AttemptId, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, StoreError> {
        self.check_writable("append")?;
        self.append_checked(attempt, events)
    }
}

impl Maintain for PostgresStore {
    fn purge(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError> {
        self.check_writable("purge")?;
        let partition = self.info.partitions.of(topic.as_str());
        let mut purged = 0;
        loop {
            // A slice at a time, so that appends get their turn in between.
            let slice = self.write_to(&[partition], "purging", async |session| {
                purge::purge_slice(session, &self.options, partition, topic.as_str(), through_seq).await
            });
            match slice? {
                0 => return Ok(purged),
                slice => purged += slice,
            }
        }
    }

    fn bytes(&self, topic: &Topic, seqs: RangeInclusive<u64>) -> Result<u64, StoreError> {
        check_seqs(&seqs)?;
        let partition = self.info.partitions.of(topic.as_str());
        self.read_from([partition], "summing up bytes", async |session| {
            bytes::bytes(session, partition, topic, &seqs).await
        })
    }

    fn verify(&self) -> Result<VerifyReport, StoreError> {
        self.block_on(retry::verify(&self.readers, async |session| {
            verify::verify(session, &self.info, self.has_records, self.has_forgotten).await
        }))
    }

    /// Not supported: `pg_dump` makes a consistent copy of the schema while appends go on.
    fn backup(
        &self,
        _path: &Path,
        _on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        Err(StoreError::Unsupported { kind: KIND, operation: "be backed up from here: use pg_dump" })
    }
}

impl Amend for PostgresStore {
    /// When it returns, no query sees the payloads any more, on the primary and on standbys that have replayed the
    /// commit. But PostgreSQL never writes over the old version of a row, and this call does not clean up behind it: the
    /// payloads are left in the files of the table until `VACUUM FULL` or `pg_repack` writes them anew, and in the WAL,
    /// its archive and base backups for as long as these are kept. `docs/postgres.md` says what has to be done, and what
    /// was seen. So there is no progress to tell.
    ///
    /// If an answer is lost, it is tried again.
    fn erase(
        &self,
        ids: &[Identity],
        _on_progress: &mut dyn FnMut(EraseProgress) -> ControlFlow<()>,
    ) -> Result<Vec<Erased>, StoreError> {
        check_amended(ids)?;
        self.check_writable("erase payloads")?;
        let mut erased = vec![Erased::default(); ids.len()];
        for transaction in AmendTx::all(&self.options, self.info.partitions, ids) {
            let seqs = self.write_to(&[transaction.partition()], "erasing", async |session| {
                transaction.erase(session).await
            });
            for (position, seq) in seqs? {
                erased[position].seqs.push(seq);
            }
        }
        Ok(erased)
    }

    /// If an answer is lost, it is tried again, and what the first try released is part of the result.
    fn release(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        check_amended(ids)?;
        self.check_writable("release identities")?;
        let mut released = vec![None; ids.len()];
        for transaction in AmendTx::all(&self.options, self.info.partitions, ids) {
            let seen = self.write_to(&[transaction.partition()], "releasing", async |session| {
                transaction.release(session).await
            });
            for (position, seen) in seen? {
                released[position] = Some(seen);
            }
        }
        Ok(released)
    }
}

impl Forget for PostgresStore {
    /// A slice at a time, so that appends get their turn in between. If an answer is lost, the slice is tried again and
    /// counted once. If another node was forgetting the same rows at that moment, both may count them.
    fn forget_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        self.check_writable("forget identities")?;
        // Where nothing is due, nothing is locked.
        if self.forgettable_identities(topic, before, most.min(1))? == 0 {
            return Ok(0);
        }
        self.each_slice(topic, before, most, |oldest| {
            let transaction = ForgetTx::new(&self.options, oldest);
            self.write_to(&[oldest.partition], "forgetting", async |session| {
                transaction.transact(session).await
            })
        })
    }

    fn forgettable_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        self.each_slice(topic, before, most, |oldest| {
            self.read_from([oldest.partition], "counting identities", async |session| {
                forget::count(session, oldest).await
            })
        })
    }
}

impl PostgresStore {
    /// Does something with the oldest rows of a topic, a slice after the other. Returns how many rows they had.
    fn each_slice(
        &self,
        topic: &Topic,
        before: Timestamp,
        most: u64,
        slice: impl Fn(Oldest<'_>) -> Result<Slice, StoreError>,
    ) -> Result<u64, StoreError> {
        let partition = self.info.partitions.of(topic.as_str());
        let (mut rows, mut after) = (0, 0);
        while rows < most {
            let slice = slice(Oldest { partition, topic, before, after, most: most - rows })?;
            (rows, after) = (rows + slice.rows, slice.last_offset);
            if !slice.may_go_on {
                break;
            }
        }
        Ok(rows)
    }
}

impl Transfer for PostgresStore {
    fn rows(
        &self,
        partition: Partition,
        after: u64,
        limit: RowLimit,
    ) -> Result<Vec<(u64, StoredRow)>, StoreError> {
        check_partition(self.info.partitions, partition, std::iter::empty())?;
        self.read_from([partition], "reading rows", async |session| {
            rows::rows(session, partition, after, limit, self.has_forgotten).await
        })
    }

    fn import(&self, partition: Partition, import: Import<'_>) -> Result<Imported, StoreError> {
        self.check_writable("import rows")?;
        check_partition(self.info.partitions, partition, import.topic_names())?;
        if !self.has_forgotten && import.rows.iter().any(|row| row.is_forgotten()) {
            let operation = "import marks of forgotten identities before its role, or another one, has added the table for \
                             them: grant it CREATE on the schema and open the store again";
            return Err(StoreError::Unsupported { kind: KIND, operation });
        }
        let cluster = self.cluster.as_deref();
        let transaction = ImportTx::new(&self.options, cluster, partition, import, self.has_forgotten);
        let (imported, last_offset) =
            self.write_to(&[partition], "importing", async |session| transaction.transact(session).await)?;
        // Even if all rows were there: this call may have stored them itself and lost the answer.
        self.announcer.committed(partition, last_offset);
        Ok(imported)
    }
}

impl Records for PostgresStore {
    fn get(&self, kind: &str, name: &str) -> Result<Option<Record>, StoreError> {
        check_key(kind, name)?;
        // Records are at the server to which sessions are made.
        self.read_from([], "reading a record", async |session| records::record(session, kind, name).await)
    }

    fn list(
        &self,
        kind: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        check_list(kind, limit)?;
        self.read_from([], "listing records", async |session| {
            records::list(session, kind, prefix, after, limit).await
        })
    }

    /// If the connection is lost while it commits, the write is tried again. The new try recognizes the records that
    /// the first one wrote, so it does not report them as stale. The error is [`StoreError::Unavailable`] if others
    /// have overwritten every trace of the first try, because then nobody can know whether it was committed.
    fn write(&self, writes: &[RecordWrite]) -> Result<RecordOutcome, StoreError> {
        check_writes(writes)?;
        self.check_writable("write records")?;
        let transaction = RecordTx::new(&self.options, writes);
        self.write_to(&[], "writing records", async |session| transaction.transact(session).await)
    }

    fn now(&self) -> Result<Timestamp, StoreError> {
        self.read_from([], "reading the clock", async |session| records::now(session, &self.options).await)
    }
}

impl Watch for PostgresStore {
    fn on_commit(&self, callback: CommitCallback) -> CommitListener {
        self.announcer.listen(callback)
    }
}
