//! The transaction of an append, in two round trips.
//!
//! All statements of a round trip are sent at once. The server runs them in that order, each with a snapshot of its own
//! (READ COMMITTED). The first statement locks the rows of the partitions. So the statements after it see everything
//! that was committed before the locks were granted, and the commits of a partition are in the order of their offsets.

mod begin;
mod new_rows;
mod plan;
mod sorted_events;
pub(crate) mod topic_ids;
mod write;

use std::collections::HashSet;

use aggregator_core::store::backend::too_many_topics;
use aggregator_core::{AttemptId, EventRef, Fault, Partition, Partitions, Receipt, StoreError, Timestamp};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use self::plan::AppendPlan;
use self::sorted_events::SortedEvents;
use self::topic_ids::TopicIds;
use self::write::WriteTx;
use crate::PostgresOptions;
use crate::citus::Cluster;
use crate::columns::{get_u64, partition_number, signed};
use crate::connection::pipeline::{pipelined, pipelined4};
use crate::connection::session::Session;
use crate::fault::{Failure, Result};

/// One append in this many deletes old attempts, which costs one more statement.
const PRUNED_ONCE_IN: u128 = 16;
/// How many old attempts it deletes for each partition of its group: more than the appends in between add.
const PRUNED: u64 = 200;

/// The result of an append that is committed.
pub(crate) struct AppendResult {
    pub(crate) receipts: Vec<Receipt>,
    /// The partitions in which something was stored, each with the last offset that was stored.
    pub(crate) stored: Vec<(Partition, u64)>,
}

/// An append. Its transaction may run several times, always under the same attempt id.
pub(crate) struct Append<'a, 'e> {
    options: &'a PostgresOptions,
    topic_ids: &'a TopicIds,
    cluster: Option<&'a Cluster>,
    attempt: [u8; 16],
    given: &'a [EventRef<'e>],
    group: SortedEvents<'e>,
    /// The partitions of the group as values of the column `partition`, in ascending order.
    partitions: Vec<i32>,
}

impl<'a, 'e> Append<'a, 'e> {
    pub(crate) fn new(
        options: &'a PostgresOptions,
        topic_ids: &'a TopicIds,
        cluster: Option<&'a Cluster>,
        partitions: Partitions,
        attempt: AttemptId,
        given: &'a [EventRef<'e>],
    ) -> Self {
        let attempt = attempt.as_u128().to_be_bytes();
        let group = SortedEvents::new(partitions, given);
        let partitions = group.partitions.iter().copied().map(partition_number).collect();
        Self { options, topic_ids, cluster, attempt, given, group, partitions }
    }

    /// The partitions of its events, ascending.
    pub(crate) fn partitions(&self) -> &[Partition] {
        &self.group.partitions
    }

    /// Runs the whole transaction. After an error the session may still be inside it.
    pub(crate) async fn transact(&self, session: &Session) -> Result<AppendResult> {
        session.forget_warnings();
        let mut snapshot = self.begin(session).await?;
        let names = || self.given.iter().map(EventRef::topic);
        let is_known = |name: &str| snapshot.topics.contains_key(name);
        let here: u64 = snapshot.partitions.iter().map(|partition| partition.topic_count).sum();
        let count = TopicCount { cluster: self.cluster, partitions: &self.partitions, here };
        check_topics(session, self.options.max_topics, count, names, is_known).await?;
        let plan = AppendPlan::new(&mut snapshot, &self.group)?;
        if plan.replayed {
            self.acknowledge(session, snapshot.clock).await?;
        } else {
            self.write(session, &plan, snapshot.clock).await?;
        }
        session.check_warnings()?;
        if let (Some(cluster), [partition]) = (self.cluster, self.group.partitions.as_slice()) {
            let new = plan.partition_rows.new_topics.first().and_then(|&new| u64::try_from(new).ok());
            cluster.counted(*partition, here + new.unwrap_or(0));
        }
        Ok(AppendResult { receipts: self.group.as_given(&plan.receipts), stored: plan.stored })
    }

    /// The second round trip: writes and commits.
    async fn write(&self, session: &Session, plan: &AppendPlan<'_>, clock: Timestamp) -> Result<()> {
        // The time is the clock's and not the partition's: an imported row can set that a century ahead, and the
        // attempt would then be kept for a century.
        let write = WriteTx { attempt: self.attempt.as_slice(), at: clock.as_micros(), plan };
        let written = pipelined4(
            write.new_topics(session),
            write.rows(session),
            self.prune_attempts(session, clock),
            session.run("COMMIT"),
        )
        .await;
        written.map(drop).map_err(unique_is_corrupt)
    }

    /// Deletes the rows of attempts that nobody will repeat. One append in [`PRUNED_ONCE_IN`] does this, in one of its
    /// partitions. The attempt's id chooses both, because it is random.
    async fn prune_attempts(&self, session: &Session, clock: Timestamp) -> Result<()> {
        let chance = u128::from_be_bytes(self.attempt);
        if !chance.is_multiple_of(PRUNED_ONCE_IN) {
            return Ok(());
        }
        let partitions = &self.partitions;
        let one = usize::try_from(chance / PRUNED_ONCE_IN % partitions.len() as u128).unwrap_or(0);
        let limit = signed(PRUNED * partitions.len() as u64);
        let parameters: [&(dyn ToSql + Sync); 3] = [&partitions[one], &self.oldest_kept(clock), &limit];
        session.execute(&session.statements.append().prune_appends, &parameters).await.map(drop)
    }

    /// Commits again an append that is already committed. This commit waits for the disk and the standbys; the first
    /// one, whose answer was lost, may not have.
    async fn acknowledge(&self, session: &Session, clock: Timestamp) -> Result<()> {
        let (attempt, clock) = (self.attempt.as_slice(), clock.as_micros());
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.partitions, &attempt, &clock];
        let touch = session.execute(&session.statements.append().touch_append, &parameters);
        pipelined(touch, session.run("COMMIT")).await.map(drop)
    }

    fn oldest_kept(&self, clock: Timestamp) -> i64 {
        // An attempt must be found for as long as a caller can still retry it.
        let kept = self.options.attempts_kept.max(self.options.deadline * 2);
        clock.as_micros().saturating_sub(i64::try_from(kept.as_micros()).unwrap_or(i64::MAX))
    }
}

