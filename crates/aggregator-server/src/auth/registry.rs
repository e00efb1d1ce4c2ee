//! The keys of a store, as records of it: so they are the same on every node, and as durable as events.
//!
//! | kind | name | value |
//! |---|---|---|
//! | `key` | the key's id | [`StoredKey`] |
//! | `key-use` | the key's id | when it was used last: an RFC 3339 timestamp |
//! | `key-changes` | `latest` | [`Changes`]: every change writes it, so one read tells whether there is news |
//! | `audit` | the number of the change, 12 digits | [`AuditEntry`]: see [`audit`] |
//!
//! A change writes the key, the counters and the audit entry in one commit. Where two nodes change keys at once, one of
//! them finds that the counters have another version, and begins again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aggregator_core::store::MAX_RECORDS_PER_CALL;
use aggregator_core::{
    DedupStore, DedupStoreExt as _, Record, RecordOutcome, RecordWrite, Records, StoreError, Timestamp,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::audit::{self, AuditEntry};
use super::rate::RateLimits;
use super::scope::{Grants, Scope};
use super::token::Token;

const KEY: &str = "key";
const KEY_USE: &str = "key-use";
const CHANGES: &str = "key-changes";
const LATEST: &str = "latest";

/// The most keys of a store. Each node has all of them in memory.
pub(crate) const MAX_KEYS: u64 = 10_000;
/// The longest name of a key, in characters.
pub(crate) const MAX_NAME_CHARS: usize = 100;
/// The longest lifetime of a key that has one.
const MAX_LIFETIME: Duration = Duration::from_secs(100 * 366 * 86_400);
/// How often a change is tried while others change keys at the same time.
pub(super) const TRIES: usize = 20;
/// Records in one list.
const PAGE: usize = 1_000;

/// A key as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredKey {
    pub(crate) name: String,
    /// Hash of the secret.
    pub(crate) sha256: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<String>,
    #[serde(default, skip_serializing_if = "RateLimits::is_none")]
    pub(crate) limits: RateLimits,
}

/// A key as it is shown: without its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyInfo {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<String>,
    /// To about five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_used_at: Option<String>,
    #[serde(default, skip_serializing_if = "RateLimits::is_none")]
    pub(crate) limits: RateLimits,
}

/// What is counted about keys.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Changes {
    /// Changes so far: the number of the newest audit entry.
    changes: u64,
    /// Keys there are.
    keys: u64,
}

/// A key to be made.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    /// What it is for, for people.
    pub(crate) name: String,
    pub(crate) scopes: Vec<String>,
    /// How long it is good, like `30d`; for ever if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_in: Option<String>,
    #[serde(default, skip_serializing_if = "RateLimits::is_none")]
    pub(crate) limits: RateLimits,
}

/// Why a key cannot be made or revoked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// A field of the request, and what is wrong with it.
    #[error("{field} {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error("there is no key {0}")]
    Unknown(String),
    /// It is not repeated: it may be a key with its secret.
    #[error("that is not the id of a key: `key list` shows the ids")]
    NoId,
    #[error("there are {MAX_KEYS} keys, which is the most: revoke some")]
    TooMany,
    #[error("the system has no random numbers")]
    NoRandomness,
    #[error("others are changing keys at the same time: try again")]
    Busy,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The version of the newest change. `None` as long as there never was a key.
pub(crate) fn newest_change(store: &dyn DedupStore) -> Result<Option<u64>, StoreError> {
    let Some(records) = store.records() else { return Ok(None) };
    Ok(records.get(CHANGES, LATEST)?.map(|record| record.version))
}

/// All keys with their hashes, in the order of their ids. One that cannot be read opens nothing, and is left out.
pub(crate) fn all(store: &dyn DedupStore) -> Result<Vec<(String, StoredKey)>, StoreError> {
    let Some(records) = store.records() else { return Ok(Vec::new()) };
    let key = |record: Record| match decode(&record) {
        Ok(key) => Some((record.name, key)),
        Err(error) => {
            warn!(key = record.name, %error, "a key cannot be used");
            None
        }
    };
    Ok(list_all(records, KEY)?.into_iter().filter_map(key).collect())
}

