//! Shared set-up of the benches.

use aggregator_core::{DedupStore, DedupStoreExt as _, Event, EventRef};
use uuid::Uuid;

/// `count` events of about 250 bytes over four topics, with random ids.
///
/// # Panics
/// Never: the events are good.
pub fn events(count: usize) -> Vec<Event> {
    let payload = format!(r#"{{"amount":129.5,"note":"{}"}}"#, "x".repeat(120));
    (0..count)
        .map(|n| {
            Event::new(format!("bench.topic-{}", n % 4), Uuid::new_v4().to_string())
                .and_then(|event| event.with_payload(&payload))
                .expect("these are good events")
        })
        .collect()
}

/// Appends the events in batches of `batch`. Every fourth event is sent twice, so a fifth of the deliveries are
/// repeats.
///
/// # Panics
/// If the store fails.
pub fn append(store: &dyn DedupStore, events: &[Event], batch: usize) {
    let views: Vec<EventRef<'_>> = events
        .iter()
        .enumerate()
        .flat_map(|(n, event)| std::iter::repeat_n(event.view(), if n % 4 == 0 { 2 } else { 1 }))
        .collect();
    for batch in views.chunks(batch) {
        store.append_all(batch).expect("a healthy store takes events");
    }
}
