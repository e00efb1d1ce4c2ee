//! Remembers the ids of topics that this node has seen.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aggregator_core::Scope;

/// A topic's id and scope never change, so an append can look identities up by a remembered id in its first round trip.
/// The remembered id is only a guess: the append compares it with the one that the database has under the partition's
/// lock, and looks the identities up again if they differ.
#[derive(Default)]
pub(crate) struct TopicIds(Mutex<HashMap<String, (i64, Scope)>>);

/// The most topics that are remembered. When the map is full, it is cleared.
const MAX_TOPICS: usize = 200_000;

impl TopicIds {
    /// The remembered id and scope of each of these topics.
    pub(crate) fn of(&self, names: &[&str]) -> Vec<Option<(i64, Scope)>> {
        let ids = self.ids();
        names.iter().map(|&name| ids.get(name).copied()).collect()
    }

    pub(crate) fn learn(&self, name: &str, topic: (i64, Scope)) {
        let mut ids = self.ids();
        if ids.len() >= MAX_TOPICS {
            ids.clear();
        }
        ids.insert(name.to_owned(), topic);
    }

    fn ids(&self) -> MutexGuard<'_, HashMap<String, (i64, Scope)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
