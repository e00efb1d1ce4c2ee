//! The transaction of an append: two round trips, everything in each of them sent at once.
//!
//! The server runs statements in the order they were sent, each with a snapshot of its own (READ COMMITTED).
//! So what comes after the locks on the partitions' rows sees everything that was committed before they were
//! obtained, and commits of one partition are in the order of their offsets.

mod begin;

use std::collections::HashSet;

use aggregator_core::store::backend::too_many_topics;
use aggregator_core::{AttemptId, EventRef, Fault, Partition, Partitions, Receipt, StoreError, Timestamp};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::PostgresOptions;
use crate::fault::{Failure, Result, get_u64, signed};
use crate::group::{Group, Plan, Topics, column};
use crate::pipeline::{pipelined, pipelined4};
use crate::session::Session;
use crate::topics::TopicIds;

/// How many appends come to one that forgets old attempts, which is one statement more.
const PRUNED_ONCE_IN: u128 = 16;
/// How many it forgets for each partition that is appended to: more than come to it.
const PRUNED: u64 = 200;

/// What an append came to.
pub(crate) struct Appended {
    pub(crate) receipts: Vec<Receipt>,
    /// The partitions in which something was stored, with the last offset of it.
    pub(crate) stored: Vec<(Partition, u64)>,
}

/// One append, however often it has to be tried.
pub(crate) struct Append<'a, 'e> {
    options: &'a PostgresOptions,
    topic_ids: &'a TopicIds,
    attempt: [u8; 16],
    given: &'a [EventRef<'e>],
    group: Group<'e>,
    /// The group's, as the database has them.
    partitions: Vec<i32>,
}

impl<'a, 'e> Append<'a, 'e> {
    pub(crate) fn new(
        options: &'a PostgresOptions,
        topic_ids: &'a TopicIds,
        partitions: Partitions,
        attempt: AttemptId,
        given: &'a [EventRef<'e>],
    ) -> Self {
        let attempt = attempt.as_u128().to_be_bytes();
        let group = Group::new(partitions, given);
        let partitions = group.partitions.iter().copied().map(column).collect();
        Self { options, topic_ids, attempt, given, group, partitions }
    }

    /// The whole transaction. After an error the session may be inside of it.
    pub(crate) async fn transact(&self, session: &Session) -> Result<Appended> {
        session.forget_warnings();
        let mut known = self.begin(session).await?;
        let names = || self.given.iter().map(EventRef::topic);
        let is_known = |name: &str| known.topics.contains_key(name);
        check_topics(session, self.options.max_topics, names, is_known).await?;
        let plan = Plan::new(&mut known, &self.group)?;
        if plan.replayed {
            self.acknowledge(session, known.clock).await?;
        } else {
            self.write(session, &plan, known.clock).await?;
        }
        session.check_warnings()?;
        Ok(Appended { receipts: self.group.as_given(&plan.receipts), stored: plan.stored })
    }

    /// The second round trip: writes and commits.
    async fn write(&self, session: &Session, plan: &Plan<'_>, clock: Timestamp) -> Result<()> {
        let (events, topics, parts) = (&plan.events, &plan.old_topics, &plan.parts);
        // Not a partition's time, which a row that was imported can take a century ahead: attempts would be forgotten
        // at once.
        let (attempt, at) = (self.attempt.as_slice(), clock.as_micros());
        let columns: [&(dyn ToSql + Sync); 31] = [
            &events.partitions,
            &events.offsets,
            &events.topic_ids,
            &events.seqs,
            &events.event_ids,
            &events.sources,
            &events.by_source,
            &events.timestamps,
            &events.payloads,
            &events.sequences,
            &events.content_types,
            &events.attributes,
            &events.processed_at,
            &topics.partitions,
            &topics.ids,
            &topics.names,
            &topics.slots,
            &topics.scopes,
            &topics.last_seqs,
            &topics.duplicates,
            &topics.conflicts,
            &parts.partitions,
            &parts.first_offsets,
            &parts.last_offsets,
            &parts.processed_at,
            &parts.new_topics,
            &parts.stored,
            &parts.duplicates,
            &parts.conflicts,
            &attempt,
            &at,
        ];
        let written = pipelined4(
            self.insert_topics(session, &plan.new_topics),
            session.execute(&session.statements.append().write, &columns),
            self.prune_attempts(session, clock),
            session.run("COMMIT"),
        )
        .await;
        written.map(drop).map_err(unique_is_corrupt)
    }

    async fn insert_topics(&self, session: &Session, topics: &Topics<'_>) -> Result<()> {
        if topics.ids.is_empty() {
            return Ok(());
        }
        let columns: [&(dyn ToSql + Sync); 8] = [
            &topics.partitions,
            &topics.ids,
            &topics.names,
            &topics.slots,
            &topics.scopes,
            &topics.last_seqs,
            &topics.duplicates,
            &topics.conflicts,
        ];
        session.execute(&session.statements.append().insert_topics, &columns).await.map(drop)
    }

    /// Forgets attempts nobody will ask for. One append in so many does, in one of its partitions, by chance: an
    /// attempt's id is random.
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

    /// Commits an append that is committed already, so that it is on the disk and the standbys now, whatever
    /// kept the first commit's answer.
    async fn acknowledge(&self, session: &Session, clock: Timestamp) -> Result<()> {
        let (attempt, clock) = (self.attempt.as_slice(), clock.as_micros());
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.partitions, &attempt, &clock];
        let touch = session.execute(&session.statements.append().touch_append, &parameters);
        pipelined(touch, session.run("COMMIT")).await.map(drop)
    }

    fn oldest_kept(&self, clock: Timestamp) -> i64 {
        // Whoever may still try an attempt has to find it.
        let kept = self.options.attempts_kept.max(self.options.deadline * 2);
        clock.as_micros().saturating_sub(i64::try_from(kept.as_micros()).unwrap_or(i64::MAX))
    }
}

/// Refuses items whose topics, given in their order, would be too many. Counts all partitions' only if there is
/// a new topic.
pub(crate) async fn check_topics<'t, I: Iterator<Item = &'t str>>(
    session: &Session,
    max_topics: u64,
    names: impl Fn() -> I,
    is_known: impl Fn(&str) -> bool,
) -> Result<()> {
    if names().all(&is_known) {
        return Ok(());
    }
    let counted = session.query(&session.statements.append().count_topics, &[]).await?;
    let total = counted.first().map_or(Ok(0), |row| get_u64(row, 0))?;
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

/// The constraints are the last guard: what they find was there and was not found.
pub(crate) fn unique_is_corrupt(failure: Failure) -> Failure {
    match failure {
        Failure::Postgres(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            let what = "an event that was not found turned out to be there".into();
            StoreError::Corrupt { what, source: Some(error.into()) }.into()
        }
        other => other,
    }
}
