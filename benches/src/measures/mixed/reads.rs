//! The reads: each kind on a connection and a thread of its own.
//!
//! At a pace, requests are due by a schedule that does not wait, and latency counts from when one was due.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use serde::Deserialize;

use crate::load::histogram;
use crate::measures::read::Page;
use crate::server::{get_on, post};
use crate::wire::Reply;
use crate::workload::{Row, TEMPLATE, Workload, mix, topic_name};

/// Pages of each kind in a second, at a pace.
pub(crate) const PAGES_PER_SECOND: u32 = 20;
/// Lookups in a second, at a pace.
pub(crate) const LOOKUPS_PER_SECOND: u32 = 50;
/// Lists of topics in a second, also without a pause elsewhere.
pub(crate) const LISTS_PER_SECOND: u32 = 2;
/// Events of a page.
pub(crate) const PAGE: u64 = 1_000;
/// Identities of a lookup. Of these, [`UNKNOWN`] are not stored.
pub(crate) const IDS: usize = 100;
pub(crate) const UNKNOWN: usize = 20;

/// How soon a request follows the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Scheduled,
    /// As soon as that is answered.
    WithoutPause,
}

/// What all readers know.
#[derive(Clone, Copy)]
pub(super) struct Reads<'a> {
    pub(super) address: SocketAddr,
    pub(super) workload: Workload,
    pub(super) topics: u16,
    /// Identities that are stored before the load begins.
    pub(super) stored: u64,
    pub(super) pace: Pace,
    /// How many are stored after it, or 0 if publishing has failed. A reader ends once this is known.
    pub(super) end: &'a OnceLock<u64>,
}

