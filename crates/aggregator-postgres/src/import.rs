//! The transaction of an import. Like an append, it takes two round trips under the partition's lock. But the rows
//! bring their seqs and times, and some have no payload.
//!
//! An import needs no attempt id: if its answer is lost, it is run again and finds its rows.

mod plan;

use std::collections::HashMap;

use aggregator_core::event::{digest, slot};
use aggregator_core::store::transfer::{Found, TopicState};
use aggregator_core::store::{Import, Imported};
use aggregator_core::{Kept, Partition, Timestamp};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use crate::PostgresOptions;
use crate::append::{TopicCount, check_topics, unique_is_corrupt};
use crate::citus::Cluster;
use crate::columns::{details, digest_of, get, get_u64, scope, scope_number, sequence, signed};
use crate::connection::pipeline::{pipelined, pipelined3, pipelined4};
use crate::connection::session::Session;
use crate::fault::Result;
use crate::partition_state::PartitionState;
use plan::{ImportPlan, ImportSnapshot, NewMarks, NewRows, Original, Topic, TopicRow};

/// Payloads are fetched for their digests this many bytes at a time.
const SLICE_BYTES: u64 = 8 << 20;

/// An import. Its transaction may run several times.
pub(crate) struct ImportTx<'a> {
    options: &'a PostgresOptions,
    cluster: Option<&'a Cluster>,
    partition: i32,
    import: Import<'a>,
    /// The names of the topics, without repeats.
    names: Vec<&'a str>,
    /// Whether the table of forgotten identities exists.
    has_forgotten: bool,
}

/// A row that is stored with its payload, while the import has only a stub of it.
struct PendingDigest {
    /// That of the imported row.
    position: usize,
    offset: u64,
    bytes: u64,
}

impl<'a> ImportTx<'a> {
    pub(crate) fn new(
        options: &'a PostgresOptions,
        cluster: Option<&'a Cluster>,
        partition: Partition,
        import: Import<'a>,
        has_forgotten: bool,
    ) -> Self {
        let mut names: Vec<_> = import.topic_names().collect();
        names.sort_unstable();
        names.dedup();
        Self { options, cluster, partition: i32::from(partition.0), import, names, has_forgotten }
    }

    /// Runs the whole transaction. Returns what became of the rows, and the partition's last offset. After an error the
    /// session may still be inside the transaction.
    pub(crate) async fn transact(&self, session: &Session) -> Result<(Imported, u64)> {
        session.forget_warnings();
        let snapshot = self.begin(session).await?;
        let is_known = |name: &str| snapshot.topics.contains_key(name);
        let count =
            TopicCount { cluster: self.cluster, partitions: &[self.partition], here: snapshot.topic_count };
        check_topics(session, self.options.max_topics, count, || self.import.topic_names(), is_known).await?;
        let plan = ImportPlan::new(&snapshot, self.import)?;
        self.write(session, &plan).await?;
        session.check_warnings()?;
        if let (Some(cluster), Ok(partition)) = (self.cluster, u16::try_from(self.partition)) {
            let new = plan.topics.iter().filter(|topic| topic.is_new()).count() as u64;
            cluster.counted(Partition(partition), snapshot.topic_count + new);
        }
        Ok((plan.imported, plan.last_offset))
    }

    /// The first round trip: locks the partition, and reads what the database knows about the rows.
    async fn begin(&self, session: &Session) -> Result<ImportSnapshot> {
        let statements = session.statements.append();
        let (partition, rows) = (&self.partition, self.import.rows);
        let topics: Vec<_> = rows.iter().map(|row| row.topic.as_str()).collect();
        let event_ids: Vec<_> = rows.iter().map(|row| row.event_id.as_str()).collect();
        let sources: Vec<_> = rows.iter().map(|row| row.source()).collect();
        let lengths: Vec<_> = rows.iter().map(|row| signed(row.payload_bytes() as u64)).collect();
        let seqs: Vec<_> = rows.iter().map(|row| row.seq().map(signed)).collect();
        let known: [&(dyn ToSql + Sync); 6] = [partition, &topics, &event_ids, &sources, &lengths, &seqs];
        let ((), state, topics, originals) = pipelined4(
            session.begin(),
            session.query(&statements.lock, &[partition]),
            session.query(&statements.import_topics, &[partition, &self.names]),
            session.query(&statements.import_originals, &known),
        )
        .await?;
        // The clock is not used: rows bring their times.
        let PartitionState { last_offset, newest, topic_count, .. } =
            PartitionState::one(self.partition, &state, self.options)?;
        let mut topics = topics.iter().map(topic).collect::<Result<_>>()?;
        self.forgotten_seqs(session, &mut topics).await?;
        Ok(ImportSnapshot {
            last_offset,
            newest,
            topic_count,
            topics,
            originals: self.originals(session, &originals).await?,
        })
    }

