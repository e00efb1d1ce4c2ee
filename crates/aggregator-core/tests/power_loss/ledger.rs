//! What the store has promised, and whether it kept it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use aggregator_core::event::{ERASED_PAYLOAD, Kept as StoredKept};
use aggregator_core::store::Rows;
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, Outcome, Query, Receipt, StoredEvent, StoredRow, Timestamp, Topic,
    TopicQuery, TopicSelector,
};

use crate::follower::Followed;
use crate::records::RecordLedger;
use crate::workload::{Row, identity, identity_of};

/// What a promise was broken by, a sentence.
pub(crate) type Violation = String;

type Key = (String, String);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    seq: u64,
    processed_at: Timestamp,
    payload: String,
}

impl Kept {
    /// What erasing leaves.
    fn is_erased(&self) -> bool {
        self.payload == ERASED_PAYLOAD
    }
}

/// Everything that was acknowledged, and what a failure left in doubt.
#[derive(Default, Clone)]
pub(crate) struct Ledger {
    acknowledged: BTreeMap<Key, Kept>,
    duplicates: u64,
    conflicts: u64,
    /// What had an identity before it was released.
    released: BTreeMap<Key, Vec<Kept>>,
    /// What is being erased, or was when the power failed.
    erasing: Option<Key>,
    /// As that.
    releasing: Option<Key>,
    /// Per topic: up to here at least, and at most.
    purged: BTreeMap<String, (u64, u64)>,
    /// Per topic: up to here for certain, and perhaps on to the next one.
    forgotten: BTreeMap<String, (u64, u64)>,
    /// The batches whose appends failed last, one of each partition at most: their commits may have happened. There are
    /// several where one failed, and the next life came no further than to that of another partition.
    in_doubt: Vec<Vec<Event>>,
    /// Repeats that failed appends may have counted.
    uncertain_repeats: u64,
    pub(crate) records: RecordLedger,
    /// What a reader at the end of the stream was handed, if there is one. Copies of a ledger share it.
    pub(crate) followed: Arc<Mutex<Followed>>,
}

impl Ledger {
    pub(crate) fn acknowledged(&self) -> u64 {
        let kept = self.acknowledged.len() + self.released.values().map(Vec::len).sum::<usize>();
        kept as u64 + self.forgotten.values().map(|(certain, _)| certain).sum::<u64>()
    }

    /// How many identities may come again, and did not.
    pub(crate) fn open(&self) -> u64 {
        self.released.keys().filter(|key| !self.acknowledged.contains_key(*key)).count() as u64
    }

    pub(crate) fn last_seq(&self, topic: &str) -> u64 {
        let forgotten = self.forgotten.get(topic).map_or(0, |(certain, _)| *certain);
        forgotten + self.kept().filter(|((name, _), _)| name == topic).count() as u64
    }

    fn kept(&self) -> impl Iterator<Item = (&Key, &Kept)> {
        let released = self.released.iter().flat_map(|(key, kept)| kept.iter().map(move |kept| (key, kept)));
        self.acknowledged.iter().chain(released)
    }

    /// Notes an erasure that is about to be asked for, or done.
    pub(crate) fn erase(&mut self, topic: &str, event_id: &str, done: bool) {
        let key = (topic.to_owned(), event_id.to_owned());
        if done {
            let released = self.released.get_mut(&key).into_iter().flatten();
            for kept in self.acknowledged.get_mut(&key).into_iter().chain(released) {
                ERASED_PAYLOAD.clone_into(&mut kept.payload);
            }
        }
        self.erasing = Some(key).filter(|_| !done);
    }

    /// As that of a release.
    pub(crate) fn release(&mut self, topic: &str, event_id: &str, done: bool) {
        let key = (topic.to_owned(), event_id.to_owned());
        if done && let Some(kept) = self.acknowledged.remove(&key) {
            self.released.entry(key.clone()).or_default().push(kept);
        }
        self.releasing = Some(key).filter(|_| !done);
    }

