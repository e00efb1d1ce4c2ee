//! Who changed what: keys, and events that were erased or identities that were released.
//!
//! | kind | name | value |
//! |---|---|---|
//! | `audit` | the number of the change of keys, 12 digits | [`AuditEntry`]: [`registry`] writes it with the change |
//! | `amendment` | the number of the erasure or release, 12 digits | [`AuditEntry`] |
//! | `amendments` | `latest` | [`Counters`] |
//!
//! Amendments have numbers of their own: as soon as there is a change of keys, nobody is anonymous any more.
//!
//! An amendment is written before it begins, and once more when it has ended. If it cannot be written, nothing is amended. An
//! entry that has not ended belongs to work under way, or to a program that was killed meanwhile.
//!
//! An entry names identities, which a store keeps after an erasure as well. It has nothing else of the events.

use std::cmp::Reverse;

use aggregator_core::{
    DedupStore, DedupStoreExt as _, Identity, Record, RecordOutcome, RecordWrite, Records, StoreError,
};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::registry::{self, KeyInfo, TRIES, decode, encode, list_after};

const AUDIT: &str = "audit";
const AMENDMENT: &str = "amendment";
const AMENDMENTS: &str = "amendments";
const LATEST: &str = "latest";

/// The most entries of each kind that are remembered. Older ones are forgotten.
const MAX_ENTRIES: u64 = 10_000;
/// The most entries that are shown.
const SHOWN: u64 = 1_000;
/// Entries are shown until they have so many bytes of JSON.
const MAX_SHOWN_BYTES: usize = 16 << 20;
/// Identities of one entry are named up to so many bytes of JSON: a record has at most 64 KiB.
const MAX_NAMED_BYTES: usize = 40 << 10;
/// The longest detail of a failure that is kept, in characters.
const MAX_DETAIL_CHARS: usize = 500;

/// Who changed what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuditEntry {
    pub(crate) at: String,
    /// `key-created`, `key-revoked`, `erase` or `release`.
    pub(crate) action: String,
    /// Who did it: `key:ID`, `jwt:SUBJECT`, `admin-socket`, or `command` for the command line on the store itself.
    pub(crate) by: String,
    /// Of a change of keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<KeyInfo>,
    /// Of an erasure or a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) events: Option<AmendedEvents>,
}

/// What was erased or released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AmendedEvents {
    /// How many identities were asked for.
    pub(crate) count: usize,
    /// The identities, as many as fit.
    pub(crate) identities: Vec<NamedIdentity>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) not_named: usize,
    /// Why, as whoever asked for it has put it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) state: State,
    /// Since when it is in another state than `begun`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended_at: Option<String>,
    /// Of how many identities something was erased or released, once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) found: Option<usize>,
    /// Why it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Begun,
    Done,
    /// Some of it may be done.
    Failed,
}

/// An identity as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NamedIdentity {
    pub(crate) topic: String,
    pub(crate) event_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
}

/// What is done to events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amending {
    Erase,
    Release,
}

/// What is counted about amendments.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Counters {
    /// The number of the newest entry.
    entries: u64,
    /// Each erasure counts when it begins and when it ends, in whatever way.
    erasures: u64,
}

/// An amendment that is written down, and has not ended.
#[must_use]
pub(crate) struct Begun {
    entry: AuditEntry,
    events: AmendedEvents,
    record: Record,
    amending: Amending,
}

/// The newest changes, the newest first.
pub(crate) fn list(store: &dyn DedupStore) -> Result<Vec<AuditEntry>, StoreError> {
    let Some(records) = store.records() else { return Ok(Vec::new()) };
    let mut of_keys = newest(records, AUDIT, registry::changes_of_keys(records)?)?.into_iter().peekable();
    let amended = counters(records)?.1.entries;
    let mut amendments = newest(records, AMENDMENT, amended)?.into_iter().peekable();
    // Each kind stays in its order, whatever the clock did.
    let (mut all, mut bytes) = (Vec::new(), 0);
    while all.len() < usize::try_from(SHOWN).unwrap_or(usize::MAX) && bytes < MAX_SHOWN_BYTES {
        let is_of_keys = match (of_keys.peek(), amendments.peek()) {
            (Some(key), Some(amendment)) => key.at >= amendment.at,
            (key, _) => key.is_some(),
        };
        let next = if is_of_keys { of_keys.next() } else { amendments.next() };
        let Some(next) = next else { break };
        bytes += encode(&next).len();
        all.push(next);
    }
    Ok(all)
}