    /// Reads up to which seqs the topics' events were forgotten. Only purged events are, so it is rarely asked.
    async fn forgotten_seqs(&self, session: &Session, topics: &mut HashMap<String, TopicRow>) -> Result<()> {
        let purged = topics.values_mut().filter(|topic| topic.state.purged_seq > 0);
        let mut purged: HashMap<i64, &mut TopicRow> = purged.map(|topic| (topic.id, topic)).collect();
        if !self.has_forgotten || purged.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = purged.keys().copied().collect();
        let statement = &session.forget_writes().await?.seqs;
        for row in session.query(statement, &[&self.partition, &ids]).await? {
            if let Some(topic) = purged.get_mut(&get(&row, 0)?) {
                topic.state.forgotten_seq = get_u64(&row, 1)?;
            }
        }
        Ok(())
    }

    async fn originals(&self, session: &Session, rows: &[Row]) -> Result<HashMap<usize, Vec<Original>>> {
        let mut originals: HashMap<usize, Vec<Original>> = HashMap::with_capacity(rows.len());
        let mut undigested = Vec::new();
        for row in rows {
            // Ordinals begin at 1.
            let position = usize::try_from(get_u64(row, 0)?).unwrap_or(usize::MAX) - 1;
            let imported = &self.import.rows[position];
            let offset = get_u64(row, 1)?;
            let same = match (get::<Option<i32>>(row, 4)?, &imported.kept) {
                (None, _) => imported.is_stub(digest_of(row, 5)?),
                (Some(bytes), Kept::Stub { .. }) => {
                    let bytes = u64::try_from(bytes).unwrap_or(0);
                    undigested.push(PendingDigest { position, offset, bytes });
                    false
                }
                // NULL means that the stored payload is another one.
                (Some(_), _) => match get::<Option<&str>>(row, 6)? {
                    Some(payload) => imported.is_event(details(row, 7, payload)?),
                    None => matches!(imported.kept, Kept::Identity),
                },
            };
            let processed_at = Timestamp::from_micros(get(row, 3)?);
            let found = Found { seq: sequence(row, 2)?, processed_at, same };
            originals.entry(position).or_default().push(Original { offset, found, released: get(row, 12)? });
        }
        self.compare_digests(session, &undigested, &mut originals).await?;
        Ok(originals)
    }

    /// Compares stubs with stored payloads. A stub has only a digest, so each payload is fetched and hashed.
    async fn compare_digests(
        &self,
        session: &Session,
        mut rows: &[PendingDigest],
        originals: &mut HashMap<usize, Vec<Original>>,
    ) -> Result<()> {
        while !rows.is_empty() {
            let mut bytes = 0;
            let until = rows.iter().position(|row| {
                bytes += row.bytes;
                bytes >= SLICE_BYTES
            });
            let (slice, rest) = rows.split_at(until.map_or(rows.len(), |at| at + 1));
            rows = rest;
            let offsets: Vec<_> = slice.iter().map(|row| signed(row.offset)).collect();
            let statement = &session.statements.append().payloads;
            let mut digests = HashMap::new();
            for row in session.query(statement, &[&self.partition, &offsets]).await? {
                digests.insert(get_u64(&row, 0)?, digest(get(&row, 1)?));
            }
            for row in slice {
                let stub = &self.import.rows[row.position];
                let same = digests.get(&row.offset).is_some_and(|&digest| stub.is_stub(Some(digest)));
                let originals = originals.get_mut(&row.position).into_iter().flatten();
                for original in originals.filter(|original| original.offset == row.offset) {
                    original.found.same = same;
                }
            }
        }
        Ok(())
    }