    /// Notes an acknowledged batch. What its receipts say has to fit what was said before.
    pub(crate) fn note(&mut self, batch: &[Event], receipts: &[Receipt]) -> Result<(), Violation> {
        let in_doubt: BTreeSet<Key> = self.in_doubt.iter().flatten().map(key).collect();
        self.no_doubt_of(batch);
        for (event, receipt) in batch.iter().zip(receipts) {
            let key = key(event);
            let payload = event.view().payload();
            let Some(seq) = receipt.seq else { return Err(format!("{key:?} has no seq")) };
            let expected = match self.acknowledged.get(&key) {
                Some(kept) if (kept.seq, kept.processed_at) != (seq, receipt.processed_at) => {
                    return Err(format!("{key:?} was acknowledged as {kept:?} and is {receipt:?} now"));
                }
                Some(kept) if kept.payload == payload || kept.is_erased() => Outcome::Duplicate,
                Some(_) => Outcome::Conflict,
                // The failed append did it; a batch's first event of an identity is the one that counts.
                None if in_doubt.contains(&key) && receipt.outcome == Outcome::Duplicate => {
                    Outcome::Duplicate
                }
                None => Outcome::Stored,
            };
            if receipt.outcome != expected {
                return Err(format!("{key:?} is {expected:?} and was called {:?}", receipt.outcome));
            }
            self.duplicates += u64::from(expected != Outcome::Stored);
            self.conflicts += u64::from(expected == Outcome::Conflict);
            let kept = Kept { seq, processed_at: receipt.processed_at, payload: payload.to_owned() };
            self.acknowledged.entry(key).or_insert(kept);
        }
        Ok(())
    }

    /// Notes rows that were imported, now or by a try before.
    pub(crate) fn note_import(&mut self, rows: &[Row]) {
        let events: Vec<_> = rows.iter().map(|row| row.event.clone()).collect();
        self.no_doubt_of(&events);
        for Row { event, seq, processed_at } in rows {
            let payload = event.view().payload().to_owned();
            let kept = Kept { seq: *seq, processed_at: *processed_at, payload };
            self.acknowledged.insert(key(event), kept);
        }
    }

    /// Notes a batch whose append failed.
    pub(crate) fn doubt(&mut self, batch: &[Event]) {
        self.no_doubt_of(batch);
        self.in_doubt.push(batch.to_vec());
        self.uncertain_repeats += batch.len() as u64;
    }

    /// Forgets doubts of these events: their own append has an outcome, or is in doubt itself.
    fn no_doubt_of(&mut self, batch: &[Event]) {
        let sent: BTreeSet<Key> = batch.iter().map(key).collect();
        self.in_doubt.iter_mut().for_each(|batch| batch.retain(|event| !sent.contains(&key(event))));
        self.in_doubt.retain(|batch| !batch.is_empty());
    }

    /// Notes a purge that is about to be asked for, or done.
    pub(crate) fn purge(&mut self, topic: &Topic, through_seq: u64, done: bool) {
        let (least, most) = self.purged.entry(topic.to_string()).or_default();
        *most = through_seq.max(*most);
        if done {
            *least = through_seq.max(*least);
        }
    }

    /// Notes that all that is purged is about to be forgotten, or that it was.
    pub(crate) fn forget(&mut self, topic: &Topic, done: bool) {
        let purged = self.purged.get(topic.as_str()).map_or(0, |(_, most)| *most);
        let forgotten = self.forgotten.entry(topic.to_string()).or_default();
        if !done {
            forgotten.1 = purged.max(forgotten.1);
            return;
        }
        *forgotten = (forgotten.1, forgotten.1);
        let through = forgotten.0;
        let is_left = |(name, _): &Key, kept: &Kept| name != topic.as_str() || kept.seq > through;
        self.acknowledged.retain(|key, kept| is_left(key, kept));
        self.released.retain(|key, all| {
            all.retain(|kept| is_left(key, kept));
            !all.is_empty()
        });
    }

