//! The transaction of an append: two round trips, everything in each of them sent at once.
//!
//! The server runs statements in the order they were sent, each with a snapshot of its own (READ COMMITTED).
//! So what comes after the lock on the partition's row sees everything that was committed before the lock was
//! obtained, and commits of one partition are in the order of their offsets.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use aggregator_core::store::backend::too_many_topics;
use aggregator_core::{
    AttemptId, EventRef, Fault, Outcome, Partition, Receipt, Scope, StoreError, Timestamp,
};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::PostgresOptions;
use crate::details::{digest_of, sequence};
use crate::fault::{Failure, Result, get, get_u64, signed, unavailable};
use crate::group::{Kept, Known, Original, Plan, TopicRow, Topics, in_order, scope, topic_names};
use crate::pipeline::{pipelined, pipelined4};
use crate::session::Session;
use crate::topics::TopicIds;

/// How many appends come to one that forgets old attempts, which is one statement more. It forgets more of them than
/// come to it.
const PRUNED_ONCE_IN: u128 = 16;

/// What an append came to.
pub(crate) struct Appended {
    pub(crate) receipts: Vec<Receipt>,
    /// The partition's last offset, if something was stored.
    pub(crate) last_offset: Option<u64>,
}

/// Identities to be asked for, column by column.
#[derive(Default)]
struct Asked<'e> {
    /// In the group.
    positions: Vec<usize>,
    topic_ids: Vec<i64>,
    event_ids: Vec<&'e str>,
    source_keys: Vec<&'e str>,
    lengths: Vec<i64>,
}

impl<'e> Asked<'e> {
    /// Those of the topics that have an id here; there is an item for each topic of the group.
    fn new(sorted: &[EventRef<'e>], topics: impl Iterator<Item = Option<(i64, Scope)>>) -> Self {
        let mut asked = Self::default();
        let mut position = 0;
        for (run, topic) in sorted.chunk_by(|a, b| a.topic() == b.topic()).zip(topics) {
            if let Some((id, scope)) = topic {
                asked.positions.extend(position..position + run.len());
                asked.topic_ids.extend(run.iter().map(|_| id));
                asked.event_ids.extend(run.iter().map(EventRef::event_id));
                asked.source_keys.extend(run.iter().map(|event| scope.key(event.source())));
                asked.lengths.extend(run.iter().map(|event| signed(event.payload().len() as u64)));
            }
            position += run.len();
        }
        asked
    }
}

/// One append, however often it has to be tried.
pub(crate) struct Append<'a, 'e> {
    options: &'a PostgresOptions,
    topic_ids: &'a TopicIds,
    partition: i32,
    attempt: [u8; 16],
    given: &'a [EventRef<'e>],
    order: Vec<usize>,
    sorted: Vec<EventRef<'e>>,
}

