//! Forgetting identities.

use super::state::{Forgotten, Left, Row, Rows, State};
use crate::{Partitions, Scope, Timestamp, Topic};

impl State {
    pub(super) fn forget(
        &mut self,
        partitions: Partitions,
        name: &Topic,
        before: Timestamp,
        most: u64,
    ) -> u64 {
        let forgettable = self.forgettable(partitions, name, before, most);
        let Some(topic) = self.topics.get_mut(name) else { return 0 };
        let rows = &mut self.partitions[usize::from(partitions.of(name.as_str()).0)];
        for &at in &forgettable {
            let row = &rows.rows[at];
            let before = topic.forgotten;
            topic.forgotten = Some(Forgotten {
                // A mark that was imported may stand behind identities that were there before it.
                offset: row.event.offset.max(before.map_or(0, |mark| mark.offset)),
                seq: row.seq().or(before.map(|mark| mark.seq)).unwrap_or(0),
                processed_at: match (row.seq(), before) {
                    (None, Some(mark)) => mark.processed_at,
                    _ => row.event.processed_at,
                },
            });
            rows.forget(topic.scope, at);
        }
        forgettable.len() as u64
    }

    /// Where the rows are that are to be forgotten.
    pub(super) fn forgettable(
        &self,
        partitions: Partitions,
        name: &Topic,
        before: Timestamp,
        most: u64,
    ) -> Vec<usize> {
        let rows = &self.partitions[usize::from(partitions.of(name.as_str()).0)].rows;
        // The newest row stays: new cursors stand at it.
        let older = rows.len().saturating_sub(1);
        let is_left = |row: &Row| row.event.topic == name.as_str() && row.left != Left::Forgotten;
        let left = rows[..older].iter().enumerate().filter(|(_, row)| is_left(row));
        let old = left.take_while(|(_, row)| row.left != Left::Payload && row.event.processed_at < before);
        old.map(|(at, _)| at).take(usize::try_from(most).unwrap_or(usize::MAX)).collect()
    }
}

impl Rows {
    fn forget(&mut self, scope: Scope, at: usize) {
        let row = &mut self.rows[at];
        let key = row.key(scope);
        if self.seen.get(&key) == Some(&at) {
            self.seen.remove(&key);
        }
        if let Some(released) = self.released.get_mut(&key) {
            released.retain(|&other| other != at);
            if released.is_empty() {
                self.released.remove(&key);
            }
        }
        row.left = Left::Forgotten;
        row.released = false;
        (row.event.event_id, row.event.source) = (String::new(), String::new());
    }
}
