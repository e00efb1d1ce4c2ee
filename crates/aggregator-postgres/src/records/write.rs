//! The transaction of a write of records, in two round trips: the first locks and reads, the second writes and commits.

use std::cell::RefCell;
use std::collections::BTreeMap;

use aggregator_core::AttemptId;
use aggregator_core::store::{RecordOutcome, RecordWrite};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::plan::{
    BucketState, Decision, LockedRecord, NewVersions, RecordSnapshot, SentCommit, absent, bucket, decide,
};
use crate::PostgresOptions;
use crate::columns::{get, get_u64, signed};
use crate::connection::pipeline::{pipelined, pipelined3};
use crate::connection::session::Session;
use crate::fault::{Failure, Result, unavailable};
use crate::schema::statements::RecordWrites;

/// A write of records. Its transaction may run several times.
pub(crate) struct RecordTx<'a> {
    options: &'a PostgresOptions,
    writes: &'a [RecordWrite],
    /// Marks the rows that this call writes, so that a later try recognizes them.
    attempt: [u8; 16],
    /// In ascending order, without repeats.
    buckets: Vec<i32>,
    /// The last commit that was sent and whose outcome is unknown.
    sent: RefCell<Option<SentCommit>>,
}

impl<'a> RecordTx<'a> {
    pub(crate) fn new(options: &'a PostgresOptions, writes: &'a [RecordWrite]) -> Self {
        let mut buckets: Vec<_> = writes.iter().map(|write| bucket(&write.kind, &write.name)).collect();
        buckets.sort_unstable();
        buckets.dedup();
        let attempt = AttemptId::new().as_u128().to_be_bytes();
        Self { options, writes, attempt, buckets, sent: RefCell::new(None) }
    }

    /// Runs the whole transaction. After an error the session may still be inside it.
    pub(crate) async fn transact(&self, session: &Session) -> Result<RecordOutcome> {
        let statements = session.record_writes().await?;
        session.forget_warnings();
        let snapshot = self.begin(session, statements).await?;
        let decision = decide(self.writes, &snapshot, self.sent.borrow().as_ref())?;
        let versions = match decision {
            Decision::Stale(stale) => {
                session.run("ROLLBACK").await?;
                return Ok(RecordOutcome::Stale(stale));
            }
            Decision::Write(new) => self.write(session, statements, new).await?,
            Decision::Confirm(versions) => {
                self.confirm(session, statements).await?;
                versions
            }
            Decision::Unknown => {
                let reason = "the connection was lost while the records were written, and others have written them \
                              since: read them";
                return Err(unavailable(reason).into());
            }
        };
        session.check_warnings()?;
        Ok(RecordOutcome::Written(versions))
    }

    /// The first round trip: locks the buckets and reads the records. A try sends its commit only after it has the
    /// locks. So this try, which has them now, sees what became of every earlier one that sent a commit.
    async fn begin(&self, session: &Session, statements: &RecordWrites) -> Result<RecordSnapshot> {
        let attempt = &self.attempt.as_slice();
        let kinds: Vec<_> = self.writes.iter().map(|write| write.kind.as_str()).collect();
        let names: Vec<_> = self.writes.iter().map(|write| write.name.as_str()).collect();
        let ((), locked, found) = pipelined3(
            session.begin(),
            session.query(&statements.lock, &[&self.buckets, attempt]),
            session.query(&statements.current, &[&kinds, &names, attempt]),
        )
        .await?;
        let buckets = self.bucket_states(&locked)?;
        let mut records = vec![None; self.writes.len()];
        for row in &found {
            // Ordinals begin at 1.
            let at =
                usize::try_from(get_u64(row, 0)?).ok().and_then(|at| records.get_mut(at.checked_sub(1)?));
            let at = at.ok_or_else(|| Failure::corrupt("a record was found that was not looked up"))?;
            *at = Some(LockedRecord { version: get_u64(row, 1)?, written_by_this: get(row, 2)? });
        }
        Ok(RecordSnapshot { buckets, records })
    }

