//! Tells listeners that a partition grew.
//!
//! Appends announce their commits after they have released the store, so two of them may announce in either order.
//! Therefore only one thread at a time calls the listeners of a partition, always with its newest offset. A thread
//! that announces meanwhile only notes its offset. The calling thread finds the note and tells of it before it ends.
//! So no offset follows a larger one, no lock is held while a callback runs, and a callback may announce, listen and
//! drop listeners.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::Partition;

/// Hearing of commits. See [`DedupStore::watch`](super::DedupStore::watch).
pub trait Watch: Send + Sync {
    /// Calls `callback` after commits that stored something, with the partition and its last offset, until the
    /// listener is dropped.
    ///
    /// * The offsets of a partition only rise. If commits race, one call with the newest offset stands for all.
    /// * A caller that first listens and then reads misses nothing: what the read does not find is announced.
    /// * The callback may use the store, listen and drop listeners, because the store holds no lock meanwhile. It must
    ///   not block. One append waits for the callback. It need not be the append that the callback is about. Other
    ///   appends do not wait.
    /// * A listener that was dropped is not told of later commits. A call that has begun on another thread may still
    ///   be running.
    /// * A callback that panics is called again for the next commit. Neither the append nor other listeners notice.
    fn on_commit(&self, callback: CommitCallback) -> CommitListener;
}

/// See [`Watch::on_commit`].
pub type CommitCallback = Box<dyn Fn(Partition, u64) + Send + Sync>;

/// A callback that is told of commits until this is dropped. A call that another thread has begun by then may still
/// be running; no later commit is told.
#[must_use = "a listener that is dropped hears of nothing"]
pub struct CommitListener {
    registry: Weak<Mutex<Registry>>,
    entry: Arc<Entry>,
}

/// Announces the commits of a backend to its listeners.
pub struct CommitNotifier {
    registry: Arc<Mutex<Registry>>,
    partitions: Box<[Mutex<Progress>]>,
}

/// The listeners, in the order in which they registered.
#[derive(Default)]
struct Registry {
    next_id: u64,
    entries: BTreeMap<u64, Arc<Entry>>,
}

struct Entry {
    id: u64,
    /// False once the listener was dropped. A thread may still hold the entry and be about to call it.
    listens: AtomicBool,
    callback: CommitCallback,
}

/// How far a partition has come.
struct Progress {
    /// The newest offset that was announced.
    newest: u64,
    /// Whether a thread is telling of this partition. It looks at `newest` again before it ends.
    telling: bool,
}

impl CommitNotifier {
    /// A notifier for partitions that end at these offsets. Offsets up to there are no news.
    pub fn new(last_offsets: impl IntoIterator<Item = u64>) -> Self {
        let progress = |newest| Mutex::new(Progress { newest, telling: false });
        Self { registry: Arc::default(), partitions: last_offsets.into_iter().map(progress).collect() }
    }

    /// Registers a callback.
    pub fn listen(&self, callback: CommitCallback) -> CommitListener {
        let mut registry = lock(&self.registry);
        let id = registry.next_id;
        registry.next_id += 1;
        let entry = Arc::new(Entry { id, listens: AtomicBool::new(true), callback });
        registry.entries.insert(id, Arc::clone(&entry));
        CommitListener { registry: Arc::downgrade(&self.registry), entry }
    }

    /// Whether [`Self::announce`] would tell of this commit.
    pub fn is_news(&self, partition: Partition, last_offset: u64) -> bool {
        let progress = self.partitions.get(usize::from(partition.0));
        progress.is_some_and(|progress| last_offset > lock(progress).newest)
    }

    /// Tells of a commit after which the partition ends at `last_offset`, unless a later one was told of already. If
    /// another thread is telling of this partition, it is the one that tells of this commit, too.
    pub fn announce(&self, partition: Partition, last_offset: u64) {
        let Some(progress) = self.partitions.get(usize::from(partition.0)) else { return };
        let mut state = lock(progress);
        if last_offset <= state.newest {
            return;
        }
        state.newest = last_offset;
        if state.telling {
            return;
        }
        state.telling = true;
        loop {
            let told = state.newest;
            drop(state);
            self.tell(partition, told);
            state = lock(progress);
            if state.newest == told {
                state.telling = false;
                return;
            }
        }
    }

    fn tell(&self, partition: Partition, last_offset: u64) {
        // Taken after the offset was noted. A listener that registers later reads later, so it finds this commit
        // itself.
        let entries: Vec<_> = lock(&self.registry).entries.values().cloned().collect();
        for entry in entries {
            if entry.listens.load(Ordering::SeqCst) {
                // The panic hook has reported the panic. The commit stands, and other listeners wait to hear of it.
                let _ = catch_unwind(AssertUnwindSafe(|| (entry.callback)(partition, last_offset)));
            }
        }
    }
}

impl Drop for CommitListener {
    fn drop(&mut self) {
        self.entry.listens.store(false, Ordering::SeqCst);
        if let Some(registry) = self.registry.upgrade() {
            // `self.entry` keeps the callback alive until the lock is released: it may own another listener, whose
            // drop takes the lock.
            lock(&registry).entries.remove(&self.entry.id);
        }
    }
}

/// No code of others runs while one of these is held, so a panic has left none of them half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn an_offset_that_is_no_news_is_not_told() {
        let notifier = CommitNotifier::new([7, 0]);
        let (send, told) = channel();
        let _listener =
            notifier.listen(Box::new(move |partition, offset| send.send((partition.0, offset)).unwrap()));
        for (partition, offset, is_news) in [
            (0, 7, false),
            (0, 9, true),
            (0, 8, false),
            (1, 1, true),
            (0, 9, false),
            (2, 1, false),
            (1, 2, true),
        ] {
            assert_eq!(notifier.is_news(Partition(partition), offset), is_news);
            notifier.announce(Partition(partition), offset);
        }
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(0, 9), (1, 1), (1, 2)]);
    }

    #[test]
    fn a_callback_is_let_go_with_its_listener_also_one_that_owns_another() {
        let notifier = CommitNotifier::new([0]);
        let held = Arc::new(());
        let owned = Arc::clone(&held);
        let inner = notifier.listen(Box::new(move |_, _| drop(Arc::clone(&owned))));
        let outer = notifier.listen(Box::new(move |_, _| {
            let _ = &inner;
        }));
        assert_eq!(Arc::strong_count(&held), 2);
        drop(outer);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn a_listener_may_outlive_what_it_listens_to() {
        let notifier = CommitNotifier::new([0]);
        let listener = notifier.listen(Box::new(|_, _| {}));
        drop(notifier);
        drop(listener);
    }

    #[test]
    fn a_listener_that_another_one_drops_is_not_called_any_more() {
        let notifier = CommitNotifier::new([0]);
        let second = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&second);
        let _first = notifier.listen(Box::new(move |_, _| drop(lock(&slot).take())));
        let (send, told) = channel();
        let telling = |name| {
            let send = send.clone();
            notifier.listen(Box::new(move |_, offset| send.send((name, offset)).unwrap()))
        };
        *lock(&second) = Some(telling("second"));
        let _third = telling("third");
        notifier.announce(Partition(0), 1);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [("third", 1)]);
    }
}