/// All keys as they are shown, in the order of their ids.
pub(crate) fn list(store: &dyn DedupStore) -> Result<Vec<KeyInfo>, StoreError> {
    let keys = all(store)?;
    let Some(records) = store.records() else { return Ok(Vec::new()) };
    let mut uses = list_all(records, KEY_USE)?.into_iter().peekable();
    let shown = keys.into_iter().map(|(id, key)| {
        while uses.next_if(|of| of.name < id).is_some() {}
        let used = uses.next_if(|of| of.name == id);
        let last_used_at = used.and_then(|used| String::from_utf8(used.value).ok());
        KeyInfo { last_used_at, ..info(id, key) }
    });
    Ok(shown.collect())
}

/// How many changes of keys there were: the number of the newest audit entry.
pub(super) fn changes_of_keys(records: &dyn Records) -> Result<u64, StoreError> {
    Ok(changes(records)?.1.changes)
}

/// Makes a key. Its secret is in what is returned, and nowhere else.
pub(crate) fn create(store: &dyn DedupStore, new: &NewKey, by: &str) -> Result<(KeyInfo, Token), KeyError> {
    let records = capability(store)?;
    let now = records.now()?;
    let key = checked(new, now)?;
    let token = Token::generate().ok_or(KeyError::NoRandomness)?;
    let key = StoredKey { sha256: token.hash().to_string(), ..key };
    let shown = info(token.id().to_owned(), key.clone());
    for _ in 0..TRIES {
        let (counted, mut counters) = changes(records)?;
        if counters.keys >= MAX_KEYS {
            return Err(KeyError::TooMany);
        }
        counters.keys += 1;
        let created = RecordWrite::create(KEY, token.id(), encode(&key));
        let entry = AuditEntry {
            at: now.to_string(),
            action: "key-created".into(),
            by: by.into(),
            key: Some(shown.clone()),
            events: None,
        };
        if change(records, counted, counters, vec![created], &entry)? {
            return Ok((shown, token));
        }
    }
    Err(KeyError::Busy)
}

/// Revokes a key: it is gone, and what the audit tells of it is left.
pub(crate) fn revoke(store: &dyn DedupStore, id: &str, by: &str) -> Result<KeyInfo, KeyError> {
    let records = capability(store)?;
    for _ in 0..TRIES {
        let (counted, mut counters) = changes(records)?;
        if !super::token::is_id(id) {
            return Err(KeyError::NoId);
        }
        let unknown = || KeyError::Unknown(id.to_owned());
        let key = records.get(KEY, id)?.ok_or_else(unknown)?;
        // One that this version cannot read can be revoked all the same.
        let shown = decode(&key).map_or_else(|_| unreadable(id), |stored| info(id.to_owned(), stored));
        counters.keys = counters.keys.saturating_sub(1);
        let mut writes = vec![RecordWrite::delete(&key)];
        writes.extend(records.get(KEY_USE, id)?.as_ref().map(RecordWrite::delete));
        let entry = AuditEntry {
            at: records.now()?.to_string(),
            action: "key-revoked".into(),
            by: by.into(),
            key: Some(shown.clone()),
            events: None,
        };
        if change(records, counted, counters, writes, &entry)? {
            return Ok(shown);
        }
    }
    Err(KeyError::Busy)
}

/// Notes when keys were used last. It is coarse, so a note that another node overtakes is dropped.
pub(crate) fn note_uses(store: &dyn DedupStore, uses: &[(String, Timestamp)]) -> Result<(), StoreError> {
    let Some(records) = store.records() else { return Ok(()) };
    if uses.is_empty() {
        return Ok(());
    }
    let keys: HashSet<String> = list_all(records, KEY)?.into_iter().map(|record| record.name).collect();
    let mut known: HashMap<String, Record> =
        list_all(records, KEY_USE)?.into_iter().map(|record| (record.name.clone(), record)).collect();
    // A key that was revoked meanwhile must not leave a record behind.
    let writes: Vec<_> = uses
        .iter()
        .filter(|(id, _)| keys.contains(id))
        .map(|(id, at)| match known.remove(id) {
            Some(known) => RecordWrite::update(&known, at.to_string()),
            None => RecordWrite::create(KEY_USE, id.as_str(), at.to_string()),
        })
        .collect();
    for writes in writes.chunks(MAX_RECORDS_PER_CALL) {
        let _ = records.write(writes)?;
    }
    Ok(())
}

