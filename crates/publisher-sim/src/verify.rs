//! Reads everything of a run back, or follows it as it is stored, and compares it with the receipts.
//!
//! Receipts alone prove little: a retry after a lost reply is told `duplicate` about an event that no
//! receipt called `stored`, and a server may say what it likes. What counts is what a reader gets.
//!
//! Pages come through the client as bytes, and are parsed and followed here. The client could do that, too, but then its
//! own mistakes, such as a page left out or read twice, would look like the server's, or hide them.

mod checker;
mod event_stream;
mod follow;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use aggregator_client::Backoff;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::client::Client;
use crate::ledger::Ledger;
use crate::progress::Progress;
use crate::retry::with_retries;
use crate::seed::{Stream, Streams};
use crate::stop::Stop;
use crate::workload::Workload;

pub use checker::{Checker, Counts};
pub use follow::{Followed, Follower, last_seqs};

/// The largest page the server gives.
const MAX_PAGE_EVENTS: u32 = 1000;

/// About how long a page may get; with large payloads it holds fewer events.
const PAGE_BYTES: u32 = 8 << 20;

/// What an event has around its payload, roughly.
const EVENT_OVERHEAD_BYTES: u32 = 512;

/// After this many pages without progress of the cursor, reading is reported as stuck.
const MAX_PAGES_WITHOUT_PROGRESS: u32 = 10;

/// How the events are read that are compared with the receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyBy {
    /// Page by page, topic by topic, after everything was sent.
    Pages,
    /// As one stream of all topics (Server-Sent Events), while they are published.
    Stream,
}

/// How the store compares with the receipts.
#[derive(Debug)]
pub struct Verification {
    /// How it was read.
    pub by: VerifyBy,
    /// What was found.
    pub counts: Counts,
    /// Why the store could not be read to its end, if it could not.
    pub unfinished: Option<String>,
    /// How often the stream was connected again after it broke.
    pub reconnections: u64,
    /// How long reading took; of a stream, how long after the last receipt.
    pub elapsed: Duration,
}

impl Verification {
    /// Whether all was read and nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unfinished.is_none() && self.counts.faults() == 0
    }
}

/// Where and how to read.
#[derive(Debug)]
pub struct Reader<'a> {
    /// The server.
    pub client: &'a Client,
    /// The events that were sent.
    pub workload: &'a Workload,
    /// Where waits are drawn from.
    pub streams: &'a Streams,
    /// How failures are retried.
    pub backoff: Backoff,
    /// The size of a payload.
    pub payload_bytes: u32,
    /// When to stop early.
    pub stop: &'a Stop,
    /// Where progress is shown.
    pub progress: &'a Progress,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    events: Vec<StoredEvent<'a>>,
    next: Option<String>,
    caught_up: bool,
}

/// An event as a reader gets it.
#[derive(Debug, Deserialize)]
pub struct StoredEvent<'a> {
    /// Its topic.
    #[serde(borrow)]
    pub topic: Cow<'a, str>,
    /// Its id.
    #[serde(borrow)]
    pub event_id: Cow<'a, str>,
    /// When it happened, as published.
    #[serde(borrow)]
    pub timestamp: Cow<'a, str>,
    /// Who published it.
    #[serde(borrow)]
    pub source: Cow<'a, str>,
    /// Its payload, byte for byte.
    #[serde(borrow)]
    pub payload: &'a RawValue,
    /// The publisher's own number, if it has one.
    pub sequence: Option<u64>,
    /// Its place in the topic, from 1.
    pub seq: u64,
}

impl Reader<'_> {
    /// Reads all topics of the run from their beginning and checks what comes.
    pub async fn verify(&self, identities: u32, ledger: &Ledger) -> Verification {
        let began = Instant::now();
        self.progress.phase("reading", identities.into());
        let mut checker = Checker::new(self.workload, identities);
        let unfinished = self.read_all(&mut checker).await.err();
        let counts = if unfinished.is_none() { checker.finish(ledger) } else { checker.give_up(ledger) };
        let elapsed = began.elapsed();
        Verification { by: VerifyBy::Pages, counts, unfinished, reconnections: 0, elapsed }
    }

    async fn read_all(&self, checker: &mut Checker<'_>) -> Result<(), String> {
        for (number, topic) in self.workload.topics().iter().enumerate() {
            checker.begin_topic(number);
            self.read_topic(topic, checker).await.map_err(|reason| format!("{topic}: {reason}"))?;
        }
        Ok(())
    }

    async fn read_topic(&self, topic: &str, checker: &mut Checker<'_>) -> Result<(), String> {
        let page_size = (PAGE_BYTES / (self.payload_bytes + EVENT_OVERHEAD_BYTES)).clamp(1, MAX_PAGE_EVENTS);
        let mut after: Option<String> = None;
        let mut without_progress = 0;
        loop {
            let retries = self.backoff.start(self.streams.rng(Stream::Backoff, u64::MAX));
            let page = |limit| self.client.page(topic, page_size, after.as_deref(), limit);
            let reading = with_retries(retries, self.stop, |_| {}, page);
            let Some(body) = reading.await.map_err(|gave_up| gave_up.to_string())? else {
                // Usually no event was drawn for this topic. If there were any, they are counted as lost.
                return Ok(());
            };
            let page: Page<'_> =
                serde_json::from_slice(&body).map_err(|error| format!("a page cannot be read: {error}"))?;
            for event in &page.events {
                checker.see(event);
            }
            self.progress.advance(page.events.len() as u64);
            if page.caught_up {
                return Ok(());
            }
            let Some(next) = page.next else {
                return Err("a page is not the last one but has no cursor".to_owned());
            };
            without_progress = if after.as_ref() == Some(&next) { without_progress + 1 } else { 0 };
            if without_progress >= MAX_PAGES_WITHOUT_PROGRESS {
                return Err("the cursor no longer moves, but the end is not reached".to_owned());
            }
            after = Some(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_is_what_was_read_to_its_end_and_has_no_fault() {
        let is_clean = |unfinished: Option<&str>, faults| {
            let mut counts = Counts::default();
            (0..faults).for_each(|_| counts.lost.add(String::new));
            let unfinished = unfinished.map(str::to_owned);
            let (by, elapsed) = (VerifyBy::Pages, Duration::ZERO);
            Verification { by, counts, unfinished, reconnections: 0, elapsed }.is_clean()
        };
        assert!(is_clean(None, 0));
        assert!(!is_clean(None, 1));
        assert!(!is_clean(Some("the server is gone"), 0));
        assert!(!is_clean(Some("the server is gone"), 1));
    }
}
