//! The public keys of the issuer of tokens (`--jwt-jwks`), and how they are read again. What a token may be is decided in
//! `auth/jwt/`; nothing of a token but the name of its key comes here.
//!
//! * A file is looked at every second, as the files of TLS are.
//! * A URL is fetched at the start and every `follow::REFRESH`. A token whose key is unknown asks for a fetch before that.
//!   One task fetches, so there is one fetch at a time, and after each it rests for `follow::REST`: tokens with made-up
//!   keys cost the issuer no more than that.
//!
//! Keys that were read once stay in use when they cannot be read again.

mod fetch;
mod follow;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod key;
mod key_set;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use jsonwebtoken::Algorithm;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::config::{Config, JwksLocation};
use crate::file_stamp::FileStamp;

pub(crate) use self::follow::{REST, follow};
pub(crate) use self::key::{IssuerKey, MAX_KID_BYTES};
pub(crate) use self::key_set::NoKey;

use self::fetch::Fetcher;
use self::key_set::KeySet;

/// Why the issuer's keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--jwt-jwks {location} {reason}")]
pub struct JwksError {
    location: JwksLocation,
    reason: String,
}

/// The keys of the issuer.
pub struct Jwks {
    location: JwksLocation,
    source: Source,
    /// `None` before they were fetched for the first time.
    keys: RwLock<Option<Arc<KeySet>>>,
    looks: watch::Sender<Looks>,
}

enum Source {
    /// The file as it was before it was read at the start.
    File(Option<FileStamp>),
    Url(Fetcher),
}

/// How far the task that fetches has come.
#[derive(Debug, Clone, Copy)]
struct Looks {
    /// Fetches so far, whatever came of them.
    done: u64,
    /// While it fetches nobody needs to ask for it.
    is_looking: bool,
    /// Whether nothing came of the last fetch.
    is_failing: bool,
    /// Before this moment it fetches nothing.
    rests_until: Instant,
    /// Whether somebody has asked for a fetch.
    is_wanted: bool,
}

impl Jwks {
    /// The keys that `config` names; `None` if it names none. A file is read now; a URL is fetched by `follow`.
    ///
    /// # Errors
    /// If the file cannot be read, or is no set of keys.
    pub fn load(config: &Config) -> Result<Option<Self>, JwksError> {
        let Some(location) = config.jwt_jwks.clone() else { return Ok(None) };
        let fail = |reason| JwksError { location: location.clone(), reason };
        let (source, keys) = match location.as_file() {
            Some(path) => {
                let stamp = FileStamp::of(path);
                (Source::File(stamp), Some(Arc::new(read(path).map_err(fail)?)))
            }
            None => (Source::Url(Fetcher::new(&location.to_string()).map_err(fail)?), None),
        };
        let looks = Looks {
            done: 0,
            is_looking: true,
            is_failing: false,
            rests_until: Instant::now(),
            is_wanted: false,
        };
        let jwks = Self { location, source, keys: RwLock::new(keys), looks: watch::Sender::new(looks) };
        Ok(Some(jwks))
    }

    /// See [`KeySet::find`].
    pub(crate) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<IssuerKey>, NoKey> {
        let keys = self.keys().ok_or(NoKey::NotFetched)?;
        keys.find(kid, algorithm)
    }

    /// Waits until the keys were fetched once more, unless that was done just now. Says whether they are what the issuer has;
    /// false if the fetch has failed or takes too long.
    pub(crate) async fn look_again(&self) -> bool {
        if matches!(self.source, Source::File(_)) {
            return true;
        }
        let mut looks = self.looks.subscribe();
        let before = *looks.borrow_and_update();
        if !before.is_looking && Instant::now() < before.rests_until {
            return !before.is_failing;
        }
        // Asking while a fetch is under way would be asking for the next one.
        self.looks.send_if_modified(|looks| {
            let asks = !looks.is_looking && looks.done == before.done;
            looks.is_wanted |= asks;
            asks
        });
        let looked = timeout(follow::PATIENCE, looks.wait_for(|looks| looks.done > before.done)).await;
        matches!(looked, Ok(Ok(looks)) if !looks.is_failing)
    }

    fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other keys in the place of those there are. Says whether keys were withdrawn with that.
    fn replace(&self, keys: KeySet) -> bool {
        let older = self.keys();
        let (keys, any_gone) = keys.replacing(older.as_deref().unwrap_or(&KeySet::default()));
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
        any_gone
    }

    /// Says in the log which keys there are.
    fn tell(&self) {
        let Some(keys) = self.keys() else { return };
        let (location, usable, left_out) = (&self.location, keys.len(), keys.unusable.len());
        for why in &keys.unusable {
            info!(%location, why, "a key of the issuer is left out");
        }
        if usable == 0 {
            warn!(%location, left_out, "the issuer has no key that can be used: nobody gets in with a token");
        } else {
            info!(%location, usable, left_out, "the keys of the issuer are read");
        }
    }
}

/// Reads a file with a set of keys.
fn read(path: &Path) -> Result<KeySet, String> {
    use std::io::Read as _;
    let mut text = Vec::new();
    // One byte more than there may be, so that what is too long is noticed.
    let limit = key_set::MAX_BYTES as u64 + 1;
    let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut text));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    KeySet::parse(&text)
}
