//! The first round trip of an append: locks the partitions and reads what the database knows about the events.

use std::collections::HashMap;

use aggregator_core::{EventRef, Scope, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Append;
use super::plan::{AppendSnapshot, KeptPayload, Original, PartitionSnapshot, TopicRow};
use super::sorted_events::SortedEvents;
use crate::columns::{digest_of, get, get_u64, partition_number, scope, sequence, signed};
use crate::connection::pipeline::pipelined4;
use crate::connection::session::Session;
use crate::fault::{Failure, Result};
use crate::partition_state::PartitionState;

/// The identities to look up, column by column.
#[derive(Default)]
struct IdentityQuery<'e> {
    /// Positions in the commit group.
    positions: Vec<usize>,
    partitions: Vec<i32>,
    topic_ids: Vec<i64>,
    event_ids: Vec<&'e str>,
    source_keys: Vec<&'e str>,
    lengths: Vec<i64>,
}

impl<'e> IdentityQuery<'e> {
    /// The identities of all topics whose id is known. `topics` has one item for each topic of the group.
    fn new(group: &SortedEvents<'e>, topics: impl Iterator<Item = Option<(i64, Scope)>>) -> Self {
        let mut asked = Self::default();
        for (run, topic) in group.topics.iter().zip(topics) {
            let Some((id, scope)) = topic else { continue };
            let events = &group.sorted[run.events.clone()];
            asked.positions.extend(run.events.clone());
            asked.partitions.extend(events.iter().map(|_| partition_number(run.partition)));
            asked.topic_ids.extend(events.iter().map(|_| id));
            asked.event_ids.extend(events.iter().map(EventRef::event_id));
            asked.source_keys.extend(events.iter().map(|event| scope.key(event.source())));
            asked.lengths.extend(events.iter().map(|event| signed(event.payload().len() as u64)));
        }
        asked
    }
}

impl Append<'_, '_> {
    pub(super) async fn begin(&self, session: &Session) -> Result<AppendSnapshot> {
        let names: Vec<_> = self.group.topics.iter().map(|topic| topic.name).collect();
        let guesses = self.topic_ids.of(&names);
        let asked = IdentityQuery::new(&self.group, guesses.iter().copied());
        let ((), states, topics, mut originals) = pipelined4(
            session.begin(),
            self.lock(session),
            self.topics(session, &names),
            self.originals(session, &asked),
        )
        .await?;
        let states = PartitionState::all(&self.partitions, &states, self.options)?;
        let clock = states.iter().map(|state| state.clock).max().unwrap_or(Timestamp::MIN);
        let partitions = self.partitions_of(&states, clock, &topics)?;
        let topics = topics.iter().filter_map(|row| topic(row).transpose()).collect::<Result<_>>()?;
        self.ask_again(session, &names, &guesses, &topics, &mut originals).await?;
        if partitions.iter().any(|partition| partition.replayed.is_some()) {
            originals = self.originals_of_attempt(session, &names, &partitions, &topics).await?;
        }
        Ok(AppendSnapshot { clock, partitions, topics, originals })
    }

    async fn lock(&self, session: &Session) -> Result<Vec<Row>> {
        let statements = session.statements.append();
        match self.partitions.as_slice() {
            [one] => session.query(&statements.lock, &[one]).await,
            several => session.query(&statements.lock_several, &[&several]).await,
        }
    }

    /// Rows for this attempt, if it was committed before, and for the topics of the group that exist.
    async fn topics(&self, session: &Session, names: &[&str]) -> Result<Vec<Row>> {
        let statements = session.statements.append();
        let attempt = &self.attempt.as_slice();
        match self.partitions.as_slice() {
            [one] => session.query(&statements.topics, &[one, attempt, &names]).await,
            several => {
                let partitions: Vec<_> =
                    self.group.topics.iter().map(|topic| partition_number(topic.partition)).collect();
                let parameters: [&(dyn ToSql + Sync); 4] = [&several, attempt, &partitions, &names];
                session.query(&statements.topics_several, &parameters).await
            }
        }
    }

    /// What is stored under these identities, by position in the group.
    async fn originals(
        &self,
        session: &Session,
        asked: &IdentityQuery<'_>,
    ) -> Result<HashMap<usize, Original>> {
        if asked.positions.is_empty() {
            return Ok(HashMap::new());
        }
        let statements = session.statements.append();
        let (statement, partition): (_, &(dyn ToSql + Sync)) = match self.partitions.as_slice() {
            [one] => (&statements.originals, one),
            _ => (&statements.originals_several, &asked.partitions),
        };
        let parameters: [&(dyn ToSql + Sync); 5] =
            [partition, &asked.topic_ids, &asked.event_ids, &asked.source_keys, &asked.lengths];
        let rows = session.query(statement, &parameters).await?;
        rows.iter().map(|row| original(row, &asked.positions)).collect()
    }

