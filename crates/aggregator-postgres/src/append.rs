//! The transaction of an append: two round trips, everything in each of them sent at once.
//!
//! The server runs statements in the order they were sent, each with a snapshot of its own (READ COMMITTED).
//! So what comes after the lock on the partition's row sees everything that was committed before the lock was
//! obtained, and commits of one partition are in the order of their offsets.

use std::collections::HashSet;

use aggregator_core::store::backend::too_many_topics;
use aggregator_core::{AttemptId, EventRef, Fault, Outcome, Partition, Receipt, StoreError, Timestamp};
use futures_util::future::{try_join, try_join5};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::PostgresOptions;
use crate::details::{digest_of, sequence};
use crate::fault::{Failure, Result, get, get_u64, signed, unavailable};
use crate::group::{Kept, Known, Original, Plan, TopicRow, in_order, scope, topic_names};
use crate::session::Session;

/// What an append came to.
pub(crate) struct Appended {
    pub(crate) receipts: Vec<Receipt>,
    /// The partition's last offset, if something was stored.
    pub(crate) last_offset: Option<u64>,
}

/// One append, however often it has to be tried.
pub(crate) struct Append<'a, 'e> {
    options: &'a PostgresOptions,
    partition: i32,
    attempt: [u8; 16],
    given: &'a [EventRef<'e>],
    order: Vec<usize>,
    sorted: Vec<EventRef<'e>>,
}

impl<'a, 'e> Append<'a, 'e> {
    pub(crate) fn new(
        options: &'a PostgresOptions,
        partition: Partition,
        attempt: AttemptId,
        given: &'a [EventRef<'e>],
    ) -> Self {
        let (order, sorted) = in_order(given);
        let attempt = attempt.as_u128().to_be_bytes();
        Self { options, partition: i32::from(partition.0), attempt, given, order, sorted }
    }

    /// The whole transaction. After an error the session may be inside of it.
    pub(crate) async fn transact(&self, session: &Session) -> Result<Appended> {
        session.heed_warnings();
        let mut known = self.begin(session).await?;
        let before = known.last_offset;
        let names = || self.given.iter().map(EventRef::topic);
        let is_known = |name: &str| known.topics.contains_key(name);
        check_topics(session, self.options.max_topics, names, is_known).await?;
        let replayed = known.replayed.is_some();
        let plan = Plan::new(&mut known, &self.sorted)?;
        if replayed {
            self.acknowledge(session, known.clock).await?;
        } else {
            self.write(session, &known, &plan).await?;
        }
        session.check_warnings()?;
        let stored = plan.receipts.iter().any(|receipt| receipt.outcome == Outcome::Stored);
        let last_offset = known.replayed.map_or(before + plan.events.count() as u64, |range| *range.end());
        Ok(Appended { receipts: plan.receipts(&self.order), last_offset: stored.then_some(last_offset) })
    }

    /// The first round trip: takes the partition's lock and learns all that is known of the events.
    async fn begin(&self, session: &Session) -> Result<Known> {
        let statements = session.statements.append();
        let (partition, attempt) = (&self.partition, &self.attempt.as_slice());
        let names = topic_names(&self.sorted);
        let topics: Vec<_> = self.sorted.iter().map(EventRef::topic).collect();
        let event_ids: Vec<_> = self.sorted.iter().map(EventRef::event_id).collect();
        let sources: Vec<_> = self.sorted.iter().map(EventRef::source).collect();
        let lengths: Vec<_> = self.sorted.iter().map(|event| signed(event.payload().len() as u64)).collect();
        let ((), (tail, clock, attempts, topics, originals)) = try_join(
            session.run("BEGIN ISOLATION LEVEL READ COMMITTED"),
            try_join5(
                session.query(&statements.lock, &[partition]),
                session.query(&statements.clock, &[]),
                session.query(&statements.attempt, &[partition, attempt]),
                session.query(&statements.topics, &[partition, &names]),
                session.query(&statements.originals, &[partition, &topics, &event_ids, &sources, &lengths]),
            ),
        )
        .await?;
        let [tail] = tail.as_slice() else {
            return Err(Failure::corrupt(format!("partition {partition} has no row")));
        };
        let clock = time(self.options, &clock)?;
        let now = clock.max(Timestamp::from_micros(get(tail, 1)?));
        Ok(Known {
            last_offset: get_u64(tail, 0)?,
            topic_count: get_u64(tail, 2)?,
            clock,
            now,
            topics: topics.iter().map(topic).collect::<Result<_>>()?,
            originals: originals.iter().map(original).collect::<Result<_>>()?,
            replayed: match attempts.first() {
                Some(row) => Some(get_u64(row, 0)?..=get_u64(row, 1)?),
                None => None,
            },
        })
    }

    /// The second round trip: writes and commits.
    async fn write(&self, session: &Session, known: &Known, plan: &Plan<'_>) -> Result<()> {
        let statements = session.statements.append();
        let partition = &self.partition;
        let (before, now) = (signed(known.last_offset), known.now.as_micros());
        // Not `now`, which a row that was imported can take a century ahead: attempts would be forgotten at once.
        let clock = known.clock.as_micros();
        let stored = signed(plan.events.count() as u64);
        let new_topics = signed(plan.new_topics.ids.len() as u64);
        let last_offset = before + stored;
        let written = try_join(
            try_join5(
                self.write_events(session, before, now, plan),
                self.write_topics(session, plan),
                session.execute(
                    &statements.update_partition,
                    &[partition, &last_offset, &now, &new_topics, &stored, &plan.duplicates, &plan.conflicts],
                ),
                session.execute(
                    &statements.insert_append,
                    &[partition, &self.attempt.as_slice(), &(before + 1), &last_offset, &clock],
                ),
                session.execute(&statements.prune_appends, &[partition, &self.oldest_kept(clock)]),
            ),
            session.run("COMMIT"),
        )
        .await;
        written.map(drop).map_err(unique_is_corrupt)
    }

    async fn write_events(&self, session: &Session, before: i64, now: i64, plan: &Plan<'_>) -> Result<()> {
        let new = &plan.events;
        if new.count() == 0 {
            return Ok(());
        }
        let statement = &session.statements.append().insert_events;
        let inserted = session
            .execute(
                statement,
                &[
                    &self.partition,
                    &before,
                    &now,
                    &new.topic_ids,
                    &new.seqs,
                    &new.event_ids,
                    &new.sources,
                    &new.by_source,
                    &new.timestamps,
                    &new.payloads,
                    &new.sequences,
                    &new.content_types,
                    &new.attributes,
                ],
            )
            .await?;
        debug_assert_eq!(inserted, new.count() as u64);
        Ok(())
    }

    async fn write_topics(&self, session: &Session, plan: &Plan<'_>) -> Result<()> {
        let statements = session.statements.append();
        let (new, old) = (&plan.new_topics, &plan.old_topics);
        let insert = async {
            if new.ids.is_empty() {
                return Ok(0);
            }
            let counts: [&(dyn ToSql + Sync); 8] = [
                &self.partition,
                &new.ids,
                &new.names,
                &new.slots,
                &new.scopes,
                &new.last_seqs,
                &new.duplicates,
                &new.conflicts,
            ];
            session.execute(&statements.insert_topics, &counts).await
        };
        let update = async {
            if old.ids.is_empty() {
                return Ok(0);
            }
            let counts: [&(dyn ToSql + Sync); 5] =
                [&self.partition, &old.ids, &old.last_seqs, &old.duplicates, &old.conflicts];
            session.execute(&statements.update_topics, &counts).await
        };
        try_join(insert, update).await.map(drop)
    }

    /// Commits an append that is committed already, so that it is on the disk and the standbys now, whatever
    /// kept the first commit's answer.
    async fn acknowledge(&self, session: &Session, clock: Timestamp) -> Result<()> {
        let (attempt, clock) = (self.attempt.as_slice(), clock.as_micros());
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.partition, &attempt, &clock];
        let touch = session.execute(&session.statements.append().touch_append, &parameters);
        try_join(touch, session.run("COMMIT")).await.map(drop)
    }

    fn oldest_kept(&self, clock: i64) -> i64 {
        // Whoever may still try an attempt has to find it.
        let kept = self.options.attempts_kept.max(self.options.deadline * 2);
        clock.saturating_sub(i64::try_from(kept.as_micros()).unwrap_or(i64::MAX))
    }
}