/// How the topics of all partitions are counted.
pub(crate) struct TopicCount<'a> {
    pub(crate) cluster: Option<&'a Cluster>,
    /// The partitions that are locked, and how many topics they have.
    pub(crate) partitions: &'a [i32],
    pub(crate) here: u64,
}

impl TopicCount<'_> {
    async fn count(&self, session: &Session) -> Result<u64> {
        if let Some(cluster) = self.cluster {
            return Ok(cluster.topics_beside(self.partitions).saturating_add(self.here));
        }
        let counted = session.query(&session.statements.append().count_topics, &[]).await?;
        counted.first().map_or(Ok(0), |row| get_u64(row, 0))
    }
}

/// Refuses the items whose new topics would exceed `max_topics`. `names` gives each item's topic, in order. The topics
/// of all partitions are counted only if one of the names is new.
pub(crate) async fn check_topics<'t, I: Iterator<Item = &'t str>>(
    session: &Session,
    max_topics: u64,
    count: TopicCount<'_>,
    names: impl Fn() -> I,
    is_known: impl Fn(&str) -> bool,
) -> Result<()> {
    if names().all(&is_known) {
        return Ok(());
    }
    let total = count.count(session).await?;
    let mut new = HashSet::new();
    let mut faults = Vec::new();
    for (index, name) in names().enumerate() {
        if is_known(name) || new.contains(name) {
            continue;
        }
        if total + (new.len() as u64) < max_topics {
            new.insert(name);
        } else {
            faults.push(Fault { index: Some(index), error: too_many_topics(max_topics) });
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(StoreError::Invalid(faults).into()) }
}

/// Turns a violated unique constraint into [`StoreError::Corrupt`]: the row exists, but the lookup did not find it.
pub(crate) fn unique_is_corrupt(failure: Failure) -> Failure {
    match failure {
        Failure::Postgres(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            let what = "the lookup did not find an event that exists".into();
            StoreError::Corrupt { what, source: Some(error.into()) }.into()
        }
        other => other,
    }
}
