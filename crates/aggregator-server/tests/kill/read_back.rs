//! What is left when it is over: everything that can be read, against what was sent and acknowledged.

use aggregator_core::{DedupStore, DedupStoreExt as _, Timestamp};
use publisher_sim::findings::Findings;
use publisher_sim::plan::Delivery;
use publisher_sim::workload::Workload;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::follower::Followed;
use crate::journal::Noted;
use crate::publishers::Publishers;
use crate::server::{Server, Site};

const RESEND_EVENTS: usize = 1000;

/// What was found.
#[derive(Debug)]
pub(crate) struct ReadBack {
    pub(crate) events: u64,
    /// Each begins with which promise it breaks.
    pub(crate) breaches: Vec<String>,
}

impl ReadBack {
    /// Whoever followed while the server was killed saw the same.
    pub(crate) fn note_followed(&mut self, followed: &Followed) {
        let Followed { events, out_of_order, .. } = followed;
        if *events != self.events {
            self.breaches.push(format!("events that the tail saw: {events} instead of {}", self.events));
        }
        if out_of_order.count() > 0 {
            let examples = out_of_order.examples();
            self.breaches
                .push(format!("the tail saw out of order: {}, such as {examples:#?}", out_of_order.count()));
        }
    }
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    events: Vec<Stored<'a>>,
    next: String,
    caught_up: bool,
}

#[derive(Deserialize)]
struct Stored<'a> {
    topic: &'a str,
    event_id: &'a str,
    timestamp: &'a str,
    source: &'a str,
    #[serde(borrow)]
    payload: &'a RawValue,
    seq: u64,
    processed_at: &'a str,
}

/// The number of an event, which its payload tells.
#[derive(Deserialize)]
struct Payload {
    n: u32,
}

/// Reads everything through the server, sends it again, ends the server in order, and looks at the file.
pub(crate) fn read_back(publishers: &Publishers, mut server: Server, site: &Site) -> ReadBack {
    let journal = publishers.journal();
    let (counts, receipts) = (journal.counts(), journal.receipts());
    let mut check = Check::new(publishers.workload(), &receipts);
    for topic in publishers.workload().topics() {
        check.begin_topic();
        let mut after = None;
        loop {
            let Some(body) = publishers.page(topic, after.as_deref()) else { break };
            let page: Page<'_> = serde_json::from_slice(&body).unwrap();
            page.events.iter().for_each(|event| check.see(topic, event));
            if page.caught_up {
                break;
            }
            after = Some(page.next);
        }
    }
    check.look_for_the_lost();

    let before = publishers.stats();
    check.equal("events in the statistics", before.unique_processed, check.events);
    let sum = before.unique_processed + before.duplicate_dropped + before.conflicts;
    check.equal("deliveries received", before.received, sum);
    check.at_least("deliveries received", before.received, counts.events);
    check.at_least("conflicts", before.conflicts, counts.conflicts);
    check.at_least("events, of those acknowledged as stored", check.events, counts.stored);

    let acknowledged: Vec<_> =
        (0..).zip(&receipts).filter_map(|(index, noted)| Some((index, (*noted)?))).collect();
    let again = acknowledged.iter().map(|&(index, noted)| Delivery { index, altered: noted.altered });
    for deliveries in again.collect::<Vec<_>>().chunks(RESEND_EVENTS) {
        publishers.resend(deliveries);
    }
    let after = publishers.stats();
    let resent = acknowledged.len() as u64;
    check.equal("stored of what was sent again", journal.counts().stored, counts.stored);
    check.equal("conflicts of what was sent again", after.conflicts, before.conflicts);
    check.equal("events after all was sent again", after.unique_processed, before.unique_processed);
    check.equal("duplicates", after.duplicate_dropped, before.duplicate_dropped + resent);

    server.terminate();
    assert!(server.ended().success(), "it ends in order when it is asked to");
    let store = site.open();
    check.equal("events in the file", store.stats().unwrap().stored, after.unique_processed);
    let faults = store.verify().unwrap().faults;
    check.breaches.extend(faults.into_iter().map(|fault| format!("the file contradicts itself: {fault}")));
    check.tell("receipts", &journal.broken());
    check.finish()
}

