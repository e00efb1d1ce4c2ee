//! Erases payloads and releases identities.
//!
//! Both are a transaction for each partition, in two round trips under the partition's lock. They need no attempt id: if
//! an answer is lost, the transaction is run again and finds its rows.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use aggregator_core::event::{DEFAULT_SOURCE, ERASED_PAYLOAD, digest};
use aggregator_core::{Identity, Partition, Partitions, Seen, Source, Timestamp};
use tokio_postgres::Row;

use crate::PostgresOptions;
use crate::columns::{get, get_u64, partition_number, sequence, signed};
use crate::connection::pipeline::{pipelined, pipelined3};
use crate::connection::session::Session;
use crate::fault::{Failure, Result};
use crate::partition_state::PartitionState;

/// The identities of a call in one partition. The transaction may run several times.
pub(crate) struct AmendTx<'a> {
    options: &'a PostgresOptions,
    partition: Partition,
    /// The position of each identity in the call.
    positions: Vec<usize>,
    topics: Vec<&'a str>,
    event_ids: Vec<&'a str>,
    sources: Vec<&'a str>,
    /// The offsets of the rows that earlier runs released, unless they were not committed.
    tried: RefCell<BTreeSet<i64>>,
}

/// A row that has one of the identities, or had it before it was released.
struct AmendedRow {
    offset: i64,
    seen: Seen,
    released: bool,
}

impl<'a> AmendTx<'a> {
    /// One for each partition of these identities.
    pub(crate) fn all(
        options: &'a PostgresOptions,
        partitions: Partitions,
        ids: &'a [Identity],
    ) -> Vec<Self> {
        let mut transactions = BTreeMap::new();
        for (position, id) in ids.iter().enumerate() {
            let partition = partitions.of(id.topic.as_str());
            let transaction = transactions.entry(partition).or_insert_with(|| Self {
                options,
                partition,
                positions: Vec::new(),
                topics: Vec::new(),
                event_ids: Vec::new(),
                sources: Vec::new(),
                tried: RefCell::default(),
            });
            transaction.positions.push(position);
            transaction.topics.push(id.topic.as_str());
            transaction.event_ids.push(id.event_id.as_str());
            transaction.sources.push(id.source.as_ref().map_or(DEFAULT_SOURCE, Source::as_str));
        }
        transactions.into_values().collect()
    }

    pub(crate) fn partition(&self) -> Partition {
        self.partition
    }

    /// Its value of the column `partition`.
    fn number(&self) -> i32 {
        partition_number(self.partition)
    }

    /// Erases the payloads. Returns the seqs of the events with the position of their identity, ascending. After an
    /// error the session may still be inside the transaction.
    pub(crate) async fn erase(&self, session: &Session) -> Result<Vec<(usize, u64)>> {
        let rows = self.begin(session).await?;
        let mut seqs = BTreeSet::new();
        let mut offsets = BTreeSet::new();
        for (position, row) in
            rows.iter().flat_map(|(&position, rows)| rows.iter().map(move |row| (position, row)))
        {
            // An identity that was imported alone has no seq, and nothing to erase.
            if let Some(seq) = row.seen.seq {
                seqs.insert((position, seq));
                offsets.insert(row.offset);
            }
        }
        if offsets.is_empty() {
            session.run("ROLLBACK").await?;
            return Ok(Vec::new());
        }
        // Also the rows that are erased already: an earlier run may have been committed, and this commit waits for the
        // disk and the standbys, as that one should have.
        let offsets: Vec<_> = offsets.into_iter().collect();
        let digest = digest(ERASED_PAYLOAD);
        let statement = &session.statements.append().erase_rows;
        pipelined(
            session.execute(statement, &[&self.number(), &offsets, &ERASED_PAYLOAD, &digest.as_slice()]),
            session.run("COMMIT"),
        )
        .await?;
        session.check_warnings()?;
        Ok(seqs.into_iter().collect())
    }

    /// Releases the identities. Returns what was known of them, with their positions. After an error the session may
    /// still be inside the transaction.
    pub(crate) async fn release(&self, session: &Session) -> Result<Vec<(usize, Seen)>> {
        let rows = self.begin(session).await?;
        let mut offsets = BTreeSet::new();
        let mut released = Vec::new();
        for (position, rows) in rows {
            // If an earlier run released a row and its answer was lost, the identity may have come again since. That
            // one stays.
            let tried = rows.iter().find(|row| row.released && self.tried.borrow().contains(&row.offset));
            let Some(row) = tried.or_else(|| rows.iter().find(|row| !row.released)) else { continue };
            // Two of the identities can be the same.
            if offsets.insert(row.offset) {
                released.push((position, row.seen));
            }
        }
        if offsets.is_empty() {
            session.run("ROLLBACK").await?;
            return Ok(Vec::new());
        }
        self.tried.borrow_mut().extend(&offsets);
        let offsets: Vec<_> = offsets.into_iter().collect();
        let statement = &session.statements.append().release_rows;
        pipelined(session.execute(statement, &[&self.number(), &offsets]), session.run("COMMIT")).await?;
        session.check_warnings()?;
        Ok(released)
    }

    /// The first round trip: locks the partition, and finds the rows. Returns them by the position of their identity.
    async fn begin(&self, session: &Session) -> Result<BTreeMap<usize, Vec<AmendedRow>>> {
        session.forget_warnings();
        let statements = session.statements.append();
        let (_, state, found) = pipelined3(
            session.begin(),
            session.query(&statements.lock, &[&self.number()]),
            session.query(
                &statements.amendable,
                &[&self.number(), &self.topics, &self.event_ids, &self.sources],
            ),
        )
        .await?;
        PartitionState::one(self.number(), &state, self.options)?;
        let mut rows: BTreeMap<usize, Vec<AmendedRow>> = BTreeMap::new();
        for row in &found {
            let (position, row) = self.row(row)?;
            rows.entry(position).or_default().push(row);
        }
        Ok(rows)
    }

    fn row(&self, row: &Row) -> Result<(usize, AmendedRow)> {
        // Ordinals begin at 1.
        let at = usize::try_from(get_u64(row, 0)?).ok().and_then(|at| self.positions.get(at.checked_sub(1)?));
        let &position = at.ok_or_else(|| Failure::corrupt("an identity was found that was not asked for"))?;
        let processed_at = Timestamp::from_micros(get(row, 3)?);
        let seen = Seen::new(sequence(row, 2)?, processed_at, get(row, 4)?);
        Ok((position, AmendedRow { offset: signed(get_u64(row, 1)?), seen, released: get(row, 5)? }))
    }
}