type Read = fn(Reads<'_>) -> anyhow::Result<Histogram<u64>>;

/// What is read, and who reads it. Each returns how long its requests took, in µs.
pub(super) const KINDS: [(&str, Read); 4] = [
    ("a page of 1,000 events of all topics", |reads| reads.pages_of_all()),
    ("a page of 1,000 events of one topic", |reads| reads.pages_of_topics()),
    ("a lookup of 100 identities", |reads| reads.lookups()),
    ("the list of 1,000 topics", |reads| reads.topic_lists()),
];

impl Reads<'_> {
    /// Reads all events again and again. The last time, it must have read exactly what is stored.
    fn pages_of_all(self) -> anyhow::Result<Histogram<u64>> {
        let mut asker = Asker::start(self, self.every(PAGES_PER_SECOND))?;
        let mut walk = Walk::new(String::new());
        while let Some(due) = asker.next_due() {
            walk.begin_again_at_the_end();
            walk.page(&mut asker, Some(due))?;
        }
        self.finish(walk, &mut asker, |end| end)
    }

    /// Reads one topic after the other.
    fn pages_of_topics(self) -> anyhow::Result<Histogram<u64>> {
        let mut asker = Asker::start(self, self.every(PAGES_PER_SECOND))?;
        let topic = |n: u64| n % u64::from(self.topics);
        let walk_of = |n: u64| Walk::new(format!("&topic={}", topic_name(topic(n))));
        let (mut number, mut walk) = (0, walk_of(0));
        while let Some(due) = asker.next_due() {
            if walk.is_at_the_end {
                number += 1;
                walk = walk_of(number);
            }
            walk.page(&mut asker, Some(due))?;
        }
        self.finish(walk, &mut asker, |end| self.workload.identities_of(topic(number), end))
    }

    /// Walks on to the end, and compares what was read with what is stored.
    fn finish(
        self,
        mut walk: Walk,
        asker: &mut Asker<'_>,
        expected: impl Fn(u64) -> u64,
    ) -> anyhow::Result<Histogram<u64>> {
        // What was at the end while events came may have missed the last ones.
        loop {
            walk.page(asker, None)?;
            if walk.is_at_the_end {
                break;
            }
        }
        let end = *self.end.get().context("the load has ended")?;
        if end > 0 {
            let (read, expected) = (walk.events, expected(end));
            ensure!(read == expected, "{read} events were read, but {expected} are stored");
        }
        Ok(std::mem::replace(&mut asker.took, histogram()))
    }

    /// Looks up identities that are stored, drawn from all, and some that are not.
    fn lookups(self) -> anyhow::Result<Histogram<u64>> {
        let mut asker = Asker::start(self, self.every(LOOKUPS_PER_SECOND))?;
        let mut number = 0;
        while let Some(due) = asker.next_due() {
            number += 1;
            let request = post("/lookup", &self.lookup(number));
            asker.ask(&request, Some(due))?;
            let found: Found = serde_json::from_slice(asker.reply.body())?;
            let right = found.results.len() == IDS
                && found.results.iter().enumerate().all(|(place, id)| id.seen == (place >= UNKNOWN));
            ensure!(right, "a lookup of {UNKNOWN} unknown ids and others says {}", asker.reply.text());
        }
        Ok(asker.took)
    }

    fn lookup(&self, number: u64) -> String {
        // No delivery comes as far as this identity.
        const NEVER: u64 = 500_000_000_000;
        let (mut body, mut text) = (String::from(r#"{"ids":["#), TEMPLATE.to_vec());
        for place in 0..IDS {
            let draw = mix(number * IDS as u64 + place as u64) % self.stored;
            self.workload.render(if place < UNKNOWN { NEVER + draw } else { draw }, &mut text);
            let Row { topic, event_id, .. } = Row::of(&text);
            let comma = if place == 0 { "" } else { "," };
            let _ = write!(body, r#"{comma}{{"topic":"{topic}","event_id":"{event_id}"}}"#);
        }
        body + "]}"
    }

    /// Lists the topics, which all fit a page.
    fn topic_lists(self) -> anyhow::Result<Histogram<u64>> {
        let mut asker = Asker::start(self, Some(Duration::from_secs(1) / LISTS_PER_SECOND))?;
        while let Some(due) = asker.next_due() {
            asker.get("/topics?limit=1000", Some(due))?;
            let list: Topics = serde_json::from_slice(asker.reply.body())?;
            ensure!(list.count == self.topics, "{} of {} topics were listed", list.count, self.topics);
        }
        Ok(asker.took)
    }

    /// The time between two requests, if they have a schedule.
    fn every(&self, per_second: u32) -> Option<Duration> {
        (self.pace == Pace::Scheduled).then(|| Duration::from_secs(1) / per_second)
    }
}

#[derive(Deserialize)]
struct Found {
    results: Vec<Seen>,
}

#[derive(Deserialize)]
struct Seen {
    seen: bool,
}

#[derive(Deserialize)]
struct Topics {
    count: u16,
}

/// A walk through pages, from the first event on.
struct Walk {
    filter: String,
    after: String,
    events: u64,
    is_at_the_end: bool,
}

impl Walk {
    fn new(filter: String) -> Self {
        Self { filter, after: String::new(), events: 0, is_at_the_end: false }
    }

    fn begin_again_at_the_end(&mut self) {
        if self.is_at_the_end {
            *self = Self::new(std::mem::take(&mut self.filter));
        }
    }

    /// Reads the next page. A page that is not full counts in no figure.
    fn page(&mut self, asker: &mut Asker<'_>, due: Option<Instant>) -> anyhow::Result<()> {
        asker.get(&format!("/events?limit={PAGE}{}{}", self.filter, self.after), None)?;
        let came = Instant::now();
        let page = Page::of(asker.reply.body()).with_context(|| format!("a page: {}", asker.reply.text()))?;
        self.events += page.count;
        self.is_at_the_end = page.caught_up;
        self.after = format!("&after={}", page.next);
        if let Some(due) = due.filter(|_| page.count == PAGE) {
            asker.record(came - due)?;
        }
        Ok(())
    }
}

/// A connection, and when its requests are due.
struct Asker<'a> {
    stream: TcpStream,
    reply: Reply,
    every: Option<Duration>,
    due: Instant,
    end: &'a OnceLock<u64>,
    took: Histogram<u64>,
}

impl<'a> Asker<'a> {
    fn start(reads: Reads<'a>, every: Option<Duration>) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(reads.address)?;
        stream.set_nodelay(true)?;
        let (reply, due, took) = (Reply::default(), Instant::now(), histogram());
        Ok(Self { stream, reply, every, due, end: reads.end, took })
    }

    /// Waits until the next request is due. `None` once the load has ended.
    fn next_due(&mut self) -> Option<Instant> {
        self.due = match self.every {
            None => Instant::now(),
            Some(every) => self.due + every,
        };
        thread::sleep(self.due.saturating_duration_since(Instant::now()));
        self.end.get().is_none().then_some(self.due)
    }

    fn get(&mut self, path: &str, due: Option<Instant>) -> anyhow::Result<()> {
        get_on(&mut self.stream, path, &mut self.reply)?;
        self.check(due)
    }

    fn ask(&mut self, request: &[u8], due: Option<Instant>) -> anyhow::Result<()> {
        self.stream.write_all(request)?;
        self.reply.read_from(&mut self.stream)?;
        self.check(due)
    }

    /// Checks the status, and records how long it took.
    fn check(&mut self, due: Option<Instant>) -> anyhow::Result<()> {
        let took = due.map(|due| due.elapsed());
        ensure!(self.reply.status() == 200, "status {}: {}", self.reply.status(), self.reply.text());
        took.map_or(Ok(()), |took| self.record(took))
    }

    fn record(&mut self, took: Duration) -> anyhow::Result<()> {
        self.took.saturating_record(u64::try_from(took.as_micros())?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::workload::RECENT;

    #[test]
    fn a_lookup_has_so_many_unknown_identities_first_and_then_stored_ones() {
        let workload = Workload::new(7, RECENT, 10_u16);
        let (address, end) = (([127, 0, 0, 1], 1).into(), OnceLock::new());
        let pace = Pace::Scheduled;
        let reads = Reads { address, workload, topics: 10, stored: 1_000, pace, end: &end };
        let mut text = TEMPLATE.to_vec();
        let stored: HashSet<String> = (0..reads.stored)
            .map(|identity| {
                workload.render(identity, &mut text);
                Row::of(&text).event_id.to_owned()
            })
            .collect();
        for number in 0..10 {
            let body: serde_json::Value = serde_json::from_str(&reads.lookup(number)).unwrap();
            let ids = body["ids"].as_array().unwrap();
            assert_eq!(ids.len(), IDS);
            for (place, id) in ids.iter().enumerate() {
                assert_eq!(stored.contains(id["event_id"].as_str().unwrap()), place >= UNKNOWN, "{id}");
            }
        }
    }

    #[test]
    fn without_a_pause_requests_have_no_schedule() {
        let (workload, end) = (Workload::new(7, RECENT, 10_u16), OnceLock::new());
        let every = |pace| {
            let address = ([127, 0, 0, 1], 1).into();
            Reads { address, workload, topics: 10, stored: 1, pace, end: &end }.every(PAGES_PER_SECOND)
        };
        assert_eq!(every(Pace::Scheduled), Some(Duration::from_millis(50)));
        assert_eq!(every(Pace::WithoutPause), None);
    }
}