struct Check<'a> {
    workload: &'a Workload,
    receipts: &'a [Option<Noted>],
    seen: Vec<bool>,
    next_seq: u64,
    last_processed_at: Timestamp,
    events: u64,
    doubled: Findings,
    never_sent: Findings,
    out_of_order: Findings,
    changed: Findings,
    lost: Findings,
    breaches: Vec<String>,
}

impl<'a> Check<'a> {
    fn new(workload: &'a Workload, receipts: &'a [Option<Noted>]) -> Self {
        Self {
            workload,
            receipts,
            seen: vec![false; receipts.len()],
            next_seq: 1,
            last_processed_at: Timestamp::MIN,
            events: 0,
            doubled: Findings::default(),
            never_sent: Findings::default(),
            out_of_order: Findings::default(),
            changed: Findings::default(),
            lost: Findings::default(),
            breaches: Vec::new(),
        }
    }

    fn begin_topic(&mut self) {
        self.next_seq = 1;
        self.last_processed_at = Timestamp::MIN;
    }

    fn see(&mut self, topic: &str, event: &Stored<'_>) {
        self.events += 1;
        let name = || format!("{} seq {} ({})", event.topic, event.seq, event.event_id);
        let processed_at: Timestamp = event.processed_at.parse().unwrap();
        if event.seq != self.next_seq || processed_at < self.last_processed_at {
            self.out_of_order.add(|| format!("{}, expected seq {}", name(), self.next_seq));
        }
        (self.next_seq, self.last_processed_at) = (event.seq + 1, processed_at);

        let Ok(Payload { n: index }) = serde_json::from_str(event.payload.get()) else {
            return self.changed.add(|| format!("{}: payload {}", name(), event.payload));
        };
        // Everything that was sent has a receipt by now.
        let Some(&Some(noted)) = self.receipts.get(index as usize) else {
            return self.never_sent.add(name);
        };
        if std::mem::replace(&mut self.seen[index as usize], true) {
            return self.doubled.add(name);
        }
        let head = self.workload.head(index);
        let mut payload = Vec::new();
        self.workload.write_payload(index, noted.altered, &mut payload);
        let timestamp: Timestamp = event.timestamp.parse().unwrap();
        let as_sent = event.topic == topic
            && topic == self.workload.topics()[head.topic]
            && event.event_id == head.event_id
            && event.source == self.workload.source(head.source)
            && u64::try_from(timestamp.as_micros()) == Ok(head.epoch_ms * 1000)
            && event.payload.get().as_bytes() == payload;
        if !as_sent || (event.seq, processed_at) != (noted.seq, noted.processed_at) {
            self.changed.add(|| format!("{}, processed at {processed_at}: {noted:?}", name()));
        }
    }

    fn look_for_the_lost(&mut self) {
        for (index, (noted, seen)) in self.receipts.iter().zip(&self.seen).enumerate() {
            match noted {
                Some(noted) if !seen => self.lost.add(|| format!("event {index}: {noted:?}")),
                _ => {}
            }
        }
    }

    fn equal(&mut self, what: &str, actual: u64, expected: u64) {
        if actual != expected {
            self.breaches.push(format!("{what}: {actual} instead of {expected}"));
        }
    }

    fn at_least(&mut self, what: &str, actual: u64, least: u64) {
        if actual < least {
            self.breaches.push(format!("{what}: {actual}, but there must be {least} at least"));
        }
    }

    fn tell(&mut self, what: &str, findings: &Findings) {
        if findings.count() > 0 {
            self.breaches.push(format!("{what}: {}, such as {:#?}", findings.count(), findings.examples()));
        }
    }

    fn finish(mut self) -> ReadBack {
        for (what, findings) in [
            ("lost", self.lost.clone()),
            ("doubled", self.doubled.clone()),
            ("out of order", self.out_of_order.clone()),
            ("changed", self.changed.clone()),
            ("never sent", self.never_sent.clone()),
        ] {
            self.tell(what, &findings);
        }
        ReadBack { events: self.events, breaches: self.breaches }
    }
}