fn newest(records: &dyn Records, kind: &str, newest: u64) -> Result<Vec<AuditEntry>, StoreError> {
    let before = name(newest.saturating_sub(SHOWN));
    let mut entries = list_after(records, kind, Some(before))?;
    entries.sort_by_key(|record| Reverse(record.name.clone()));
    entries.iter().map(decode).collect()
}

/// A number that is another one after each beginning and each end of an erasure of this store, on whatever node.
pub(crate) fn erasures(store: &dyn DedupStore) -> Result<u64, StoreError> {
    let Some(records) = store.records() else { return Ok(0) };
    Ok(counters(records)?.1.erasures)
}

/// The entry of change number `number` of keys, and the deletion of the one that becomes too old.
pub(super) fn of_keys(
    records: &dyn Records,
    number: u64,
    entry: &AuditEntry,
) -> Result<Vec<RecordWrite>, StoreError> {
    writes(records, AUDIT, number, entry)
}

fn writes(
    records: &dyn Records,
    kind: &str,
    number: u64,
    entry: &AuditEntry,
) -> Result<Vec<RecordWrite>, StoreError> {
    let mut writes = vec![RecordWrite::create(kind, name(number), encode(entry))];
    if let Some(oldest) = number.checked_sub(MAX_ENTRIES) {
        writes.extend(records.get(kind, &name(oldest))?.as_ref().map(RecordWrite::delete));
    }
    Ok(writes)
}

impl Begun {
    /// Writes down that this begins.
    pub(crate) fn new(
        store: &dyn DedupStore,
        amending: Amending,
        ids: &[Identity],
        reason: Option<&str>,
        by: &str,
    ) -> Result<Self, StoreError> {
        let records = store.records().ok_or_else(|| store.unsupported("keep an audit"))?;
        let identities = named(ids);
        let events = AmendedEvents {
            count: ids.len(),
            not_named: ids.len() - identities.len(),
            identities,
            reason: reason.map(str::to_owned),
            state: State::Begun,
            ended_at: None,
            found: None,
            detail: None,
        };
        let action = match amending {
            Amending::Erase => "erase",
            Amending::Release => "release",
        };
        let at = records.now()?.to_string();
        let entry = AuditEntry {
            at,
            action: action.to_owned(),
            by: by.to_owned(),
            key: None,
            events: Some(events.clone()),
        };
        for _ in 0..TRIES {
            let (counted, mut counters) = counters(records)?;
            counters.entries += 1;
            counters.erasures += u64::from(amending == Amending::Erase);
            let mut all = writes(records, AMENDMENT, counters.entries, &entry)?;
            all.push(write_counters(counted.as_ref(), counters));
            if let RecordOutcome::Written(versions) = records.write(&all)? {
                let version = versions.first().copied().unwrap_or_default();
                let record = Record::new(AMENDMENT, name(counters.entries), version, []);
                return Ok(Self { entry, events, record, amending });
            }
        }
        Err(busy())
    }

    /// Writes down how it has ended: of how many identities something was found. What is done is not undone if that cannot be
    /// written. Returns whether other nodes know that it has ended.
    pub(crate) fn end(self, store: &dyn DedupStore, done: Result<usize, &StoreError>) -> bool {
        let Some(records) = store.records() else { return false };
        let written = self.write_end(records, done);
        if let Err(error) = &written {
            warn!(%error, "the audit does not say how this has ended, only that it began");
        }
        written.is_ok()
    }

    fn write_end(self, records: &dyn Records, done: Result<usize, &StoreError>) -> Result<(), StoreError> {
        let Self { entry, events, record, amending } = self;
        let detail = |error: &StoreError| error.to_string().chars().take(MAX_DETAIL_CHARS).collect();
        let events = AmendedEvents {
            state: if done.is_ok() { State::Done } else { State::Failed },
            ended_at: Some(records.now()?.to_string()),
            found: done.ok(),
            detail: done.err().map(detail),
            ..events
        };
        let value = encode(&AuditEntry { events: Some(events), ..entry });
        for _ in 0..TRIES {
            let (counted, mut counters) = counters(records)?;
            let mut writes = vec![RecordWrite::update(&record, value.as_slice())];
            if amending == Amending::Erase {
                counters.erasures += 1;
                writes.push(write_counters(counted.as_ref(), counters));
            }
            if let RecordOutcome::Written(_) = records.write(&writes)? {
                return Ok(());
            }
        }
        Err(busy())
    }
}

