//! What must hold for the events of a store, checked one by one as they are read, and at the end against the receipts.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::StoredEvent;
use crate::findings::Findings;
use crate::ledger::Ledger;
use crate::workload::Workload;

/// How many events of other runs are checked for doubles, in all topics that are read together. Each of them takes some
/// 100 bytes.
const MAX_FOREIGN_IDS: usize = 1_000_000;

/// What is known of an identity that was read: its seq, and these.
const SEEN: u64 = 1 << 63;
const ALTERED: u64 = 1 << 62;
/// It differs from what was sent, and was counted.
const MISMATCHED: u64 = 1 << 61;
const SEQ: u64 = MISMATCHED - 1;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Identities of the run that were acknowledged.
    pub acknowledged: u64,
    /// Events read, those of other runs included.
    pub events_read: u64,
    /// Identities of the run that are there.
    pub found: u64,
    /// Events of other runs.
    pub foreign: u64,
    /// Acknowledged, but not there.
    pub lost: Findings,
    /// There more than once.
    pub doubled: Findings,
    /// Not at the place that follows the event before; a gap counts too.
    pub out_of_order: Findings,
    /// Another payload, source, timestamp, topic or number than sent, or another seq than acknowledged.
    pub mismatched: Findings,
}

impl Counts {
    /// How many things are wrong.
    #[must_use]
    pub fn faults(&self) -> u64 {
        [&self.lost, &self.doubled, &self.out_of_order, &self.mismatched].map(Findings::count).iter().sum()
    }
}

/// Checks events in the order they are read: each topic from its beginning, one after the other or mixed.
///
/// It needs no receipts before the end, because an event may be read before its receipt arrives. Until then it keeps eight
/// bytes for each identity.
#[derive(Debug)]
pub struct Checker<'a> {
    workload: &'a Workload,
    ids: IdIndex,
    seen: Vec<u64>,
    topic: usize,
    /// By topic.
    next_seqs: Vec<u64>,
    /// Of other runs, by topic.
    foreign: HashMap<usize, HashSet<Box<str>>>,
    foreign_kept: usize,
    counts: Counts,
}

impl<'a> Checker<'a> {
    /// A checker for the first `identities` events of a workload.
    #[must_use]
    pub fn new(workload: &'a Workload, identities: u32) -> Self {
        Self {
            workload,
            ids: IdIndex::new(workload, identities),
            seen: vec![0; identities as usize],
            topic: 0,
            next_seqs: vec![1; workload.topics().len()],
            foreign: HashMap::new(),
            foreign_kept: 0,
            counts: Counts::default(),
        }
    }

    /// The events that follow are those of this topic, from its first one, and no others come any more.
    pub fn begin_topic(&mut self, topic: usize) {
        self.turn_to(topic);
        self.next_seqs[topic] = 1;
        self.foreign.clear();
        self.foreign_kept = 0;
    }

    /// The events that follow are the next ones of this topic.
    pub fn turn_to(&mut self, topic: usize) {
        self.topic = topic;
    }

    /// Checks the next event of the topic.
    pub fn see(&mut self, event: &StoredEvent<'_>) {
        self.counts.events_read += 1;
        let topic = &self.workload.topics()[self.topic];
        if event.topic != *topic {
            self.counts.mismatched.add(|| format!("{}: read from {topic}", describe(event)));
            return;
        }
        let next_seq = &mut self.next_seqs[self.topic];
        if event.seq != *next_seq {
            self.counts.out_of_order.add(|| format!("{}: expected seq {next_seq}", describe(event)));
        }
        *next_seq = event.seq.saturating_add(1);
        match self.ids.find(self.workload, self.topic, &event.event_id) {
            Some(index) => self.see_own(index, event),
            None => self.see_foreign(event),
        }
    }

    fn see_own(&mut self, index: u32, event: &StoredEvent<'_>) {
        if self.seen[index as usize] & SEEN != 0 {
            self.counts.doubled.add(|| describe(event));
            return;
        }
        self.counts.found += 1;
        let known = match self.difference(index, event) {
            Ok(altered) => (event.seq & SEQ) | if altered { ALTERED } else { 0 },
            Err(difference) => {
                self.counts.mismatched.add(|| format!("{}: {difference}", describe(event)));
                MISMATCHED
            }
        };
        self.seen[index as usize] = SEEN | known;
    }

    fn see_foreign(&mut self, event: &StoredEvent<'_>) {
        self.counts.foreign += 1;
        let foreign = self.foreign.entry(self.topic).or_default();
        if foreign.contains(&*event.event_id) {
            self.counts.doubled.add(|| describe(event));
        } else if self.foreign_kept < MAX_FOREIGN_IDS {
            foreign.insert(event.event_id.as_ref().into());
            self.foreign_kept += 1;
        }
    }

