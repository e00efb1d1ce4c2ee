//! The judge of a network's record: do the replies that a server gave agree with each other, and with
//! what it holds in the end?
//!
//! Every publisher holds its own receipts against the store. Here are those of all publishers together,
//! and those that were lost on their way: two publishers that are each told `stored` about one identity
//! notice nothing, each by itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::peer::published;
use crate::proxy::{Exchange, Reply};

/// The most pages that a topic can have here.
const MAX_PAGES: usize = 1000;

/// Topic and event_id.
pub(crate) type Key = (String, String);

/// Seq and processed_at.
pub(crate) type Place = (u64, String);

/// What is known of a server in the end.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    pub(crate) exchanges: Vec<Exchange>,
    /// All events, each topic in the order in which it was read back.
    pub(crate) rows: Vec<Row>,
    /// What the store itself says about identities, for servers that have one.
    pub(crate) lookups: BTreeMap<Key, Option<Place>>,
}

/// An event as it was read back.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Row {
    topic: String,
    event_id: String,
    seq: u64,
    pub(crate) processed_at: String,
    payload: Box<RawValue>,
}

/// What has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Promise {
    /// A reply names every event of its request, in order.
    EveryItemHasAFate,
    /// No two receipts of an identity say `stored`.
    StoredIsSaidOnce,
    /// One receipt of an identity says `stored`, unless that reply was not even heard by the network.
    StoredIsSaid,
    /// All receipts of an identity name one seq and one time: those of the event that is held.
    ReceiptsNameTheEvent,
    /// `stored` and `duplicate` are said of the payload that is held, `conflict` of others.
    OutcomesTellPayloads,
    /// An identity that has a receipt is held once.
    HeldOnce,
    /// Seqs are 1, 2, 3, … in the order of reading, and times do not go back.
    DenseAndInOrder,
    /// A lookup finds the event that is held.
    LookupAgrees,
}

/// Everything that is broken, with the identities that show it.
pub(crate) type Findings = BTreeMap<Promise, BTreeSet<String>>;

#[derive(Deserialize)]
struct Answer {
    results: Vec<Receipt>,
}

#[derive(Debug, Deserialize)]
struct Receipt {
    topic: String,
    event_id: String,
    outcome: String,
    seq: u64,
    processed_at: String,
}

/// All that was said about an identity.
#[derive(Default)]
struct Told<'a> {
    /// Each with the payload it was about.
    receipts: Vec<(Receipt, &'a str)>,
    /// Whether a request with it got through, perhaps, and the reply to it was not heard.
    maybe_unheard: bool,
}

/// Items that were delivered to the server.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// With a receipt.
    pub(crate) heard: u64,
    /// With a receipt that reached the publisher.
    pub(crate) arrived: u64,
    /// Without: perhaps taken, perhaps not.
    pub(crate) unheard: u64,
    /// Receipts that say `conflict`.
    pub(crate) conflicts: u64,
}

impl Evidence {
    /// The record of the network, and all events of its topics as the server at `url` gives them now.
    pub(crate) async fn gather(exchanges: Vec<Exchange>, url: &str) -> Self {
        let client = crate::http_client();
        let topics: BTreeSet<String> = exchanges
            .iter()
            .flat_map(|exchange| published(exchange.request.body()).into_iter().map(|event| event.topic))
            .collect();
        let mut rows = Vec::new();
        for topic in &topics {
            rows.extend(read_back(&client, url, topic).await);
        }
        Self { exchanges, rows, lookups: BTreeMap::new() }
    }

    /// Everything that was delivered, lost or not.
    pub(crate) fn identities(&self) -> BTreeSet<Key> {
        let events = self.exchanges.iter().flat_map(|exchange| published(exchange.request.body()));
        events.map(|event| (event.topic, event.event_id)).collect()
    }

    /// Where everything is that was read back; what lookups have to say.
    pub(crate) fn places(&self) -> BTreeMap<Key, Option<Place>> {
        let rows = self.rows.iter();
        rows.map(|row| ((row.topic.clone(), row.event_id.clone()), Some((row.seq, row.processed_at.clone()))))
            .collect()
    }

    /// How many items the server must have counted, and how many more it may have.
    pub(crate) fn delivered(&self) -> Delivered {
        let mut delivered = Delivered::default();
        for exchange in &self.exchanges {
            let items = published(exchange.request.body()).len() as u64;
            let arrived = accepted(exchange).filter(|reply| reply.arrived).count();
            let answers = answers(exchange);
            delivered.arrived += items * arrived as u64;
            delivered.heard += items * answers.len() as u64;
            delivered.unheard += items * (exchange.unheard + exchange.replies.len() - answers.len()) as u64;
            let receipts = answers.iter().flat_map(|answer| &answer.results);
            delivered.conflicts += receipts.filter(|receipt| receipt.outcome == "conflict").count() as u64;
        }
        delivered
    }

