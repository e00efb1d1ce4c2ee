//! Who waits for events of which topics.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aggregator_core::Topics;
use tokio::sync::Notify;

/// Wakes the readers that wait for a topic, without looking at the others.
#[derive(Default)]
pub(super) struct Wakeups(Arc<Mutex<Waiting>>);

/// By the text of a selector: `orders`, `orders.*`, `*`.
type Waiting = HashMap<String, HashMap<u64, Arc<Bell>>>;

/// Wakes one reader.
#[derive(Default)]
struct Bell {
    notify: Notify,
    /// Whether it rang since the reader was at the end.
    rang: AtomicBool,
}

/// A reader's place among those that wait; dropped, it is not woken any more.
pub(super) struct Registration {
    waiting: Arc<Mutex<Waiting>>,
    selectors: Vec<String>,
    id: u64,
    bell: Arc<Bell>,
}

impl Wakeups {
    pub(super) fn register(&self, topics: &Topics, id: u64) -> Registration {
        let selectors: Vec<_> = topics.selectors().iter().map(ToString::to_string).collect();
        let bell = Arc::<Bell>::default();
        let mut waiting = lock(&self.0);
        for selector in &selectors {
            waiting.entry(selector.clone()).or_default().insert(id, Arc::clone(&bell));
        }
        drop(waiting);
        Registration { waiting: Arc::clone(&self.0), selectors, id, bell }
    }

    /// Wakes everybody who waits for one of these topics, and says how many that are.
    pub(super) fn wake<'t>(&self, topics: impl Iterator<Item = &'t str>) -> usize {
        let waiting = lock(&self.0);
        let mut woken = wake(&waiting, "*");
        let mut pattern = String::new();
        for topic in topics {
            woken += wake(&waiting, topic);
            for (end, _) in topic.match_indices('.') {
                pattern.clear();
                pattern.push_str(&topic[..=end]);
                pattern.push('*');
                woken += wake(&waiting, &pattern);
            }
        }
        woken
    }

    /// Wakes all of them.
    pub(super) fn wake_all(&self) {
        for waiting in lock(&self.0).values() {
            notify(waiting);
        }
    }
}

fn wake(waiting: &Waiting, selector: &str) -> usize {
    let Some(readers) = waiting.get(selector) else { return 0 };
    notify(readers);
    readers.len()
}

fn notify(readers: &HashMap<u64, Arc<Bell>>) {
    for bell in readers.values() {
        bell.rang.store(true, Ordering::SeqCst);
        // A permit is kept for a reader that does not wait at this moment.
        bell.notify.notify_one();
    }
}

impl Registration {
    /// Returns after a wake-up, also one that came before this call.
    pub(super) async fn woken(&self) {
        self.bell.notify.notified().await;
    }

    /// Whether there was a wake-up since [`Self::forget_wakeups`].
    pub(super) fn is_woken(&self) -> bool {
        self.bell.rang.load(Ordering::SeqCst)
    }

    pub(super) fn forget_wakeups(&self) {
        self.bell.rang.store(false, Ordering::SeqCst);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        for selector in &self.selectors {
            if let Some(readers) = waiting.get_mut(selector) {
                readers.remove(&self.id);
                if readers.is_empty() {
                    waiting.remove(selector);
                }
            }
        }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> std::sync::MutexGuard<'_, Waiting> {
    // No code that can panic runs under the lock.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn woken(registration: &Registration) -> bool {
        registration.woken().now_or_never().is_some()
    }

    #[test]
    fn a_topic_wakes_those_who_wait_for_it_or_for_a_pattern_of_it() {
        let wakeups = Wakeups::default();
        let selectors = ["a.b.c", "a.b.*", "a.*", "*", "a.b", "a.b.c.*", "x", "x,a.b.c,y.*"];
        let registered: Vec<_> = selectors
            .iter()
            .enumerate()
            .map(|(id, selector)| wakeups.register(&selector.parse().unwrap(), id as u64))
            .collect();
        assert_eq!(wakeups.wake(["a.b.c"].into_iter()), 5);
        let found: Vec<_> = registered.iter().map(woken).collect();
        assert_eq!(found, [true, true, true, true, false, false, false, true]);
        wakeups.wake_all();
        assert!(registered.iter().all(woken));
    }

    #[test]
    fn who_left_is_not_woken_and_leaves_nothing_behind() {
        let wakeups = Wakeups::default();
        let topics: Topics = "t".parse().unwrap();
        let first = wakeups.register(&topics, 1);
        drop(wakeups.register(&topics, 2));
        assert_eq!(wakeups.wake(["t"].into_iter()), 1);
        assert!(woken(&first));
        drop(first);
        assert!(lock(&wakeups.0).is_empty());
    }
}