    /// Whether the event has the altered payload, or how it differs from everything that was sent.
    fn difference(&self, index: u32, event: &StoredEvent<'_>) -> Result<bool, String> {
        let head = self.workload.head(index);
        if event.source != self.workload.source(head.source) {
            return Err(format!("sent with source {}", self.workload.source(head.source)));
        }
        let instant_ns =
            OffsetDateTime::parse(&event.timestamp, &Rfc3339).map(OffsetDateTime::unix_timestamp_nanos);
        if instant_ns != Ok(i128::from(head.epoch_ms) * 1_000_000) {
            return Err(format!("timestamp {} is another instant than the one sent", event.timestamp));
        }
        let (sent, stored) = (self.workload.sequence(index), event.sequence);
        if sent != stored {
            let told =
                |number: Option<u64>| number.map_or("no sequence".to_owned(), |n| format!("sequence {n}"));
            return Err(format!("sent with {}, stored with {}", told(sent), told(stored)));
        }
        if event.seq > SEQ {
            return Err("no topic has so many events".to_owned());
        }
        let stored = event.payload.get();
        if self.payload_equals(index, false, stored) {
            Ok(false)
        } else if self.payload_equals(index, true, stored) {
            Ok(true)
        } else {
            Err("its payload was never sent".to_owned())
        }
    }

    fn payload_equals(&self, index: u32, altered: bool, stored: &str) -> bool {
        let mut sent = Vec::new();
        self.workload.write_payload(index, altered, &mut sent);
        sent == stored.as_bytes() || sent == compact(stored).as_bytes()
    }

    /// Ends the check: what was acknowledged and not read by now is lost.
    #[must_use]
    pub fn finish(mut self, ledger: &Ledger) -> Counts {
        self.compare(ledger);
        for index in ledger.all_acknowledged() {
            self.counts.acknowledged += 1;
            if self.seen[index as usize] & SEEN == 0 {
                self.counts.lost.add(|| name(self.workload, index));
            }
        }
        self.counts
    }

    /// Ends the check before everything was read: nothing can be said about what is lost.
    #[must_use]
    pub fn give_up(mut self, ledger: &Ledger) -> Counts {
        self.compare(ledger);
        self.counts.acknowledged = ledger.all_acknowledged().count() as u64;
        self.counts
    }

    /// Compares what was read with its receipts. An event without one may have either payload: the server keeps the one
    /// that came first.
    fn compare(&mut self, ledger: &Ledger) {
        for (index, known) in (0_u32..).zip(&self.seen) {
            if known & SEEN == 0 || known & MISMATCHED != 0 {
                continue;
            }
            let (seq, altered) = (known & SEQ, known & ALTERED != 0);
            let difference = match (ledger.acknowledged(index), ledger.kept_altered(index)) {
                (Some(told), _) if told != seq => format!("its receipts say seq {told}"),
                (_, Some(kept)) if kept != altered => {
                    "its payload is not the one its receipts speak of".to_owned()
                }
                _ => continue,
            };
            self.counts.mismatched.add(|| format!("{} seq {seq}: {difference}", name(self.workload, index)));
        }
    }
}

/// An event of the run, for people.
fn name(workload: &Workload, index: u32) -> String {
    let head = workload.head(index);
    format!("{} {}", workload.topics()[head.topic], head.event_id)
}

fn describe(event: &StoredEvent<'_>) -> String {
    let StoredEvent { topic, event_id, seq, .. } = event;
    format!("{} {} seq {seq}", topic.escape_debug(), event_id.escape_debug())
}

/// JSON without the white space between its tokens.
fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            in_string = c == '"';
        }
        out.push(c);
    }
    out
}

/// Finds the event that an identity of the run belongs to: sixteen bytes per identity. The hash only
/// narrows the search; the identities themselves are compared.
#[derive(Debug)]
struct IdIndex {
    by_hash: Vec<(u64, u32)>,
}

impl IdIndex {
    fn new(workload: &Workload, identities: u32) -> Self {
        let hash = |index| {
            let head = workload.head(index);
            (hash(head.topic, &head.event_id), index)
        };
        let mut by_hash: Vec<_> = (0..identities).map(hash).collect();
        by_hash.sort_unstable();
        Self { by_hash }
    }

    fn find(&self, workload: &Workload, topic: usize, event_id: &str) -> Option<u32> {
        let wanted = hash(topic, event_id);
        let start = self.by_hash.partition_point(|(hash, _)| *hash < wanted);
        let candidates = self.by_hash[start..].iter().take_while(|(hash, _)| *hash == wanted);
        candidates.map(|(_, index)| *index).find(|index| {
            let head = workload.head(*index);
            head.topic == topic && head.event_id == event_id
        })
    }
}

fn hash(topic: usize, event_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, event_id).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
