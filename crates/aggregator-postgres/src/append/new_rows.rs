//! The rows that an append writes, column by column: the statement takes an array per column.

use aggregator_core::event::slot;
use aggregator_core::{EventRef, Scope};
use tokio_postgres::types::ToSql;

use super::plan::{PartitionSnapshot, TopicRow};
use super::sorted_events::SortedTopic;
use crate::columns::{partition_number, scope_number, signed};

/// The events that are new, in the order of their offsets.
#[derive(Default)]
pub(crate) struct EventRows<'e> {
    pub(crate) partitions: Vec<i32>,
    pub(crate) offsets: Vec<i64>,
    pub(crate) topic_ids: Vec<i64>,
    pub(crate) seqs: Vec<i64>,
    pub(crate) event_ids: Vec<&'e str>,
    pub(crate) sources: Vec<&'e str>,
    pub(crate) by_source: Vec<bool>,
    pub(crate) timestamps: Vec<&'e str>,
    pub(crate) payloads: Vec<&'e str>,
    pub(crate) sequences: Vec<Option<i64>>,
    pub(crate) content_types: Vec<Option<&'e str>>,
    pub(crate) attributes: Vec<Option<&'e str>>,
    pub(crate) processed_at: Vec<i64>,
}

/// Topics to write. The counters are what this append adds.
#[derive(Default)]
pub(crate) struct TopicRows<'e> {
    pub(crate) partitions: Vec<i32>,
    pub(crate) ids: Vec<i64>,
    pub(crate) names: Vec<&'e str>,
    pub(crate) slots: Vec<i32>,
    pub(crate) scopes: Vec<i32>,
    pub(crate) last_seqs: Vec<i64>,
    pub(crate) duplicates: Vec<i64>,
    pub(crate) conflicts: Vec<i64>,
}

/// Partitions to write: their new ends, and what this append adds to their counters.
#[derive(Default)]
pub(crate) struct PartitionRows {
    pub(crate) partitions: Vec<i32>,
    /// Where nothing is stored, the first offset is above the last one.
    pub(crate) first_offsets: Vec<i64>,
    pub(crate) last_offsets: Vec<i64>,
    pub(crate) processed_at: Vec<i64>,
    pub(crate) new_topics: Vec<i64>,
    pub(crate) stored: Vec<i64>,
    pub(crate) duplicates: Vec<i64>,
    pub(crate) conflicts: Vec<i64>,
}

/// Counts of repeated events. A conflict counts as a duplicate as well.
#[derive(Default, Clone, Copy)]
pub(super) struct Repeats {
    pub(super) duplicates: i64,
    pub(super) conflicts: i64,
}

impl Repeats {
    pub(super) fn since(self, before: Self) -> Self {
        let Self { duplicates, conflicts } = before;
        Self { duplicates: self.duplicates - duplicates, conflicts: self.conflicts - conflicts }
    }
}

impl<'e> EventRows<'e> {
    /// All columns but the partition, in the order of the statements that write events.
    pub(super) fn columns(&self) -> [&(dyn ToSql + Sync); 12] {
        [
            &self.offsets,
            &self.topic_ids,
            &self.seqs,
            &self.event_ids,
            &self.sources,
            &self.by_source,
            &self.timestamps,
            &self.payloads,
            &self.sequences,
            &self.content_types,
            &self.attributes,
            &self.processed_at,
        ]
    }

    pub(super) fn push(&mut self, partition: &PartitionSnapshot, topic: &TopicRow, event: &EventRef<'e>) {
        self.partitions.push(partition_number(partition.partition));
        self.offsets.push(signed(partition.last_offset));
        self.topic_ids.push(topic.id);
        self.seqs.push(signed(topic.last_seq));
        self.event_ids.push(event.event_id());
        self.sources.push(event.source());
        self.by_source.push(topic.scope == Scope::Source);
        self.timestamps.push(event.timestamp());
        self.payloads.push(event.payload());
        self.sequences.push(event.sequence().map(signed));
        self.content_types.push(event.content_type());
        self.attributes.push(event.attributes());
        self.processed_at.push(partition.now.as_micros());
    }
}

impl<'e> TopicRows<'e> {
    /// All columns but the partition, in the order of the statements that write topics.
    pub(super) fn columns(&self) -> [&(dyn ToSql + Sync); 7] {
        [
            &self.ids,
            &self.names,
            &self.slots,
            &self.scopes,
            &self.last_seqs,
            &self.duplicates,
            &self.conflicts,
        ]
    }

    pub(super) fn push(&mut self, topic: &SortedTopic<'e>, row: &TopicRow, repeats: Repeats) {
        self.partitions.push(partition_number(topic.partition));
        self.ids.push(row.id);
        self.names.push(topic.name);
        self.slots.push(i32::from(slot(topic.name)));
        self.scopes.push(scope_number(row.scope));
        self.last_seqs.push(signed(row.last_seq));
        self.duplicates.push(repeats.duplicates);
        self.conflicts.push(repeats.conflicts);
    }
}

impl PartitionRows {
    /// Adds a partition whose last offset was `before`.
    pub(super) fn push(
        &mut self,
        partition: &PartitionSnapshot,
        before: u64,
        new_topics: u64,
        repeats: Repeats,
    ) {
        self.partitions.push(partition_number(partition.partition));
        self.first_offsets.push(signed(before + 1));
        self.last_offsets.push(signed(partition.last_offset));
        self.processed_at.push(partition.now.as_micros());
        self.new_topics.push(signed(new_topics));
        self.stored.push(signed(partition.last_offset - before));
        self.duplicates.push(repeats.duplicates);
        self.conflicts.push(repeats.conflicts);
    }
}
