//! A reader that waits at the end of the stream while the power fails, and what it was handed.
//!
//! Whatever a reader was handed has to be there after an outage, acknowledged or not, and its cursor has to lead on
//! from there: another reader might be told otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use aggregator_core::{DedupStore, DedupStoreExt as _, Query, StoreError, StoredEvent, TopicSelector};

use crate::ledger::{Violation, rows};

/// What a reader was handed, over all lives of the store.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Where it stands.
    query: Query,
    /// The newest seq of each topic, and how many gaps it was told of by then.
    last_seqs: BTreeMap<String, (u64, u64)>,
    /// Topic, seq and id of each event.
    events: BTreeSet<(String, u64, String)>,
    /// How often the reader was told that retention took something, its beginning included.
    gaps: u64,
    violation: Option<Violation>,
}

impl Default for Followed {
    fn default() -> Self {
        Self {
            query: Query { limit: 7, ..Query::of(TopicSelector::All) },
            last_seqs: BTreeMap::new(),
            events: BTreeSet::new(),
            gaps: 1,
            violation: None,
        }
    }
}

impl Followed {
    pub(crate) fn handed(&self) -> u64 {
        self.events.len() as u64
    }

    fn take(&mut self, event: &StoredEvent) {
        let before = self.last_seqs.insert(event.topic.clone(), (event.seq, self.gaps));
        let (last, gaps) = before.unwrap_or_default();
        // A gap may be in any topic, and in several.
        if event.seq <= last || (event.seq != last + 1 && gaps == self.gaps) {
            self.violation = Some(format!("{} has {} after {last} in a tail", event.topic, event.seq));
        }
        self.events.insert((event.topic.clone(), event.seq, event.event_id.clone()));
    }

    /// Reads on until nothing comes within `wait`.
    fn read_on(&mut self, store: &dyn DedupStore, wait: Duration) -> Result<(), StoreError> {
        let mut tail = store.tail(self.query.clone());
        loop {
            match tail.next_page(wait) {
                Ok(page) => {
                    page.events.iter().for_each(|event| self.take(event));
                    self.query = tail.query().clone();
                    if page.events.is_empty() && page.caught_up {
                        return Ok(());
                    }
                }
                Err(StoreError::Expired { oldest }) => {
                    tail.go_on_at(oldest);
                    self.gaps += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// After an outage: whether the reader goes on where it stood, and was handed only what is there.
    pub(crate) fn check(&mut self, store: &dyn DedupStore) -> Result<(), Violation> {
        self.read_on(store, Duration::ZERO).map_err(|error| format!("a tail cannot go on: {error}"))?;
        if let Some(violation) = self.violation.take() {
            return Err(violation);
        }
        let rows = rows(store)?;
        for (topic, seq, event_id) in &self.events {
            let row = rows.get(&(topic.clone(), *seq));
            if row.is_none_or(|row| row.event_id != *event_id) {
                return Err(format!("a tail was handed {topic} {seq}, {event_id}, and it is {row:?} now"));
            }
        }
        Ok(())
    }
}

/// The thread of a reader in one life of the store. Ends when it is dropped.
pub(crate) struct Follower {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    pub(crate) fn start(store: &Arc<dyn DedupStore>, followed: &Arc<Mutex<Followed>>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (store, followed, stopped) = (Arc::clone(store), Arc::clone(followed), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            // It cannot read while the power is off.
            let read_on = || followed.lock().unwrap().read_on(&store, Duration::from_millis(5));
            while !stopped.load(Ordering::SeqCst) && read_on().is_ok() {}
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}