    /// Whether the store has exactly what it has to have.
    pub(crate) fn check(&self, store: &dyn DedupStore) -> Result<(), Violation> {
        let failed = |error| format!("the store cannot be read: {error}");
        let report = store.verify().map_err(failed)?;
        if !report.faults.is_empty() {
            return Err(format!("verify: {}", report.faults.join("; ")));
        }
        self.records.check(store)?;
        let purged = self.check_topics(store)?;
        let events = read_all(store)?;
        let forgotten = self.check_forgotten(store)?;
        self.check_acknowledged(store, &events, (&purged, &forgotten))?;
        let surplus = self.check_in_doubt(store)?;
        let stats = store.stats().map_err(failed)?;
        let stored = self.acknowledged() + surplus;
        let left = stored - forgotten.values().sum::<u64>();
        if stats.stored != stored || report.events + report.stubs != left {
            return Err(format!("{stored} events are accounted for, {stats:?} and {report:?} are there"));
        }
        let counted = |what: &str, least: u64, count: u64| {
            let most = least + self.uncertain_repeats;
            let fits = (least..=most).contains(&count);
            if fits { Ok(()) } else { Err(format!("{count} {what} are counted, not {least} to {most}")) }
        };
        counted("duplicates", self.duplicates, stats.duplicates)?;
        counted("conflicts", self.conflicts, stats.conflicts)
    }

    /// How far each topic is purged.
    fn check_topics(&self, store: &dyn DedupStore) -> Result<BTreeMap<String, u64>, Violation> {
        let topics = store.topics(&TopicQuery::default()).map_err(|error| format!("no topics: {error}"))?;
        let purged: BTreeMap<String, u64> =
            topics.into_iter().map(|info| (info.topic.to_string(), info.purged_seq)).collect();
        for (topic, (least, most)) in &self.purged {
            let purged = purged.get(topic).copied().unwrap_or(0);
            if !(*least..=*most).contains(&purged) {
                return Err(format!("{topic} is purged to {purged}, not to {least} to {most}"));
            }
        }
        Ok(purged)
    }

    /// How much each topic has forgotten.
    fn check_forgotten(&self, store: &dyn DedupStore) -> Result<BTreeMap<String, u64>, Violation> {
        let marks = rows(store)?.into_values().filter(StoredRow::is_forgotten);
        let found: BTreeMap<String, u64> = marks
            .map(|mark| (mark.seq().unwrap_or(0), mark.topic))
            .map(|(seq, topic)| (topic, seq))
            .collect();
        if let Some(topic) = found.keys().find(|topic| !self.forgotten.contains_key(*topic)) {
            return Err(format!("{topic} has forgotten events, and nobody asked for it"));
        }
        for (topic, (least, most)) in &self.forgotten {
            let seq = found.get(topic).copied().unwrap_or(0);
            if !(*least..=*most).contains(&seq) {
                return Err(format!("{topic} has forgotten {seq}, not {least} to {most}"));
            }
        }
        Ok(found)
    }

    fn check_acknowledged(
        &self,
        store: &dyn DedupStore,
        events: &BTreeMap<(String, u64), StoredEvent>,
        (purged, forgotten): (&BTreeMap<String, u64>, &BTreeMap<String, u64>),
    ) -> Result<(), Violation> {
        let is_forgotten =
            |(key, kept): (&Key, &Kept)| kept.seq <= forgotten.get(&key.0).copied().unwrap_or(0);
        let ids: Vec<_> = self.acknowledged.keys().map(|(topic, id)| identity_of(topic, id)).collect();
        let seen = store.lookup(&ids).map_err(|error| format!("no lookup: {error}"))?;
        for ((key, kept), seen) in self.acknowledged.iter().zip(seen) {
            match seen {
                None if self.releasing.as_ref() == Some(key) || is_forgotten((key, kept)) => {}
                None => return Err(format!("{key:?} was acknowledged and is lost")),
                Some(seen) if (seen.seq, seen.processed_at) == (Some(kept.seq), kept.processed_at) => {}
                Some(seen) => return Err(format!("{key:?} was acknowledged as {kept:?} and is {seen:?}")),
            }
        }
        let rows = rows(store)?;
        for (key, kept) in self.kept().filter(|(key, kept)| !is_forgotten((key, kept))) {
            let is_purged = kept.seq <= purged.get(&key.0).copied().unwrap_or(0);
            let row = rows.get(&(key.0.clone(), kept.seq));
            if row.is_none_or(|row| {
                row.event_id != key.1 || matches!(row.kept, StoredKept::Event(_)) == is_purged
            }) {
                return Err(format!("{key:?} was acknowledged as {kept:?} and is {row:?}"));
            }
            let payload_fits = |payload: &str| {
                payload == kept.payload || (payload == ERASED_PAYLOAD && self.erasing.as_ref() == Some(key))
            };
            match events.get(&(key.0.clone(), kept.seq)) {
                None if is_purged => {}
                Some(event) if !is_purged && event.event_id == key.1 && payload_fits(&event.payload) => {}
                found => return Err(format!("{key:?} was acknowledged as {kept:?} and reads {found:?}")),
            }
        }
        for ((topic, seq), row) in rows.iter().filter(|(_, row)| row.released) {
            let key = (topic.clone(), row.event_id.clone());
            let is_known =
                self.released.get(&key).is_some_and(|kept| kept.iter().any(|kept| kept.seq == *seq));
            if !is_known && self.releasing.as_ref() != Some(&key) {
                return Err(format!("{key:?} was not released, and is so at {seq}"));
            }
        }
        Ok(())
    }

