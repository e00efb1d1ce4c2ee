//! The keys of the store, in memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use aggregator_core::Timestamp;
use tracing::warn;

use super::cursor_seal::CursorSeal;
use super::rate::Buckets;
use super::registry::StoredKey;
use super::scope::{Grants, Scope};
use super::token::{SecretHash, Token};
use crate::fair::Flow;
use crate::http::problem::Problem;

/// How exactly the last use of a key is known, in microseconds.
const USE_STEP: i64 = 5 * 60 * 1_000_000;

/// A key, as requests are checked against it.
pub(crate) struct Key {
    id: String,
    flow: Flow,
    hash: SecretHash,
    grants: Grants,
    expires_at: Option<Timestamp>,
    /// For a key that may not read everything: hides in its cursors what they say of other topics.
    seal: Option<Arc<CursorSeal>>,
    buckets: Buckets,
    revoked: AtomicBool,
    /// In microseconds; 0 if it was not used since this process started.
    last_used: AtomicI64,
    /// The last use that was written down.
    noted_use: AtomicI64,
}

impl Key {
    /// A key of the store; `None` if it opens nothing. A scope that this version does not know allows nothing.
    fn new(id: String, stored: &StoredKey, seal: Option<&Arc<CursorSeal>>) -> Option<Self> {
        let scopes: Vec<Scope> = stored.scopes.iter().filter_map(|scope| scope.parse().ok()).collect();
        let grants = Grants::of(&scopes).ok()?;
        let hash = SecretHash::parse(&stored.sha256)?;
        let expires_at = stored.expires_at.as_ref().map(|at| at.parse()).transpose().ok()?;
        let seal = if grants.reads_some_only() { Some(Arc::clone(seal?)) } else { None };
        Some(Self {
            flow: Flow::of(&id),
            id,
            hash,
            grants,
            expires_at,
            seal,
            buckets: Buckets::new(stored.limits),
            revoked: AtomicBool::new(false),
            last_used: AtomicI64::new(0),
            noted_use: AtomicI64::new(0),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The flow of the requests that come with this key.
    pub(crate) fn flow(&self) -> Flow {
        self.flow
    }

    pub(super) fn grants(&self) -> &Grants {
        &self.grants
    }

    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    pub(super) fn seal(&self) -> Option<&CursorSeal> {
        self.seal.as_deref()
    }

    pub(super) fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// Refuses a key that is not good any more.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), Problem> {
        if self.revoked.load(Ordering::Acquire) {
            return Err(Problem::bad_credential("the key was revoked"));
        }
        match self.expires_at {
            Some(end) if end <= now => Err(Problem::bad_credential(format!("the key expired at {end}"))),
            _ => Ok(()),
        }
    }

    fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    pub(super) fn used(&self, now: Timestamp) {
        self.last_used.store(now.as_micros(), Ordering::Relaxed);
    }

    /// When it was used last, if that is news.
    fn take_use(&self) -> Option<Timestamp> {
        let last = self.last_used.load(Ordering::Relaxed);
        if last == 0 || last - self.noted_use.load(Ordering::Relaxed) < USE_STEP {
            return None;
        }
        self.noted_use.store(last, Ordering::Relaxed);
        Some(Timestamp::from_micros(last))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// All keys, as of one change.
#[derive(Default)]
pub(super) struct Keyring {
    keys: HashMap<String, Arc<Key>>,
    /// The change; `None` if there never was a key.
    change: Option<u64>,
    /// Whether there was a seal for the keys that need one.
    is_complete: bool,
}

impl Keyring {
    /// The change that these keys are as of.
    pub(super) fn change(&self) -> Option<u64> {
        self.change
    }

    /// Whether no key was left out for want of a seal.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The key that this is, whether it is still good or not.
    pub(super) fn find(&self, token: &Token) -> Option<&Arc<Key>> {
        self.keys.get(token.id()).filter(|key| key.hash.is(&token.hash()))
    }

    /// The keys as of a later change. Those that are gone are revoked, whoever holds them.
    pub(super) fn replaced_by(
        &self,
        change: Option<u64>,
        stored: Vec<(String, StoredKey)>,
        seal: Option<&Arc<CursorSeal>>,
    ) -> Self {
        let is_complete = seal.is_some() || stored.is_empty();
        let mut keys = HashMap::with_capacity(stored.len());
        for (id, stored) in stored {
            // A key never changes.
            let key = match self.keys.get(&id) {
                Some(known) => Some(Arc::clone(known)),
                None => Key::new(id.clone(), &stored, seal).map(Arc::new),
            };
            match key {
                Some(key) => drop(keys.insert(id, key)),
                None if seal.is_some() => {
                    warn!(key = id, "a key cannot be used: this version does not understand it");
                }
                None => {}
            }
        }
        self.keys.values().filter(|key| !keys.contains_key(&key.id)).for_each(|key| key.revoke());
        Self { keys, change, is_complete }
    }

    /// The keys that were used since this was asked last.
    pub(super) fn take_uses(&self) -> Vec<(String, Timestamp)> {
        self.keys.values().filter_map(|key| Some((key.id.clone(), key.take_use()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use aggregator_core::MemoryStore;

    use super::*;

    fn stored(scope: &str) -> (String, StoredKey) {
        let token = Token::generate().unwrap();
        let key = StoredKey {
            name: "test".into(),
            sha256: token.hash().to_string(),
            scopes: vec![scope.into()],
            created_at: "2026-01-01T00:00:00Z".into(),
            expires_at: None,
            limits: crate::auth::RateLimits::default(),
        };
        (token.id().to_owned(), key)
    }

    /// A disk that is full keeps the secret of the seal from being stored, and must not keep a key from being revoked.
    #[test]
    fn without_a_seal_only_the_keys_that_need_one_are_left_out() {
        let keys = [stored("read:*"), stored("read:some.*"), stored("publish:*")];
        let ids =
            |keyring: &Keyring| keys.iter().map(|(id, _)| keyring.keys.contains_key(id)).collect::<Vec<_>>();
        let without = Keyring::default().replaced_by(Some(1), keys.to_vec(), None);
        assert_eq!((ids(&without), without.is_complete()), (vec![true, false, true], false));
        let gone = Arc::clone(&without.keys[&keys[0].0]);
        let fewer = without.replaced_by(Some(2), keys[1..].to_vec(), None);
        assert!(gone.check(Timestamp::now()).is_err());
        assert_eq!((ids(&fewer), fewer.is_complete()), (vec![false, false, true], false));
        let seal = Arc::new(CursorSeal::of(&MemoryStore::default()).unwrap());
        let whole = fewer.replaced_by(Some(2), keys[1..].to_vec(), Some(&seal));
        assert_eq!((ids(&whole), whole.is_complete()), (vec![false, true, true], true));
        // A key that is kept is the same one, whoever holds it.
        assert!(Arc::ptr_eq(&fewer.keys[&keys[2].0], &whole.keys[&keys[2].0]));
    }
}
