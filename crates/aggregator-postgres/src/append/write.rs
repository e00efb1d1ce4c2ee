//! The statements that write what an append has decided. Each has a form for one partition, and one for several.

use tokio_postgres::types::ToSql;

use super::new_rows::PartitionRows;
use super::plan::AppendPlan;
use crate::connection::session::Session;
use crate::fault::Result;

/// What an append writes, and under which attempt.
pub(super) struct WriteTx<'a, 'e> {
    pub(super) attempt: &'a [u8],
    /// When it was tried, in microseconds since 1970.
    pub(super) at: i64,
    pub(super) plan: &'a AppendPlan<'e>,
}

impl WriteTx<'_, '_> {
    /// Writes the topics that are new, if there are any.
    pub(super) async fn new_topics(&self, session: &Session) -> Result<()> {
        let topics = &self.plan.new_topics;
        if topics.ids.is_empty() {
            return Ok(());
        }
        let statements = session.statements.append();
        let (statement, partition): (_, &(dyn ToSql + Sync)) = match self.partitions().partitions.as_slice() {
            [one] => (&statements.insert_topics, one),
            _ => (&statements.insert_topics_several, &topics.partitions),
        };
        let columns = [&[partition][..], &topics.columns()].concat();
        session.execute(statement, &columns).await.map(drop)
    }

    /// Writes everything else.
    pub(super) async fn rows(&self, session: &Session) -> Result<()> {
        let written = match self.partitions().partitions.as_slice() {
            [one] => self.rows_of(session, one).await?,
            _ => self.rows_of_several(session).await?,
        };
        debug_assert_eq!(written, self.partitions().partitions.len() as u64);
        Ok(())
    }

    fn partitions(&self) -> &PartitionRows {
        &self.plan.partition_rows
    }

    async fn rows_of(&self, session: &Session, partition: &i32) -> Result<u64> {
        let AppendPlan { events, old_topics, partition_rows: counters, .. } = self.plan;
        let counters: [&(dyn ToSql + Sync); 9] = [
            &self.attempt,
            &counters.first_offsets[0],
            &counters.last_offsets[0],
            &self.at,
            &counters.processed_at[0],
            &counters.new_topics[0],
            &counters.stored[0],
            &counters.duplicates[0],
            &counters.conflicts[0],
        ];
        let partition: &(dyn ToSql + Sync) = partition;
        let columns = [&[partition][..], &events.columns(), &old_topics.columns(), &counters].concat();
        session.execute(&session.statements.append().write, &columns).await
    }

    async fn rows_of_several(&self, session: &Session) -> Result<u64> {
        let AppendPlan { events, old_topics, partition_rows: counters, .. } = self.plan;
        let counters: [&(dyn ToSql + Sync); 10] = [
            &counters.partitions,
            &counters.first_offsets,
            &counters.last_offsets,
            &counters.processed_at,
            &counters.new_topics,
            &counters.stored,
            &counters.duplicates,
            &counters.conflicts,
            &self.attempt,
            &self.at,
        ];
        let of_events: &(dyn ToSql + Sync) = &events.partitions;
        let of_topics: &(dyn ToSql + Sync) = &old_topics.partitions;
        let (events, topics) = (events.columns(), old_topics.columns());
        let columns = [&[of_events][..], &events, &[of_topics], &topics, &counters].concat();
        session.execute(&session.statements.append().write_several, &columns).await
    }
}