    /// How many identities failed appends have stored all the same.
    fn check_in_doubt(&self, store: &dyn DedupStore) -> Result<u64, Violation> {
        self.in_doubt.iter().map(|batch| self.check_batch_in_doubt(store, batch)).sum()
    }

    /// All that were new in it, or none.
    fn check_batch_in_doubt(&self, store: &dyn DedupStore, batch: &[Event]) -> Result<u64, Violation> {
        let new: BTreeMap<Key, &Event> = batch
            .iter()
            .map(|event| (key(event), event))
            .filter(|(key, _)| !self.acknowledged.contains_key(key))
            .collect();
        let ids: Vec<_> = new.values().map(|event| identity(event)).collect();
        let seen = store.lookup(&ids).map_err(|error| format!("no lookup: {error}"))?;
        let stored = seen.iter().flatten().count();
        if stored != 0 && stored != ids.len() {
            return Err(format!("{stored} of the {} new events of one append are stored", ids.len()));
        }
        Ok(stored as u64)
    }
}

fn key(event: &Event) -> Key {
    (event.view().topic().to_owned(), event.view().event_id().to_owned())
}

/// What an export has, by topic and seq.
pub(crate) fn rows(store: &dyn DedupStore) -> Result<BTreeMap<(String, u64), StoredRow>, Violation> {
    let mut rows = Rows::of(store);
    let mut read = BTreeMap::new();
    while let Some(row) = rows.next().map_err(|error| format!("cannot be exported: {error}"))? {
        if let Some(seq) = row.seq() {
            read.insert((row.topic.clone(), seq), row);
        }
    }
    Ok(read)
}

/// What readers are given: each topic's seqs without a gap.
fn read_all(store: &dyn DedupStore) -> Result<BTreeMap<(String, u64), StoredEvent>, Violation> {
    let mut events = BTreeMap::new();
    let mut last_seqs: BTreeMap<String, u64> = BTreeMap::new();
    let mut query = Query { limit: Query::MAX_LIMIT, ..Query::of(TopicSelector::All) };
    loop {
        let page = match store.read(&query) {
            Ok(page) => page,
            // What is purged is read on after.
            Err(aggregator_core::StoreError::Expired { oldest }) => {
                query.after = Some(oldest);
                continue;
            }
            Err(error) => return Err(format!("cannot be read: {error}")),
        };
        for event in page.events {
            let last = last_seqs.insert(event.topic.clone(), event.seq);
            if last.is_some_and(|last| last + 1 != event.seq) {
                return Err(format!("{} has {} after {last:?}", event.topic, event.seq));
            }
            let key = (event.topic.clone(), event.seq);
            if let Some(twice) = events.insert(key, event) {
                return Err(format!("{twice:?} is stored twice"));
            }
        }
        if page.caught_up {
            return Ok(events);
        }
        query.after = Some(page.next);
    }
}
