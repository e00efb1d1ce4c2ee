//! Follows all topics of a run as one stream while it is published, and gives the judge what comes.

use std::collections::HashMap;
use std::time::Duration;

use aggregator_client::{Backoff, ServerUrl};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::event_stream::{Block, EventStream};
use super::{Checker, StoredEvent, Verification, VerifyBy};
use crate::config::TopicPrefix;
use crate::ledger::Ledger;
use crate::seed::Streams;
use crate::stop::Stop;
use crate::workload::Workload;

/// What a stream repeats behind its last event has to come within this.
const LINGER: Duration = Duration::from_millis(200);

/// Where and how to follow.
#[derive(Debug)]
pub struct Follower<'a> {
    /// Connections for the stream alone.
    pub http: reqwest::Client,
    /// The server.
    pub url: &'a ServerUrl,
    /// What the topics begin with.
    pub topic_prefix: &'a TopicPrefix,
    /// The events that are sent.
    pub workload: &'a Workload,
    /// Where waits are drawn from.
    pub streams: &'a Streams,
    /// How lost connections are retried.
    pub backoff: Backoff,
    /// How long the stream may bring no event although some are missing.
    pub patience: Duration,
    /// When to stop early.
    pub stop: &'a Stop,
}

/// What came by the stream.
#[derive(Debug)]
pub struct Followed<'a> {
    checker: Checker<'a>,
    unfinished: Option<String>,
    reconnections: u64,
    elapsed: Duration,
}

/// The place in each topic that the receipts speak of: the highest seq, or 0.
#[must_use]
pub fn last_seqs(workload: &Workload, ledger: &Ledger) -> Vec<u64> {
    let mut last = vec![0; workload.topics().len()];
    for index in ledger.all_acknowledged() {
        let last = &mut last[workload.head(index).topic];
        *last = ledger.acknowledged(index).unwrap_or(0).max(*last);
    }
    last
}

impl<'a> Follower<'a> {
    /// Follows from the beginning of the topics until all that `sent` says has come: the [`last_seqs`] of what was
    /// acknowledged, when everything is sent.
    pub async fn follow(&self, identities: u32, sent: oneshot::Receiver<Vec<u64>>) -> Followed<'a> {
        let url = format!("{}/events/stream?topic={}.*", self.url, self.topic_prefix);
        let mut following = Following {
            stream: EventStream::new(&self.http, &url, self.streams, self.backoff),
            checker: Checker::new(self.workload, identities),
            topics: self.workload.topics().iter().map(String::as_str).zip(0..).collect(),
            newest: vec![0; self.workload.topics().len()],
            patience: self.patience,
            reconnections: 0,
            all_sent: Instant::now(),
            progress: Instant::now(),
        };
        let ended = tokio::select! {
            ended = following.run(sent) => ended,
            () = self.stop.stopped() => Err("interrupted".to_owned()),
        };
        let Following { checker, reconnections, all_sent, .. } = following;
        Followed { checker, unfinished: ended.err(), reconnections, elapsed: all_sent.elapsed() }
    }
}

impl Followed<'_> {
    /// Compares what came with the receipts.
    #[must_use]
    pub fn judge(self, ledger: &Ledger) -> Verification {
        let Self { checker, unfinished, reconnections, elapsed } = self;
        let counts = if unfinished.is_none() { checker.finish(ledger) } else { checker.give_up(ledger) };
        Verification { by: VerifyBy::Stream, counts, unfinished, reconnections, elapsed }
    }
}

struct Following<'a, 's> {
    stream: EventStream<'s>,
    checker: Checker<'a>,
    /// The numbers of the topics.
    topics: HashMap<&'a str, usize>,
    /// The highest seq that came of each topic.
    newest: Vec<u64>,
    patience: Duration,
    reconnections: u64,
    all_sent: Instant,
    /// When the last event came, or everything was sent.
    progress: Instant,
}

impl Following<'_, '_> {
    async fn run(&mut self, mut sent: oneshot::Receiver<Vec<u64>>) -> Result<(), String> {
        let goal = loop {
            tokio::select! {
                goal = &mut sent => break goal.map_err(|_| "sending ended early".to_owned())?,
                block = self.stream.next() => self.take(&block?)?,
            };
        };
        (self.all_sent, self.progress) = (Instant::now(), Instant::now());
        let missing = |newest: &[u64]| newest.iter().zip(&goal).any(|(newest, goal)| newest < goal);
        // First over the connection there is: it has to be woken by what is stored.
        while missing(&self.newest) && self.take_in_time().await?.is_some() {}
        let silent = missing(&self.newest);
        let lingered = Instant::now() + LINGER;
        while let Ok(block) = timeout_at(lingered, self.stream.next()).await {
            self.take(&block?)?;
        }
        // Then over a new one, which says where the end is, and goes on where the first one stood.
        self.reconnections = self.stream.connections().saturating_sub(1);
        self.stream.disconnect();
        while self.take_in_time().await?.ok_or("the stream does not come to its end")? != "caught_up" {}
        match silent && !missing(&self.newest) {
            true => {
                Err(format!("the stream brought nothing for {:?}, and events were missing", self.patience))
            }
            false => Ok(()),
        }
    }

    /// Takes a block, and says its kind; `None` if there was no event for too long.
    async fn take_in_time(&mut self) -> Result<Option<String>, String> {
        match timeout_at(self.progress + self.patience, self.stream.next()).await {
            Ok(block) => {
                let block = block?;
                self.take(&block)?;
                Ok(Some(block.event))
            }
            Err(_) => {
                self.progress = Instant::now();
                Ok(None)
            }
        }
    }

    fn take(&mut self, block: &Block) -> Result<(), String> {
        match block.event.as_str() {
            "gap" => return Err("retention removed events of the run".to_owned()),
            "" if !block.data.is_empty() => {}
            _ => return Ok(()),
        }
        let event: StoredEvent<'_> = serde_json::from_str(&block.data)
            .map_err(|error| format!("an event of the stream cannot be read: {error}"))?;
        // Other runs may have more topics below the prefix.
        if let Some(topic) = self.topics.get(&*event.topic).copied() {
            self.checker.turn_to(topic);
            self.checker.see(&event);
            // A stream that only repeats what it said makes no progress.
            if event.seq > self.newest[topic] {
                (self.newest[topic], self.progress) = (event.seq, Instant::now());
            }
        }
        Ok(())
    }
}