    /// Looks up again the identities whose topic id was unknown or guessed wrong.
    async fn ask_again(
        &self,
        session: &Session,
        names: &[&str],
        guesses: &[Option<(i64, Scope)>],
        topics: &HashMap<String, TopicRow>,
        originals: &mut HashMap<usize, Original>,
    ) -> Result<()> {
        let truth = names.iter().map(|&name| topics.get(name).map(|topic| (topic.id, topic.scope)));
        let asked = IdentityQuery::new(
            &self.group,
            truth.clone().zip(guesses).map(|(truth, &guess)| truth.filter(|_| truth != guess)),
        );
        for ((topic, truth), &guess) in self.group.topics.iter().zip(truth).zip(guesses) {
            if truth == guess {
                continue;
            }
            if guess.is_some() {
                originals.retain(|position, _| !topic.events.contains(position));
            }
            if let Some(truth) = truth {
                self.topic_ids.learn(topic.name, truth);
            }
        }
        originals.extend(self.originals(session, &asked).await?);
        Ok(())
    }

    /// What was stored under the identities when this attempt, which was committed before, had stored its events. Since
    /// then some may have been released, and may have come again.
    async fn originals_of_attempt(
        &self,
        session: &Session,
        names: &[&str],
        partitions: &[PartitionSnapshot],
        topics: &HashMap<String, TopicRow>,
    ) -> Result<HashMap<usize, Original>> {
        let known = names.iter().map(|&name| topics.get(name).map(|topic| (topic.id, topic.scope)));
        let asked = IdentityQuery::new(&self.group, known);
        let end_of = |partition: &PartitionSnapshot| {
            let end = partition.replayed.as_ref().map_or(0, |offsets| *offsets.end());
            (partition_number(partition.partition), end)
        };
        let ends: HashMap<i32, u64> = partitions.iter().map(end_of).collect();
        let ends: HashMap<usize, u64> = asked
            .positions
            .iter()
            .zip(&asked.partitions)
            .map(|(&at, partition)| (at, ends[partition]))
            .collect();
        let statements = session.statements.append();
        let (statement, partition): (_, &(dyn ToSql + Sync)) = match self.partitions.as_slice() {
            [one] => (&statements.all_originals, one),
            _ => (&statements.all_originals_several, &asked.partitions),
        };
        let parameters: [&(dyn ToSql + Sync); 5] =
            [partition, &asked.topic_ids, &asked.event_ids, &asked.source_keys, &asked.lengths];
        let mut newest: HashMap<usize, Original> = HashMap::new();
        for row in session.query(statement, &parameters).await? {
            let (position, original) = original(&row, &asked.positions)?;
            let is_newer = newest.get(&position).is_none_or(|newest| newest.offset < original.offset);
            if is_newer && original.offset <= ends[&position] {
                newest.insert(position, original);
            }
        }
        Ok(newest)
    }

    /// The state of each partition. All take `clock` as their time, except those whose newest event is later.
    fn partitions_of(
        &self,
        states: &[PartitionState],
        clock: Timestamp,
        rows: &[Row],
    ) -> Result<Vec<PartitionSnapshot>> {
        let mut attempts = HashMap::new();
        for row in rows {
            if let Some(partition) = get::<Option<i32>>(row, 0)? {
                attempts.insert(partition, get_u64(row, 1)?..=get_u64(row, 2)?);
            }
        }
        let partitions =
            self.group.partitions.iter().zip(states).map(|(&partition, state)| PartitionSnapshot {
                partition,
                last_offset: state.last_offset,
                topic_count: state.topic_count,
                now: clock.max(state.newest),
                replayed: attempts.remove(&partition_number(partition)),
            });
        Ok(partitions.collect())
    }
}

/// `None` if the row describes the attempt and no topic.
fn topic(row: &Row) -> Result<Option<(String, TopicRow)>> {
    let Some(name) = get(row, 3)? else { return Ok(None) };
    let topic = TopicRow { id: get(row, 4)?, scope: scope(get(row, 5)?)?, last_seq: get_u64(row, 6)? };
    Ok(Some((name, topic)))
}

/// `positions` has the position of each identity that was asked for.
fn original(row: &Row, positions: &[usize]) -> Result<(usize, Original)> {
    // Ordinals begin at 1.
    let at = usize::try_from(get_u64(row, 0)?).ok().and_then(|at| positions.get(at.checked_sub(1)?));
    let &position = at.ok_or_else(|| Failure::corrupt("an identity was found that was not asked for"))?;
    let purged: bool = get(row, 4)?;
    let kept =
        if purged { KeptPayload::Digest(digest_of(row, 5)?) } else { KeptPayload::Payload(get(row, 6)?) };
    let original = Original {
        offset: get_u64(row, 1)?,
        seq: sequence(row, 2)?,
        processed_at: Timestamp::from_micros(get(row, 3)?),
        kept,
    };
    Ok((position, original))
}
