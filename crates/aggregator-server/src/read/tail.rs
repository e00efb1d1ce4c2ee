//! Readers that wait at the end of the stream: long polls and Server-Sent Events.
//!
//! A task, the feed ([`feed`]), reads whatever is stored as long as anybody waits, once for all of them, and keeps the
//! newest of it in memory ([`ring`]). A reader ([`reader`]) takes its events from there. One that is behind the ring reads
//! pages of the store until it is not, and readers at the same place share a page ([`pages`]). Both ways lead along
//! cursors, so a reader may change between them anywhere: it misses nothing and is handed nothing twice.
//!
//! Nothing is queued for a reader. One that is slow falls behind the ring, and goes on with pages.

mod feed;
mod long_poll;
mod pages;
mod reader;
mod ring;
mod sse;
pub(super) mod stream;
mod wakeups;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aggregator_core::Topics;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

pub(crate) use self::feed::follow;
pub(super) use self::long_poll::until_event;
pub(crate) use self::stream::stream;

use self::pages::SharedPages;
use self::ring::{Ring, Segment};
use self::wakeups::{Registration, Wakeups};

/// What all readers at the end share.
pub(crate) struct Tails {
    places: Arc<Semaphore>,
    waiting: Arc<Waiting>,
    wakeups: Wakeups,
    ring: Mutex<Ring>,
    pages: SharedPages,
    next_id: AtomicU64,
    /// How often events were forgotten.
    forgotten: AtomicU64,
    /// True once no reader may wait any longer.
    closed: watch::Sender<bool>,
}

/// How many readers there are.
#[derive(Default)]
struct Waiting {
    readers: AtomicUsize,
    changed: Notify,
}

/// One reader's place among those that wait.
pub(crate) struct Place {
    registration: Registration,
    closed: watch::Receiver<bool>,
    waiting: Arc<Waiting>,
    _permit: OwnedSemaphorePermit,
}

impl Tails {
    pub(crate) fn new(max_tails: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(max_tails.min(Semaphore::MAX_PERMITS))),
            waiting: Arc::default(),
            wakeups: Wakeups::default(),
            ring: Mutex::default(),
            pages: SharedPages::default(),
            next_id: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            closed: watch::Sender::new(false),
        }
    }

    /// A place for a reader of these topics; `None` if there are as many as there may be.
    pub(super) fn enter(&self, topics: &Topics) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let registration = self.wakeups.register(topics, id);
        self.waiting.readers.fetch_add(1, Ordering::SeqCst);
        self.waiting.changed.notify_one();
        let (closed, waiting) = (self.closed.subscribe(), Arc::clone(&self.waiting));
        Some(Place { registration, closed, waiting, _permit: permit })
    }

    /// How many readers there are.
    pub(crate) fn count(&self) -> usize {
        self.waiting.readers.load(Ordering::Relaxed)
    }

    /// Ends the waiting of all readers, now and from now on.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Wakes all readers, so that they look whether they may still read.
    pub(crate) fn wake_all(&self) {
        self.wakeups.wake_all();
    }

    /// Lets go of all events in memory, because some of them were erased. Readers read them again from the store.
    pub(crate) fn forget_events(&self) {
        let mut ring = self.ring();
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        ring.forget_events();
        drop(ring);
        self.pages.forget();
    }

    /// Begins to follow the stream with this segment. `forgotten` as for [`Self::hand_out`].
    fn begin(&self, first: Segment, forgotten: u64) {
        let mut ring = self.ring();
        ring.begin(first);
        if self.forgotten.load(Ordering::SeqCst) != forgotten {
            ring.forget_events();
        }
    }

    /// Gives a segment to those who wait for it, and says how many were woken. `forgotten` is how often events had been
    /// forgotten when it was read.
    fn hand_out(&self, segment: Segment, forgotten: u64) -> usize {
        let topics: Vec<_> = segment.topics().map(str::to_owned).collect();
        // A reader that looks into the ring sees both or neither.
        let mut ring = self.ring();
        ring.push(segment);
        if self.forgotten.load(Ordering::SeqCst) != forgotten {
            // It may have been read before the erasure. Its readers are woken, and read pages.
            ring.forget_events();
        }
        self.wakeups.wake(topics.iter().map(String::as_str))
    }

    /// The ring does not follow the stream any more. Readers go on with pages.
    fn lose_track(&self) {
        let mut ring = self.ring();
        ring.clear();
        self.wakeups.wake_all();
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // No code that can panic runs under the lock.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a reader does not wait any longer.
pub(super) enum Woken {
    /// Something may have come that it waits for.
    Events,
    /// Readers have to end.
    Closed,
}

impl Place {
    /// Whether readers have to end.
    fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Whether there was a wake-up since [`Self::forget_wakeups`].
    fn is_woken(&self) -> bool {
        self.registration.is_woken()
    }

    fn forget_wakeups(&self) {
        self.registration.forget_wakeups();
    }

    /// Waits. A wake-up that came before this call counts.
    pub(super) async fn woken_or_closed(&mut self) -> Woken {
        tokio::select! {
            () = self.registration.woken() => Woken::Events,
            // The sender lives as long as the service.
            _ = self.closed.wait_for(|closed| *closed) => Woken::Closed,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.readers.fetch_sub(1, Ordering::SeqCst);
        self.waiting.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use aggregator_core::{DedupStore as _, DedupStoreExt as _, Event, MemoryStore, Query, TopicSelector};

    use super::ring::Found;
    use super::*;

    /// A read that began before an erasure may bring what was erased.
    #[test]
    fn what_was_read_before_events_were_forgotten_is_not_kept() {
        let (store, mut query) = (MemoryStore::default(), Query::of(TopicSelector::All));
        let mut next = || {
            let page =
                store.append_one(&Event::new("t", "1").unwrap()).and_then(|_| store.read(&query)).unwrap();
            query.after = Some(page.next.clone());
            Segment::of_page(page)
        };
        let tails = Tails::new(1);
        let first = next();
        let start = first.before.clone();
        tails.begin(first, 0);
        assert!(matches!(tails.ring().join(&start), Found::Segment(..)));
        tails.forget_events();
        assert!(matches!(tails.ring().join(&start), Found::Missing));
        store.append_one(&Event::new("t", "2").unwrap()).unwrap();
        let second = next();
        let start = second.before.clone();
        tails.hand_out(second, 0);
        assert!(matches!(tails.ring().join(&start), Found::Missing));
        store.append_one(&Event::new("t", "3").unwrap()).unwrap();
        let third = next();
        let start = third.before.clone();
        tails.hand_out(third, 1);
        assert!(matches!(tails.ring().join(&start), Found::Segment(..)));
    }
}