/// What `new` asks for, with everything but the hash. Names every fault of it, one at a time.
pub(super) fn checked(new: &NewKey, now: Timestamp) -> Result<StoredKey, KeyError> {
    let invalid = |field, reason: String| KeyError::Invalid { field, reason };
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
        let reason = format!("must be 1 to {MAX_NAME_CHARS} characters that say what the key is for");
        return Err(invalid("name", reason));
    }
    let scopes: Vec<Scope> = new
        .scopes
        .iter()
        .take(super::scope::MAX_SCOPES + 1)
        .map(|text| text.parse())
        .collect::<Result<_, _>>()
        .map_err(|reason| invalid("scopes", reason))?;
    Grants::of(&scopes).map_err(|reason| invalid("scopes", reason))?;
    let lifetime = new.expires_in.as_deref().map(lifetime).transpose()?;
    Ok(StoredKey {
        name: name.to_owned(),
        sha256: String::new(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        created_at: now.to_string(),
        limits: new.limits,
        expires_at: lifetime.map(|micros| Timestamp::from_micros(now.as_micros() + micros).to_string()),
    })
}

/// In microseconds.
fn lifetime(text: &str) -> Result<i64, KeyError> {
    let invalid = |reason: String| KeyError::Invalid { field: "expires_in", reason };
    let lifetime = humantime::parse_duration(text).map_err(|error| {
        invalid(format!("{text:?} is no span of time ({error}): write 12h, 30d or 1year"))
    })?;
    if lifetime.is_zero() || lifetime > MAX_LIFETIME {
        return Err(invalid("must be more than nothing and at most 100 years".into()));
    }
    i64::try_from(lifetime.as_micros()).map_err(|_| invalid("is too long".into()))
}

/// The record of the counters, and the counters.
fn changes(records: &dyn Records) -> Result<(Option<Record>, Changes), StoreError> {
    let record = records.get(CHANGES, LATEST)?;
    let counters = record.as_ref().map(decode).transpose()?.unwrap_or_default();
    Ok((record, counters))
}

/// Writes a change together with its number and its audit entry. False if another change came first.
fn change(
    records: &dyn Records,
    counted: Option<Record>,
    mut counters: Changes,
    mut writes: Vec<RecordWrite>,
    entry: &AuditEntry,
) -> Result<bool, StoreError> {
    counters.changes += 1;
    let value = encode(&counters);
    writes.push(match counted {
        Some(record) => RecordWrite::update(&record, value),
        None => RecordWrite::create(CHANGES, LATEST, value),
    });
    writes.extend(audit::of_keys(records, counters.changes, entry)?);
    Ok(matches!(records.write(&writes)?, RecordOutcome::Written(_)))
}

fn info(id: String, key: StoredKey) -> KeyInfo {
    let StoredKey { name, scopes, created_at, expires_at, limits, sha256: _ } = key;
    KeyInfo { id, name, scopes, created_at, expires_at, last_used_at: None, limits }
}

/// What is told of a key whose record cannot be read.
fn unreadable(id: &str) -> KeyInfo {
    KeyInfo {
        id: id.to_owned(),
        name: "(unreadable)".into(),
        scopes: Vec::new(),
        created_at: String::new(),
        expires_at: None,
        last_used_at: None,
        limits: RateLimits::default(),
    }
}

fn capability(store: &dyn DedupStore) -> Result<&dyn Records, StoreError> {
    store.records().ok_or_else(|| store.unsupported("keep keys"))
}

fn list_all(records: &dyn Records, kind: &str) -> Result<Vec<Record>, StoreError> {
    list_after(records, kind, None)
}

/// All records of a kind behind a name. A list ends early when it is large, so it is gone on with until nothing comes.
pub(super) fn list_after(
    records: &dyn Records,
    kind: &str,
    mut after: Option<String>,
) -> Result<Vec<Record>, StoreError> {
    let mut all = Vec::new();
    loop {
        let page = records.list(kind, "", after.as_deref(), PAGE)?;
        let Some(last) = page.last() else { return Ok(all) };
        after = Some(last.name.clone());
        all.extend(page);
    }
}

pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers are JSON")
}

/// Another program has written a record that cannot be read, or a later version of this one. That is no reason to call
/// the store corrupt: events do not depend on it.
pub(super) fn decode<T: DeserializeOwned>(record: &Record) -> Result<T, StoreError> {
    serde_json::from_slice(&record.value).map_err(|error| {
        let (kind, name) = (&record.kind, &record.name);
        StoreError::unavailable(format!(
            "the record {name} of kind {kind} has another form than here: {error}"
        ))
    })
}

#[cfg(test)]
mod tests;