impl<'a, 'e> Append<'a, 'e> {
    pub(crate) fn new(
        options: &'a PostgresOptions,
        topic_ids: &'a TopicIds,
        partition: Partition,
        attempt: AttemptId,
        given: &'a [EventRef<'e>],
    ) -> Self {
        let (order, sorted) = in_order(given);
        let attempt = attempt.as_u128().to_be_bytes();
        Self { options, topic_ids, partition: i32::from(partition.0), attempt, given, order, sorted }
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
        let guesses = self.topic_ids.of(&names);
        let asked = Asked::new(&self.sorted, guesses.iter().copied());
        let ((), tail, topics, mut originals) = pipelined4(
            session.run("BEGIN ISOLATION LEVEL READ COMMITTED"),
            session.query(&statements.lock, &[partition]),
            session.query(&statements.topics, &[partition, attempt, &names]),
            self.originals(session, &asked),
        )
        .await?;
        let replayed = replayed(&topics)?;
        let topics = topics.iter().filter_map(|row| topic(row).transpose()).collect::<Result<_>>()?;
        self.ask_again(session, &names, &guesses, &topics, &mut originals).await?;
        let tail = Tail::new(self.partition, &tail, self.options)?;
        let now = tail.clock.max(tail.newest);
        let Tail { last_offset, topic_count, clock, .. } = tail;
        Ok(Known { last_offset, topic_count, clock, now, topics, originals, replayed })
    }

    /// What is stored under these identities, by position in the group.
    async fn originals(&self, session: &Session, asked: &Asked<'_>) -> Result<HashMap<usize, Original>> {
        if asked.positions.is_empty() {
            return Ok(HashMap::new());
        }
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&self.partition, &asked.topic_ids, &asked.event_ids, &asked.source_keys, &asked.lengths];
        let rows = session.query(&session.statements.append().originals, &parameters).await?;
        rows.iter().map(|row| original(row, &asked.positions)).collect()
    }

    /// Asks for the identities of topics that were not known, or are not what they were thought to be.
    async fn ask_again(
        &self,
        session: &Session,
        names: &[&str],
        guesses: &[Option<(i64, Scope)>],
        topics: &HashMap<String, TopicRow>,
        originals: &mut HashMap<usize, Original>,
    ) -> Result<()> {
        let truth = names.iter().map(|&name| topics.get(name).map(|topic| (topic.id, topic.scope)));
        let asked = Asked::new(
            &self.sorted,
            truth.clone().zip(guesses).map(|(truth, &guess)| truth.filter(|_| truth != guess)),
        );
        for ((&name, truth), &guess) in names.iter().zip(truth).zip(guesses) {
            if truth == guess {
                continue;
            }
            if guess.is_some() {
                originals.retain(|&position, _| self.sorted[position].topic() != name);
            }
            if let Some(truth) = truth {
                self.topic_ids.learn(name, truth);
            }
        }
        originals.extend(self.originals(session, &asked).await?);
        Ok(())
    }

    /// The second round trip: writes and commits.
    async fn write(&self, session: &Session, known: &Known, plan: &Plan<'_>) -> Result<()> {
        let (before, now) = (signed(known.last_offset), known.now.as_micros());
        // Not `now`, which a row that was imported can take a century ahead: attempts would be forgotten at once.
        let clock = known.clock.as_micros();
        let stored = signed(plan.events.count() as u64);
        let new_topics = signed(plan.new_topics.ids.len() as u64);
        let last_offset = before + stored;
        let (events, topics) = (&plan.events, &plan.old_topics);
        let attempt = self.attempt.as_slice();
        let columns: [&(dyn ToSql + Sync); 27] = [
            &self.partition,
            &before,
            &now,
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
            &topics.ids,
            &topics.names,
            &topics.slots,
            &topics.scopes,
            &topics.last_seqs,
            &topics.duplicates,
            &topics.conflicts,
            &attempt,
            &last_offset,
            &clock,
            &new_topics,
            &stored,
            &plan.duplicates,
            &plan.conflicts,
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
            &self.partition,
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

    /// Forgets attempts nobody will ask for. One append in so many does, by chance: an attempt's id is random.
    async fn prune_attempts(&self, session: &Session, clock: i64) -> Result<()> {
        if !u128::from_be_bytes(self.attempt).is_multiple_of(PRUNED_ONCE_IN) {
            return Ok(());
        }
        let parameters: [&(dyn ToSql + Sync); 2] = [&self.partition, &self.oldest_kept(clock)];
        session.execute(&session.statements.append().prune_appends, &parameters).await.map(drop)
    }

    /// Commits an append that is committed already, so that it is on the disk and the standbys now, whatever
    /// kept the first commit's answer.
    async fn acknowledge(&self, session: &Session, clock: Timestamp) -> Result<()> {
        let (attempt, clock) = (self.attempt.as_slice(), clock.as_micros());
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.partition, &attempt, &clock];
        let touch = session.execute(&session.statements.append().touch_append, &parameters);
        pipelined(touch, session.run("COMMIT")).await.map(drop)
    }

    fn oldest_kept(&self, clock: i64) -> i64 {
        // Whoever may still try an attempt has to find it.
        let kept = self.options.attempts_kept.max(self.options.deadline * 2);
        clock.saturating_sub(i64::try_from(kept.as_micros()).unwrap_or(i64::MAX))
    }
}

/// How a partition ends, as its lock says it, and what time it was then.
pub(crate) struct Tail {
    pub(crate) last_offset: u64,
    pub(crate) newest: Timestamp,
    pub(crate) topic_count: u64,
    pub(crate) clock: Timestamp,
}

impl Tail {
    /// If the server is one that may be written to.
    pub(crate) fn new(partition: i32, rows: &[Row], options: &PostgresOptions) -> Result<Self> {
        let [row] = rows else {
            return Err(Failure::corrupt(format!("partition {partition} has no row")));
        };
        // Asked for each append: it may be another server by now, or other settings.
        if options.require_sync_standby && get::<&str>(row, 4)?.is_empty() {
            return Err(unavailable("the server asks for no synchronous standby any more").into());
        }
        Ok(Self {
            last_offset: get_u64(row, 0)?,
            newest: Timestamp::from_micros(get(row, 1)?),
            topic_count: get_u64(row, 2)?,
            clock: match &options.clock {
                Some(clock) => clock(),
                None => Timestamp::from_micros(get(row, 3)?),
            },
        })
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

/// The offsets that this attempt stored, if it was committed before.
fn replayed(rows: &[Row]) -> Result<Option<RangeInclusive<u64>>> {
    let [row, ..] = rows else { return Err(Failure::corrupt("the query for an attempt has no row")) };
    match get::<Option<i64>>(row, 0)? {
        Some(_) => Ok(Some(get_u64(row, 0)?..=get_u64(row, 1)?)),
        None => Ok(None),
    }
}

/// None in the row that is there if no topic is.
fn topic(row: &Row) -> Result<Option<(String, TopicRow)>> {
    let Some(name) = get(row, 2)? else { return Ok(None) };
    let topic = TopicRow { id: get(row, 3)?, scope: scope(get(row, 4)?)?, last_seq: get_u64(row, 5)? };
    Ok(Some((name, topic)))
}

/// `positions` are those of the identities that were asked for.
fn original(row: &Row, positions: &[usize]) -> Result<(usize, Original)> {
    // Ordinals begin at 1.
    let at = usize::try_from(get_u64(row, 0)?).ok().and_then(|at| positions.get(at.checked_sub(1)?));
    let &position = at.ok_or_else(|| Failure::corrupt("an identity was found that was not asked for"))?;
    let purged: bool = get(row, 4)?;
    let kept = if purged { Kept::Digest(digest_of(row, 5)?) } else { Kept::Payload(get(row, 6)?) };
    let original = Original {
        offset: get_u64(row, 1)?,
        seq: sequence(row, 2)?,
        processed_at: Timestamp::from_micros(get(row, 3)?),
        kept,
    };
    Ok((position, original))
}
