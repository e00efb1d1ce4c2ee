//! Rows from and to other stores.

use aggregator_core::store::transfer::{Found, Verdict, validate_row, validate_topic};
use aggregator_core::{
    CheckedRow, Fault, Import, Imported, InvalidField, Kept, Partition, RowLimit, StoreError, StoredRow,
    Times, Timestamp, TopicInfo,
};

use super::{Contents, TopicEntry, key, topic_of};

impl Contents {
    pub(crate) fn rows(&self, partition: Partition, after: u64, limit: RowLimit) -> Vec<(u64, StoredRow)> {
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        let rows = self.log(partition).rows.iter().zip(1..).skip(after).take(limit.rows.max(1));
        let mut payload_bytes = 0;
        let mut taken = Vec::new();
        for (row, offset) in rows {
            taken.push((offset, row.clone()));
            payload_bytes += row.payload_bytes();
            if payload_bytes >= limit.payload_bytes {
                break;
            }
        }
        taken
    }

    /// What is refused half-way leaves a half behind.
    pub(crate) fn import(
        &mut self,
        partition: Partition,
        import: Import<'_>,
    ) -> Result<Imported, StoreError> {
        let fault = |index| move |error| StoreError::Invalid(vec![Fault { index: Some(index), error }]);
        let mut imported = Imported::default();
        for (index, row) in import.rows.iter().enumerate() {
            match self.import_row(partition, row, import.times).map_err(fault(index))? {
                Verdict::Add(_) => imported.added += 1,
                Verdict::Present => imported.present += 1,
            }
        }
        for (index, totals) in (import.rows.len()..).zip(import.topics) {
            self.import_totals(totals).map_err(fault(index))?;
        }
        Ok(imported)
    }

    fn import_row(
        &mut self,
        partition: Partition,
        row: &CheckedRow,
        times: Times,
    ) -> Result<Verdict, InvalidField> {
        let log = &mut self.logs[usize::from(partition.0)];
        let scope = row.scope.unwrap_or_default();
        let topic = self.topics.entry(topic_of(&row.topic));
        let topic = topic.or_insert_with_key(|name| TopicEntry::new(name, scope));
        let key = key(&row.topic, &row.event_id, topic.info.scope, row.source());
        let found = log.seen.get(&key).map(|&at| found(row, &log.rows[at]));
        let newest = log.newest.unwrap_or(Timestamp::MIN);
        let verdict = validate_row(row, topic.state(), newest, found, times)?;
        let Verdict::Add(processed_at) = verdict else { return Ok(verdict) };
        log.seen.insert(key, log.rows.len());
        let scope = Some(topic.info.scope);
        log.rows.push(StoredRow { scope, processed_at, ..StoredRow::clone(row) });
        if let Some(seq) = row.seq() {
            log.newest = Some(processed_at);
            topic.info.last_seq = seq;
            topic.info.last_processed_at = Some(processed_at);
            if matches!(row.kept, Kept::Stub { .. }) {
                (topic.info.purged_seq, topic.purged_offset) = (seq, log.rows.len() as u64);
            } else {
                topic.info.first_processed_at.get_or_insert(processed_at);
            }
        }
        Ok(verdict)
    }

    fn import_totals(&mut self, totals: &TopicInfo) -> Result<(), InvalidField> {
        validate_topic(totals, self.topics.get(&totals.topic).map(TopicEntry::state))?;
        let topic = self.topics.entry(totals.topic.clone());
        let info = &mut topic.or_insert_with_key(|name| TopicEntry::new(name, totals.scope)).info;
        info.duplicates = info.duplicates.max(totals.duplicates);
        info.conflicts = info.conflicts.max(totals.conflicts);
        Ok(())
    }
}

/// What is stored under the identity of a row that is imported.
fn found(row: &StoredRow, stored: &StoredRow) -> Found {
    let same = match &stored.kept {
        Kept::Event(event) => row.is_event(event.details(stored.source())),
        Kept::Stub { digest, .. } => row.is_stub(Some(*digest)),
        Kept::Identity => true,
        Kept::Forgotten { .. } => false,
    };
    Found { seq: stored.seq(), processed_at: stored.processed_at, same }
}
