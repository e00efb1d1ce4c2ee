//! Page after page, and then what comes.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{CommitListener, DedupStore};
use crate::{Order, Page, Query, StoreError};

/// How often the store is asked although it told of no commit. A store without [`Watch`](super::Watch) tells of none.
const POLL: Duration = Duration::from_millis(500);

/// Reads what a query asks for, and waits at the end for what comes. See
/// [`DedupStoreExt::tail`](super::DedupStoreExt::tail).
///
/// It waits on the thread that calls it, and holds no snapshot and no lock of the store meanwhile.
///
/// ```
/// # use std::time::Duration;
/// # use aggregator_core::{DedupStoreExt as _, Event, MemoryStore, Query, TopicSelector};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = MemoryStore::default();
/// # store.append_one(&Event::new("orders", "1")?)?;
/// let mut tail = store.tail(Query::of(TopicSelector::All));
/// loop {
///     let page = tail.next_page(Duration::from_secs(1))?;
///     for event in &page.events {
///         println!("{} {}", event.topic, event.seq);
///     }
///     // Whoever begins at `page.next` another day misses nothing and is handed nothing twice.
/// #   break;
/// }
/// # Ok(())
/// # }
/// ```
pub struct Tail<'s, S: ?Sized> {
    store: &'s S,
    query: Query,
    commits: Arc<Commits>,
    /// `None` for a store that tells of no commits.
    _listener: Option<CommitListener>,
}

/// Whether there was a commit since the last read began.
#[derive(Default)]
struct Commits {
    happened: Mutex<bool>,
    changed: Condvar,
}

impl<'s, S: DedupStore + ?Sized> Tail<'s, S> {
    pub(super) fn new(store: &'s S, query: Query) -> Self {
        let commits = Arc::<Commits>::default();
        let told = Arc::clone(&commits);
        // Before the first read: what a read does not find is told of.
        let listener = store.watch().map(|watch| watch.on_commit(Box::new(move |_, _| told.tell())));
        Self { store, query, commits, _listener: listener }
    }

    /// The next page that has events. If none came within `wait`, an empty page. Its [`Page::next`] leads past whatever
    /// did not match, so that nothing is looked at twice.
    ///
    /// A page that begins before the end comes at once; `wait` does not limit how long its read takes.
    ///
    /// # Errors
    /// As [`DedupStore::read`]. The tail stays where it is: call again to try the same again. [`StoreError::Expired`]
    /// has the cursor with which to go on: give it to [`Self::go_on_at`].
    /// [`StoreError::Invalid`] for a query in [descending](Order::Descending) order, at whose end nothing ever comes.
    pub fn next_page(&mut self, wait: Duration) -> Result<Page, StoreError> {
        if self.query.order == Order::Descending {
            return Err(StoreError::invalid("order", "is descending: nothing is ever stored at that end"));
        }
        let began = Instant::now();
        loop {
            self.commits.forget();
            let page = self.store.read(&self.query)?;
            self.query.after = Some(page.next.clone());
            let left = wait.saturating_sub(began.elapsed());
            if !page.events.is_empty() || left.is_zero() {
                return Ok(page);
            }
            if page.caught_up {
                self.commits.wait(left.min(POLL));
            }
        }
    }

    /// Goes on at this cursor of the same query.
    pub fn go_on_at(&mut self, cursor: crate::Cursor) {
        self.query.after = Some(cursor);
    }
}

impl<S: ?Sized> Tail<'_, S> {
    /// The query of the next page: its cursor stands behind the last page that was read.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// The query of the next page, to go on with later.
    pub fn into_query(self) -> Query {
        self.query
    }
}

impl Commits {
    fn tell(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    fn forget(&self) {
        *self.lock() = false;
    }

    fn wait(&self, at_most: Duration) {
        let waited = self.changed.wait_timeout_while(self.lock(), at_most, |happened| !*happened);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        // No code that can panic runs under the lock.
        self.happened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
