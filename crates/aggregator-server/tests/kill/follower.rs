//! A reader that follows all events over all kills, with the client library.

use std::collections::HashMap;
use std::time::Duration;

use aggregator_client::{Backoff, Client, Query, StoredEvent, Tail, TailItem};
use publisher_sim::findings::Findings;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::PATIENCE;

/// A tail at work.
pub(crate) struct Follower {
    task: JoinHandle<Followed>,
    /// How many events there are, once nothing more is published.
    total: watch::Sender<Option<u64>>,
}

/// What it saw.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    pub(crate) events: u64,
    /// Not the event that follows the one before in its topic: a gap, a repeat, another order.
    pub(crate) out_of_order: Findings,
    next_seqs: HashMap<String, u64>,
}

impl Follower {
    pub(crate) fn start(runtime: &Runtime, url: &str) -> Self {
        // It does not give up, and does not wait long: the server comes back soon.
        let ms = Duration::from_millis;
        let backoff = Backoff::new(ms(2), ms(20), u32::MAX, 2 * PATIENCE).unwrap();
        let tail = Client::builder(url).backoff(backoff).build().unwrap().tail(Query::new());
        let (total, told) = watch::channel(None);
        Self { task: runtime.spawn(follow(tail, told)), total }
    }

    /// Once nothing more is published: waits until it has seen `total` events.
    pub(crate) fn finish(self, runtime: &Runtime, total: u64) -> Followed {
        self.total.send_replace(Some(total));
        let followed = runtime.block_on(async { tokio::time::timeout(PATIENCE, self.task).await });
        followed.expect("the tail does not see all events").unwrap()
    }
}

async fn follow(mut tail: Tail, mut total: watch::Receiver<Option<u64>>) -> Followed {
    let mut followed = Followed::default();
    loop {
        let item = tokio::select! {
            item = tail.next() => item.expect("the server goes on where it was"),
            _ = total.wait_for(|total| total.is_some_and(|total| followed.events >= total)) => return followed,
        };
        match item {
            TailItem::Events(new) => new.events.iter().for_each(|event| followed.see(event)),
            TailItem::CaughtUp { .. } => {}
            TailItem::Gap { .. } => panic!("nothing is ever removed"),
        }
    }
}

impl Followed {
    fn see(&mut self, event: &StoredEvent) {
        self.events += 1;
        let StoredEvent { topic, event_id, seq, .. } = event;
        let next_seq = self.next_seqs.entry(topic.clone()).or_insert(1);
        if seq != next_seq {
            self.out_of_order.add(|| format!("{topic} {event_id} seq {seq}, expected {next_seq}"));
        }
        *next_seq = seq + 1;
    }
}