    /// The second round trip: writes and commits, even if no row is new. This commit waits for the disk and the
    /// standbys; an earlier one, whose answer was lost, may not have.
    async fn write(&self, session: &Session, plan: &ImportPlan<'_>) -> Result<()> {
        let new_topics = signed(plan.topics.iter().filter(|topic| topic.is_new()).count() as u64);
        let (last_offset, newest) = (signed(plan.last_offset), plan.newest.as_micros());
        let [stored, duplicates, conflicts] = [plan.stored, plan.duplicates, plan.conflicts].map(signed);
        let statements = session.statements.append();
        let (new, old) =
            (plan.topics.iter().filter(|it| it.is_new()), plan.topics.iter().filter(|it| it.is_changed()));
        if !plan.released.is_empty() {
            // Before the new rows, which may have the same identities. It is rare, so it may cost a round trip.
            let offsets: Vec<_> = plan.released.iter().copied().map(signed).collect();
            session.execute(&statements.release_rows, &[&self.partition, &offsets]).await?;
        }
        // Prepared by now: what is sent along, the commit above all, must not overtake it.
        let marks = match plan.marks.topic_ids.is_empty() {
            true => None,
            false => Some(&session.forget_writes().await?.write_marks),
        };
        let written = pipelined3(
            pipelined(self.write_rows(session, &plan.rows), self.write_marks(session, marks, &plan.marks)),
            self.write_topics(session, &statements.import_new_topics, new.collect()),
            pipelined3(
                self.write_topics(session, &statements.import_old_topics, old.collect()),
                session.execute(
                    &statements.update_partition,
                    &[&self.partition, &last_offset, &newest, &new_topics, &stored, &duplicates, &conflicts],
                ),
                session.run("COMMIT"),
            ),
        )
        .await;
        written.map(drop).map_err(unique_is_corrupt)
    }

    async fn write_rows(&self, session: &Session, new: &NewRows<'_>) -> Result<()> {
        if new.count() == 0 {
            return Ok(());
        }
        let columns: [&(dyn ToSql + Sync); 15] = [
            &self.partition,
            &new.offsets,
            &new.topic_ids,
            &new.seqs,
            &new.event_ids,
            &new.sources,
            &new.by_source,
            &new.timestamps,
            &new.payloads,
            &new.digests,
            &new.sequences,
            &new.content_types,
            &new.attributes,
            &new.processed_at,
            &new.released,
        ];
        let inserted = session.execute(&session.statements.append().import_rows, &columns).await?;
        debug_assert_eq!(inserted, new.count() as u64);
        Ok(())
    }

    async fn write_marks(
        &self,
        session: &Session,
        statement: Option<&Statement>,
        new: &NewMarks,
    ) -> Result<()> {
        let Some(statement) = statement else { return Ok(()) };
        let columns: [&(dyn ToSql + Sync); 6] =
            [&self.partition, &new.topic_ids, &new.offsets, &new.seqs, &new.rows, &new.processed_at];
        session.execute(statement, &columns).await.map(drop)
    }

    async fn write_topics(
        &self,
        session: &Session,
        statement: &Statement,
        topics: Vec<&Topic<'_>>,
    ) -> Result<()> {
        if topics.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = topics.iter().map(|topic| topic.name).collect();
        let slots: Vec<_> = names.iter().map(|name| i32::from(slot(name))).collect();
        let scopes: Vec<_> = topics.iter().map(|topic| scope_number(topic.row.state.scope)).collect();
        let [ids, last_seqs, purged_seqs, purged_offsets, duplicates, conflicts] = columns(&topics);
        let parameters: [&(dyn ToSql + Sync); 10] = [
            &self.partition,
            &ids,
            &names,
            &slots,
            &scopes,
            &last_seqs,
            &purged_seqs,
            &purged_offsets,
            &duplicates,
            &conflicts,
        ];
        session.execute(statement, &parameters).await.map(drop)
    }
}

/// Columns of topics: ids, last seqs, purged seqs, purged offsets, duplicates and conflicts.
fn columns(topics: &[&Topic<'_>]) -> [Vec<i64>; 6] {
    let column = |of: fn(&TopicRow) -> i64| topics.iter().map(|topic| of(&topic.row)).collect();
    [
        column(|row| row.id),
        column(|row| signed(row.state.last_seq)),
        column(|row| signed(row.state.purged_seq)),
        column(|row| signed(row.purged_offset)),
        column(|row| signed(row.duplicates)),
        column(|row| signed(row.conflicts)),
    ]
}

fn topic(row: &Row) -> Result<(String, TopicRow)> {
    let state = TopicState {
        scope: scope(get(row, 2)?)?,
        last_seq: get_u64(row, 3)?,
        purged_seq: get_u64(row, 4)?,
        forgotten_seq: 0,
    };
    let topic = TopicRow {
        id: get(row, 1)?,
        state,
        purged_offset: get_u64(row, 5)?,
        duplicates: get_u64(row, 6)?,
        conflicts: get_u64(row, 7)?,
    };
    Ok((get(row, 0)?, topic))
}
