//! Erasing and releasing.

use super::state::{Key, Left, Row, Rows, State};
use crate::event::{ERASED_PAYLOAD, digest};
use crate::store::{Erased, Seen};
use crate::{Identity, Partitions, StoredRow};

impl State {
    pub(super) fn erase(&mut self, partitions: Partitions, id: &Identity) -> Erased {
        let Some((partition, key)) = self.key(partitions, id) else { return Erased::default() };
        let rows = &mut self.partitions[usize::from(partition.0)];
        let mut seqs = Vec::new();
        for at in rows.all_of(&key) {
            let row = &mut rows.rows[at];
            seqs.extend(row.seq());
            row.erase();
        }
        seqs.sort_unstable();
        Erased::new(seqs)
    }

    pub(super) fn release(&mut self, partitions: Partitions, id: &Identity) -> Option<Seen> {
        let (partition, key) = self.key(partitions, id)?;
        let rows = &mut self.partitions[usize::from(partition.0)];
        let at = *rows.seen.get(&key)?;
        rows.release(key, at);
        Some(rows.rows[at].seen())
    }
}

impl Rows {
    /// Where the rows are that have the identity, or had it.
    fn all_of(&self, key: &Key) -> Vec<usize> {
        self.released.get(key).into_iter().flatten().chain(self.seen.get(key)).copied().collect()
    }

    /// The row has the identity no longer.
    pub(super) fn release(&mut self, key: Key, at: usize) {
        self.rows[at].released = true;
        if self.seen.get(&key) == Some(&at) {
            self.seen.remove(&key);
        }
        self.released.entry(key).or_default().push(at);
    }

    /// Undoes a release: the row has the identity again.
    pub(super) fn take_back(&mut self, key: Key, at: usize) {
        self.rows[at].released = false;
        if let Some(released) = self.released.get_mut(&key) {
            released.retain(|&other| other != at);
        }
        self.seen.insert(key, at);
    }

    /// Whether a row of another store that is released there is this one, which is not released yet.
    pub(super) fn releases(&self, at: usize, seq: Option<u64>) -> bool {
        !self.rows[at].released && self.rows[at].seq() == seq
    }

    /// The row that a row of another store is compared with: see [`Found`](crate::store::transfer::Found).
    pub(super) fn of_import(&self, key: &Key, row: &StoredRow) -> Option<usize> {
        let same =
            self.all_of(key).into_iter().find(|&at| row.is_at(self.rows[at].seq(), self.rows[at].released));
        same.or_else(|| self.seen.get(key).copied())
    }
}

impl Row {
    pub(super) fn seen(&self) -> Seen {
        Seen { seq: self.seq(), processed_at: self.event.processed_at, purged: self.left != Left::Payload }
    }

    fn erase(&mut self) {
        match &mut self.left {
            Left::Payload => {
                ERASED_PAYLOAD.clone_into(&mut self.event.payload);
                (self.event.content_type, self.event.attributes) = (None, None);
            }
            Left::Digest(kept) => *kept = digest(ERASED_PAYLOAD),
            Left::Nothing | Left::Forgotten => {}
        }
    }
}
