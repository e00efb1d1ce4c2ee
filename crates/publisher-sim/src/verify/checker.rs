//! What must hold for the events of a store, checked one by one as they are read.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::StoredEvent;
use crate::findings::Findings;
use crate::ledger::Ledger;
use crate::workload::Workload;

/// How many events of other runs in the same topic are checked for doubles, per topic. Each of them takes some 100
/// bytes.
const MAX_FOREIGN_IDS: usize = 1_000_000;

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
    /// Another payload, source, timestamp or topic than sent, or another seq than acknowledged.
    pub mismatched: Findings,
}

impl Counts {
    /// How many things are wrong.
    #[must_use]
    pub fn faults(&self) -> u64 {
        [&self.lost, &self.doubled, &self.out_of_order, &self.mismatched].map(Findings::count).iter().sum()
    }
}

/// Checks events in the order they are read: topic by topic, each from its beginning.
#[derive(Debug)]
pub struct Checker<'a> {
    workload: &'a Workload,
    ledger: &'a mut Ledger,
    ids: IdIndex,
    topic: usize,
    next_seq: u64,
    foreign: HashSet<Box<str>>,
    counts: Counts,
}

impl<'a> Checker<'a> {
    /// A checker for the first `identities` events of a workload.
    #[must_use]
    pub fn new(workload: &'a Workload, identities: u32, ledger: &'a mut Ledger) -> Self {
        Self {
            workload,
            ledger,
            ids: IdIndex::new(workload, identities),
            topic: 0,
            next_seq: 1,
            foreign: HashSet::new(),
            counts: Counts::default(),
        }
    }

    /// The events that follow are those of this topic, from its first one.
    pub fn begin_topic(&mut self, topic: usize) {
        self.topic = topic;
        self.next_seq = 1;
        self.foreign.clear();
    }

    /// Checks the next event of the topic.
    pub fn see(&mut self, event: &StoredEvent<'_>) {
        self.counts.events_read += 1;
        let topic = &self.workload.topics()[self.topic];
        if event.topic != *topic {
            self.counts.mismatched.add(|| format!("{}: read from {topic}", describe(event)));
            return;
        }
        if event.seq != self.next_seq {
            self.counts.out_of_order.add(|| format!("{}: expected seq {}", describe(event), self.next_seq));
        }
        self.next_seq = event.seq.saturating_add(1);
        match self.ids.find(self.workload, self.topic, &event.event_id) {
            Some(index) => self.see_own(index, event),
            None => self.see_foreign(event),
        }
    }

    fn see_own(&mut self, index: u32, event: &StoredEvent<'_>) {
        if self.ledger.read_back(index) {
            self.counts.doubled.add(|| describe(event));
            return;
        }
        self.counts.found += 1;
        if let Some(difference) = self.difference(index, event) {
            self.counts.mismatched.add(|| format!("{}: {difference}", describe(event)));
        }
    }

    fn see_foreign(&mut self, event: &StoredEvent<'_>) {
        self.counts.foreign += 1;
        if self.foreign.contains(&*event.event_id) {
            self.counts.doubled.add(|| describe(event));
        } else if self.foreign.len() < MAX_FOREIGN_IDS {
            self.foreign.insert(event.event_id.as_ref().into());
        }
    }

    /// How the event differs from what was sent and acknowledged.
    fn difference(&self, index: u32, event: &StoredEvent<'_>) -> Option<String> {
        if let Some(seq) = self.ledger.acknowledged(index)
            && seq != event.seq
        {
            return Some(format!("its receipts say seq {seq}"));
        }
        let head = self.workload.head(index);
        if event.source != self.workload.source(head.source) {
            return Some(format!("sent with source {}", self.workload.source(head.source)));
        }
        let instant_ns =
            OffsetDateTime::parse(&event.timestamp, &Rfc3339).map(OffsetDateTime::unix_timestamp_nanos);
        if instant_ns != Ok(i128::from(head.epoch_ms) * 1_000_000) {
            return Some(format!("timestamp {} is another instant than the one sent", event.timestamp));
        }
        let stored = event.payload.get();
        let equals = |altered| self.payload_equals(index, altered, stored);
        let as_expected = match self.ledger.kept_altered(index) {
            Some(altered) => equals(altered),
            // Never acknowledged: the server keeps the payload that came first, and that may be either of the two.
            None => equals(false) || equals(true),
        };
        (!as_expected).then(|| "its payload is not the one its receipts speak of".to_owned())
    }

    fn payload_equals(&self, index: u32, altered: bool, stored: &str) -> bool {
        let mut sent = Vec::new();
        self.workload.write_payload(index, altered, &mut sent);
        sent == stored.as_bytes() || sent == compact(stored).as_bytes()
    }

    /// Ends the check: what was acknowledged and not read by now is lost.
    #[must_use]
    pub fn finish(mut self) -> Counts {
        for (index, read_back) in self.ledger.all_acknowledged() {
            self.counts.acknowledged += 1;
            if !read_back {
                let head = self.workload.head(index);
                let topic = &self.workload.topics()[head.topic];
                self.counts.lost.add(|| format!("{topic} {}", head.event_id));
            }
        }
        self.counts
    }

    /// Ends the check before everything was read: nothing can be said about what is lost.
    #[must_use]
    pub fn give_up(mut self) -> Counts {
        self.counts.acknowledged = self.ledger.all_acknowledged().count() as u64;
        self.counts
    }
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
