//! Readers that tail the stream through the balancer, while what is behind it comes and goes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use publisher_sim::findings::Findings;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::PATIENCE;

/// Between two looks at a stream that has nothing new, or that nobody gives.
const PAUSE: Duration = Duration::from_millis(20);

/// A reader at work.
pub(crate) struct Reader {
    task: JoinHandle<Read>,
    end: watch::Sender<bool>,
}

/// What it came to.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) events: u64,
    /// Requests that brought nothing.
    pub(crate) refused: u64,
    /// Not the event that follows the one before in its topic: a gap, a repeat, another order.
    pub(crate) out_of_order: Findings,
    /// Seen before, with whatever seq.
    pub(crate) doubled: Findings,
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Event>,
    next: String,
    caught_up: bool,
}

#[derive(Deserialize)]
struct Event {
    topic: String,
    event_id: String,
    seq: u64,
}

impl Reader {
    /// Reads what `query` asks for, from its beginning.
    pub(crate) fn start(runtime: &Runtime, url: &str, query: &str) -> Self {
        let (end, ends) = watch::channel(false);
        let tail = Tail {
            client: crate::http_client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(10))
                .build()
                .unwrap(),
            url: format!("{url}/events?{query}"),
            after: None,
            next_seqs: HashMap::new(),
            seen: HashSet::new(),
            read: Read::default(),
        };
        Self { task: runtime.spawn(tail.follow(ends)), end }
    }

    /// Once nothing more is published: waits until it has come to the end.
    pub(crate) fn finish(self, runtime: &Runtime) -> Read {
        self.end.send(true).unwrap();
        let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, self.task).await });
        ended.expect("a reader does not come to the end").unwrap()
    }
}

struct Tail {
    client: Client,
    url: String,
    after: Option<String>,
    next_seqs: HashMap<String, u64>,
    /// Topics with event ids.
    seen: HashSet<(String, String)>,
    read: Read,
}

impl Tail {
    async fn follow(mut self, ends: watch::Receiver<bool>) -> Read {
        loop {
            // Asked first: a page that is asked for after the last publish has all of it before its end.
            let ending = *ends.borrow();
            match self.page().await {
                Some(page) => {
                    page.events.into_iter().for_each(|event| self.see(event));
                    self.after = Some(page.next);
                    if !page.caught_up {
                        continue;
                    }
                    if ending {
                        return self.read;
                    }
                }
                None => self.read.refused += 1,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// `None` if it is to be asked for again: that nothing is lost by it is what is tried here.
    async fn page(&self) -> Option<Page> {
        let after = self.after.as_ref().map(|after| format!("&after={after}")).unwrap_or_default();
        let answer = self.client.get(format!("{}{after}", self.url)).send().await.ok()?;
        let status = answer.status();
        let body = answer.bytes().await.ok()?;
        assert!(status == StatusCode::OK || status.is_server_error(), "{status}: {}", body.escape_ascii());
        (status == StatusCode::OK).then(|| serde_json::from_slice(&body).unwrap())
    }

    fn see(&mut self, event: Event) {
        self.read.events += 1;
        let Event { topic, event_id, seq } = event;
        let next_seq = self.next_seqs.entry(topic.clone()).or_insert(1);
        if seq != *next_seq {
            self.read.out_of_order.add(|| format!("{topic} {event_id} seq {seq}, expected {next_seq}"));
        }
        *next_seq = seq + 1;
        let key = (topic, event_id);
        if self.seen.contains(&key) {
            self.read.doubled.add(|| format!("{} {} seq {seq}", key.0, key.1));
        }
        self.seen.insert(key);
    }
}