/// The identities that one entry names.
fn named(ids: &[Identity]) -> Vec<NamedIdentity> {
    let mut bytes = 0;
    let name = |id: &Identity| NamedIdentity {
        topic: id.topic.to_string(),
        event_id: id.event_id.to_string(),
        source: id.source.as_ref().map(ToString::to_string),
    };
    ids.iter()
        .map(name)
        .take_while(|named| {
            bytes += encode(named).len() + 1;
            bytes <= MAX_NAMED_BYTES
        })
        .collect()
}

fn counters(records: &dyn Records) -> Result<(Option<Record>, Counters), StoreError> {
    let record = records.get(AMENDMENTS, LATEST)?;
    let counters = record.as_ref().map(decode).transpose()?.unwrap_or_default();
    Ok((record, counters))
}

fn write_counters(counted: Option<&Record>, counters: Counters) -> RecordWrite {
    let value = encode(&counters);
    match counted {
        Some(record) => RecordWrite::update(record, value),
        None => RecordWrite::create(AMENDMENTS, LATEST, value),
    }
}

fn busy() -> StoreError {
    StoreError::unavailable("others are erasing or releasing at the same time: try again")
}

fn name(number: u64) -> String {
    format!("{number:012}")
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use aggregator_core::{EventId, MemoryStore, Source, Topic};

    use super::*;

    fn ids(count: usize, padding: usize) -> Vec<Identity> {
        let id = |n: usize| Identity {
            topic: Topic::new("t").unwrap(),
            event_id: EventId::new(format!("{n:0padding$}")).unwrap(),
            source: (n == 0).then(|| Source::new("s").unwrap()),
        };
        (0..count).map(id).collect()
    }

    #[test]
    fn an_erasure_is_written_before_it_begins_and_when_it_has_ended() {
        let store = MemoryStore::default();
        let begun =
            Begun::new(&store, Amending::Erase, &ids(2, 1), Some("a request"), "admin-socket").unwrap();
        let listed = list(&store).unwrap();
        let events = listed[0].events.as_ref().unwrap();
        assert_eq!((&*listed[0].action, &*listed[0].by), ("erase", "admin-socket"));
        assert_eq!((events.state, events.count, events.found), (State::Begun, 2, None));
        assert_eq!(events.identities[0].source.as_deref(), Some("s"));
        assert_eq!(events.reason.as_deref(), Some("a request"));
        assert_eq!(erasures(&store).unwrap(), 1);
        assert!(begun.end(&store, Ok(1)));
        let released = Begun::new(&store, Amending::Release, &ids(1, 1), None, "key:x").unwrap();
        assert!(released.end(&store, Err(&StoreError::unavailable("broken"))));
        let told: Vec<_> = list(&store).unwrap().into_iter().map(|entry| entry.events.unwrap()).collect();
        assert_eq!((told[1].state, told[1].found), (State::Done, Some(1)));
        assert_eq!(told[0].state, State::Failed);
        assert!(told[0].detail.as_ref().unwrap().contains("broken"));
        assert_eq!(erasures(&store).unwrap(), 2);
        assert!(registry::newest_change(&store).unwrap().is_none(), "nobody needs a key for that");
    }

    #[test]
    fn an_entry_with_the_largest_identities_fits_into_a_record() {
        let store = MemoryStore::default();
        let begun = Begun::new(&store, Amending::Erase, &ids(1_000, 255), None, "command").unwrap();
        begun.end(&store, Err(&StoreError::unavailable("x".repeat(100_000))));
        let events = list(&store).unwrap().remove(0).events.unwrap();
        assert_eq!((events.identities.len() + events.not_named, events.count), (1_000, 1_000));
        assert!(events.not_named > 0 && events.identities.len() > 100);
        let begun = Begun::new(&store, Amending::Erase, &ids(400, 36), None, "command").unwrap();
        begun.end(&store, Ok(0));
        assert_eq!(list(&store).unwrap()[0].events.as_ref().unwrap().not_named, 0);
        for _ in 0..450 {
            Begun::new(&store, Amending::Release, &ids(1_000, 255), None, "command")
                .unwrap()
                .end(&store, Ok(0));
        }
        let shown = list(&store).unwrap();
        let bytes: usize = shown.iter().map(|entry| encode(entry).len()).sum();
        assert!(
            shown.len() > 390 && shown.len() < 450 && bytes < MAX_SHOWN_BYTES + (64 << 10),
            "{} of {bytes} bytes",
            shown.len()
        );
    }
}