    fn bucket_states(&self, rows: &[Row]) -> Result<BTreeMap<i32, BucketState>> {
        let mut states = BTreeMap::new();
        for row in rows {
            // Checked at each write: the server or its settings may have changed.
            if self.options.require_sync_standby && get::<&str>(row, 3)?.is_empty() {
                return Err(unavailable("the server has no synchronous standby configured any more").into());
            }
            let state = BucketState {
                last_version: get_u64(row, 1)?,
                written_by_this: get(row, 2)?,
                version_floor: get_u64(row, 4)?,
            };
            states.insert(get(row, 0)?, state);
        }
        match self.buckets.iter().find(|&bucket| !states.contains_key(bucket)) {
            Some(&bucket) => Err(absent(bucket)),
            None => Ok(states),
        }
    }

    /// The second round trip: writes and commits. Deletions take one more for each kind of record.
    async fn write(
        &self,
        session: &Session,
        statements: &RecordWrites,
        new: NewVersions,
    ) -> Result<Vec<u64>> {
        let NewVersions { sent, buckets } = new;
        let versions = sent.versions.clone();
        // An earlier try is known not to have committed.
        *self.sent.borrow_mut() = None;
        self.delete(session, statements).await?;
        *self.sent.borrow_mut() = Some(sent);
        let written = pipelined3(
            self.upsert(session, statements, &versions),
            self.count(session, statements, &buckets),
            session.run("COMMIT"),
        )
        .await;
        if let Err(failure) = &written
            && !failure.leaves_outcome_unknown()
        {
            *self.sent.borrow_mut() = None;
        }
        written.map(|_| versions)
    }

    async fn delete(&self, session: &Session, statements: &RecordWrites) -> Result<()> {
        let mut by_kind: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for write in self.writes.iter().filter(|write| write.value.is_none()) {
            by_kind.entry(&write.kind).or_default().push(&write.name);
        }
        for (kind, names) in by_kind {
            session.execute(&statements.delete, &[&kind, &names]).await?;
        }
        Ok(())
    }

    async fn upsert(&self, session: &Session, statements: &RecordWrites, versions: &[u64]) -> Result<()> {
        let (mut kinds, mut names, mut numbers, mut values) = (vec![], vec![], vec![], vec![]);
        for (write, &version) in self.writes.iter().zip(versions) {
            let Some(value) = &write.value else { continue };
            kinds.push(write.kind.as_str());
            names.push(write.name.as_str());
            numbers.push(signed(version));
            values.push(value.as_slice());
        }
        if kinds.is_empty() {
            return Ok(());
        }
        let columns: [&(dyn ToSql + Sync); 5] = [&kinds, &names, &numbers, &values, &self.attempt.as_slice()];
        session.execute(&statements.upsert, &columns).await.map(drop)
    }

    /// Writes the newest version of each bucket.
    async fn count(
        &self,
        session: &Session,
        statements: &RecordWrites,
        buckets: &BTreeMap<i32, u64>,
    ) -> Result<()> {
        let numbers: Vec<_> = buckets.keys().copied().collect();
        let versions: Vec<_> = buckets.values().copied().map(signed).collect();
        let columns: [&(dyn ToSql + Sync); 3] = [&numbers, &versions, &self.attempt.as_slice()];
        session.execute(&statements.count, &columns).await.map(drop)
    }

    /// Commits again a write that is already committed. This commit writes, so it waits for the disk and the standbys;
    /// the first one, whose answer was lost, may not have.
    async fn confirm(&self, session: &Session, statements: &RecordWrites) -> Result<()> {
        let parameters: [&(dyn ToSql + Sync); 1] = [&self.buckets];
        let touch = session.execute(&statements.touch, &parameters);
        pipelined(touch, session.run("COMMIT")).await.map(drop)
    }
}