    /// Everything that is broken.
    pub(crate) fn findings(&self) -> Findings {
        let mut findings = Findings::new();
        let told = self.told(&mut findings);
        let held = self.held(&mut findings);
        let rows = |key| held.get(key).map_or(&[][..], Vec::as_slice);
        for (key, told) in &told {
            told.check(key, rows(key), &mut findings);
        }
        for (key, found) in &self.lookups {
            let place = rows(key).first().map(|row| (row.seq, row.processed_at.clone()));
            if *found != place {
                add(&mut findings, Promise::LookupAgrees, key, || format!("{found:?}, held: {place:?}"));
            }
        }
        findings
    }

    /// What was said about each identity.
    fn told(&self, findings: &mut Findings) -> BTreeMap<Key, Told<'_>> {
        let mut told: BTreeMap<Key, Told<'_>> = BTreeMap::new();
        for exchange in &self.exchanges {
            let events = published(exchange.request.body());
            let key = |at: usize| (events[at].topic.clone(), events[at].event_id.clone());
            let answers = answers(exchange);
            let unheard = exchange.unheard + exchange.replies.len() > answers.len();
            for at in 0..events.len() {
                told.entry(key(at)).or_default().maybe_unheard |= unheard;
            }
            for answer in answers {
                let named = answer.results.iter().map(|receipt| (&receipt.topic, &receipt.event_id));
                if !named.eq(events.iter().map(|event| (&event.topic, &event.event_id))) {
                    let detail = || format!("its request got {:?}", answer.results);
                    add(findings, Promise::EveryItemHasAFate, &key(0), detail);
                    continue;
                }
                for (at, receipt) in answer.results.into_iter().enumerate() {
                    told.entry(key(at)).or_default().receipts.push((receipt, events[at].payload.get()));
                }
            }
        }
        told
    }

    /// What is held of each identity.
    fn held(&self, findings: &mut Findings) -> HashMap<Key, Vec<&Row>> {
        let mut held: HashMap<Key, Vec<&Row>> = HashMap::new();
        let mut last: Option<&Row> = None;
        for row in &self.rows {
            let key = (row.topic.clone(), row.event_id.clone());
            let before = last.filter(|last| last.topic == row.topic);
            let (seq, since) = before.map_or((1, ""), |before| (before.seq + 1, &before.processed_at));
            if row.seq != seq || row.processed_at.as_str() < since {
                add(findings, Promise::DenseAndInOrder, &key, || format!("{row:?} after {before:?}"));
            }
            held.entry(key).or_default().push(row);
            last = Some(row);
        }
        held
    }
}

impl Told<'_> {
    fn check(&self, key: &Key, rows: &[&Row], findings: &mut Findings) {
        let stored = self.receipts.iter().filter(|(receipt, _)| receipt.outcome == "stored").count();
        if stored > 1 {
            add(findings, Promise::StoredIsSaidOnce, key, || format!("{stored} times"));
        }
        if stored == 0 && !self.receipts.is_empty() && !self.maybe_unheard {
            add(findings, Promise::StoredIsSaid, key, || "all replies were heard".to_owned());
        }
        if rows.len() > 1 || (rows.is_empty() && !self.receipts.is_empty()) {
            add(findings, Promise::HeldOnce, key, || format!("{} times", rows.len()));
        }
        for (receipt, payload) in &self.receipts {
            let is_named = |row: &&&Row| row.seq == receipt.seq && row.processed_at == receipt.processed_at;
            let Some(row) = rows.iter().find(is_named) else {
                let detail = || format!("{receipt:?}, held: {rows:?}");
                add(findings, Promise::ReceiptsNameTheEvent, key, detail);
                continue;
            };
            if (row.payload.get() == *payload) != (receipt.outcome != "conflict") {
                let detail = || format!("{receipt:?} of {payload}, held: {row:?}");
                add(findings, Promise::OutcomesTellPayloads, key, detail);
            }
        }
    }
}

fn add(findings: &mut Findings, promise: Promise, (topic, event_id): &Key, detail: impl FnOnce() -> String) {
    findings.entry(promise).or_default().insert(format!("{topic} {event_id}: {}", detail()));
}

/// The replies of an exchange that hold receipts.
fn accepted(exchange: &Exchange) -> impl Iterator<Item = &Reply> {
    exchange.replies.iter().filter(|reply| reply.message.starts_with("HTTP/1.1 202 "))
}

fn answers(exchange: &Exchange) -> Vec<Answer> {
    accepted(exchange).map(|reply| serde_json::from_slice(reply.message.body()).unwrap()).collect()
}

async fn read_back(client: &Client, url: &str, topic: &str) -> Vec<Row> {
    #[derive(Deserialize)]
    struct Page {
        events: Vec<Row>,
        next: String,
        caught_up: bool,
    }

    let mut rows = Vec::new();
    let mut after: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let mut page = Url::parse(url).unwrap().join("/events").unwrap();
        page.query_pairs_mut()
            .extend_pairs([("topic", topic), ("limit", "1000")])
            .extend_pairs(after.iter().map(|cursor| ("after", cursor)));
        let page = client.get(page).send().await.unwrap().bytes().await.unwrap();
        let page: Page = serde_json::from_slice(&page).unwrap();
        rows.extend(page.events);
        if page.caught_up {
            return rows;
        }
        after = Some(page.next);
    }
    panic!("{topic} has no end");
}
