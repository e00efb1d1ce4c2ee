//! The ids of topics that this node has met.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aggregator_core::Scope;

/// Neither a topic's id nor its scope ever changes, so identities can be asked for by them at once. A guess all the
/// same: an append compares with what the database says under the partition's lock, and asks again if that is
/// something else.
#[derive(Default)]
pub(crate) struct TopicIds(Mutex<HashMap<String, (i64, Scope)>>);

/// More are forgotten.
const MOST: usize = 200_000;

impl TopicIds {
    /// Those of these topics, in their places.
    pub(crate) fn of(&self, names: &[&str]) -> Vec<Option<(i64, Scope)>> {
        let ids = self.ids();
        names.iter().map(|&name| ids.get(name).copied()).collect()
    }

    pub(crate) fn learn(&self, name: &str, topic: (i64, Scope)) {
        let mut ids = self.ids();
        if ids.len() >= MOST {
            ids.clear();
        }
        ids.insert(name.to_owned(), topic);
    }

    fn ids(&self) -> MutexGuard<'_, HashMap<String, (i64, Scope)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