/// What time it is, if the server is one that may be written to.
pub(crate) fn time(options: &PostgresOptions, rows: &[Row]) -> Result<Timestamp> {
    let [clock] = rows else { return Err(Failure::corrupt("the database has no clock")) };
    // Asked for each append: it may be another server by now, or other settings.
    if options.require_sync_standby && get::<&str>(clock, 1)?.is_empty() {
        return Err(unavailable("the server asks for no synchronous standby any more").into());
    }
    Ok(match &options.clock {
        Some(clock) => clock(),
        None => Timestamp::from_micros(get(clock, 0)?),
    })
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

fn topic(row: &Row) -> Result<(String, TopicRow)> {
    let topic = TopicRow { id: get(row, 1)?, scope: scope(get(row, 2)?)?, last_seq: get_u64(row, 3)? };
    Ok((get(row, 0)?, topic))
}

fn original(row: &Row) -> Result<(usize, Original)> {
    let position = usize::try_from(get_u64(row, 0)?).unwrap_or(usize::MAX);
    let purged: bool = get(row, 4)?;
    let kept = if purged { Kept::Digest(digest_of(row, 5)?) } else { Kept::Payload(get(row, 6)?) };
    let original = Original {
        offset: get_u64(row, 1)?,
        seq: sequence(row, 2)?,
        processed_at: Timestamp::from_micros(get(row, 3)?),
        kept,
    };
    // Ordinals begin at 1.
    Ok((position - 1, original))
}
