//! Turns a request into a [`Principal`]. Nothing else does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use aggregator_core::{Deadline, DedupStore, StoreError, Timestamp};
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::http::request::Parts;
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

use super::browser;
use super::cursor_seal::CursorSeal;
use super::jwt::Jwt;
use super::keyring::Keyring;
use super::principal::Principal;
use super::registry;
use super::token::{self, Token};
use crate::http::problem::Problem;

/// How often a node looks for changes that others have made.
const INTERVAL: Duration = Duration::from_millis(300);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the uses of keys are written down.
const NOTE_USES_EVERY: Duration = Duration::from_secs(60);

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// The port.
    Network,
    /// The admin socket, which only the operator can open.
    AdminSocket,
}

/// Who is served without a credential, as long as there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Anonymity {
    /// Nobody.
    Refused,
    /// Programs of this machine, and no page of others in its browsers. Hosts with these names are this machine as well.
    OfThisMachine(Vec<String>),
    /// Everybody who reaches the port.
    Allowed,
}

/// Who may do what here.
pub(crate) struct Guard {
    store: Arc<dyn DedupStore>,
    anonymity: Anonymity,
    /// Where tokens are taken, too.
    jwt: Option<Jwt>,
    /// `None` before the keys were read for the first time.
    keyring: Mutex<Option<Arc<Keyring>>>,
    /// Held while the keys are read: of two who read at once, the slower one could bring older keys back.
    reading: Mutex<()>,
    /// Whether there is a key, so that nobody is anonymous any more.
    has_keys: Arc<AtomicBool>,
    seal: OnceLock<Arc<CursorSeal>>,
    /// Whether the last look at the keys could read the store.
    is_reading: AtomicBool,
    /// One change of keys at a time: they are rare, and none waits for a request.
    pub(super) changes: Semaphore,
}

impl Guard {
    pub(crate) fn new(store: Arc<dyn DedupStore>, anonymity: Anonymity, jwt: Option<Jwt>) -> Self {
        Self {
            store,
            anonymity,
            jwt,
            keyring: Mutex::default(),
            reading: Mutex::default(),
            has_keys: Arc::default(),
            seal: OnceLock::new(),
            is_reading: AtomicBool::new(false),
            changes: Semaphore::new(1),
        }
    }

    /// Who sends a request with this head.
    ///
    /// # Errors
    /// A credential that is not good never makes its sender an anonymous one.
    pub(crate) async fn principal(&self, parts: &Parts, entrance: Entrance) -> Result<Principal, Problem> {
        if entrance == Entrance::AdminSocket {
            return Ok(Principal::Operator);
        }
        let Some(keyring) = self.keyring().clone() else { return Err(Problem::keys_unknown()) };
        let mut credentials = parts.headers.get_all(AUTHORIZATION).iter();
        match (credentials.next(), credentials.next()) {
            (None, _) if self.jwt.is_some() => {
                Err(Problem::no_credential("send a token of the issuer, or a key: `Authorization: Bearer …`"))
            }
            (None, _) if keyring.change().is_some() => {
                Err(Problem::no_credential("send a key: `Authorization: Bearer agg_…`"))
            }
            (None, _) => self.anonymous(parts),
            (Some(credential), None) => self.of_credential(&keyring, credential).await,
            (Some(_), Some(_)) => {
                Err(Problem::bad_credential("there are several Authorization headers: send one"))
            }
        }
    }

    async fn of_credential(&self, keyring: &Keyring, credential: &HeaderValue) -> Result<Principal, Problem> {
        let token = bearer(credential)?;
        match (Token::parse(token), &self.jwt) {
            (Some(token), _) => of_key(keyring, &token),
            // A token of an issuer never begins so: it begins with a brace in base64.
            (None, Some(jwt)) if !token.starts_with(token::PREFIX) => {
                let seal = self.seal.get().map(|seal| &**seal);
                Ok(Principal::Subject(jwt.subject(token, seal).await?))
            }
            _ => Err(Problem::bad_credential(
                "what the Authorization header has is not a key: keys begin with agg_",
            )),
        }
    }

    /// The sender of a request without a credential, while there are none.
    fn anonymous(&self, parts: &Parts) -> Result<Principal, Problem> {
        match &self.anonymity {
            Anonymity::Allowed => {}
            Anonymity::OfThisMachine(names) => browser::check(parts, names)?,
            Anonymity::Refused => {
                return Err(Problem::no_credential(
                    "the server takes no requests without a key, and has none yet: make one with \
                     `aggregator-server key new`, or start it with --allow-anonymous if everybody who reaches it may \
                     publish and read",
                ));
            }
        }
        Ok(Principal::Anonymous(Arc::clone(&self.has_keys)))
    }

    /// Forgets whom it knows by tokens that keys of the issuer have signed which were taken back.
    pub(crate) fn forget_withdrawn(&self) {
        if let Some(jwt) = &self.jwt {
            jwt.forget_withdrawn();
        }
    }

    /// Whether the store could be read just now: its keys are looked at all the time.
    pub(crate) fn is_reading(&self) -> bool {
        self.is_reading.load(Ordering::Acquire)
    }

    /// Reads the keys of the store if they have changed, and says whether they have. Blocks.
    pub(crate) fn refresh(&self) -> Result<bool, StoreError> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let change = Deadline::after(PATIENCE).scope(|| registry::newest_change(&*self.store))?;
        let known = self.keyring().clone();
        let lacks_seal = self.jwt.is_some() && self.seal.get().is_none();
        let is_known = |known: &Arc<Keyring>| known.change() == change && known.is_complete();
        if !lacks_seal && known.as_ref().is_some_and(is_known) {
            return Ok(false);
        }
        let stored = Deadline::after(PATIENCE).scope(|| registry::all(&*self.store))?;
        let known = known.unwrap_or_default();
        let is_news = known.change() != change;
        // Without a seal, the keys that need one are left out until there is one. All else is in force.
        let needs_seal = lacks_seal || !stored.is_empty();
        let seal = if needs_seal { self.seal_unless_it_fails(is_news) } else { None };
        // A change that comes between the two reads is read again with the next look.
        let keyring = known.replaced_by(change, stored, seal);
        let is_changed = is_news || keyring.is_complete();
        *self.keyring() = Some(Arc::new(keyring));
        self.has_keys.store(change.is_some(), Ordering::Release);
        Ok(is_changed)
    }

    fn seal_unless_it_fails(&self, is_told: bool) -> Option<&Arc<CursorSeal>> {
        let seal = self.seal();
        if let Err(error) = &seal
            && is_told
        {
            warn!(%error, "keys that may read some topics only cannot be used yet");
        }
        seal.ok()
    }

    fn seal(&self) -> Result<&Arc<CursorSeal>, StoreError> {
        if let Some(seal) = self.seal.get() {
            return Ok(seal);
        }
        let seal = Arc::new(CursorSeal::of(&*self.store)?);
        Ok(self.seal.get_or_init(|| seal))
    }

    fn note_uses(&self) -> Result<(), StoreError> {
        let keyring = self.keyring().clone();
        let uses = keyring.map(|keyring| keyring.take_uses()).unwrap_or_default();
        registry::note_uses(&*self.store, &uses)
    }

    fn keyring(&self) -> MutexGuard<'_, Option<Arc<Keyring>>> {
        // No code that can panic runs under the lock.
        self.keyring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The token of a header `Authorization`.
pub(super) fn bearer(credential: &HeaderValue) -> Result<&str, Problem> {
    let text = credential.to_str().unwrap_or_default();
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(token.trim());
    }
    Err(Problem::bad_credential("send a key as `Authorization: Bearer agg_…`"))
}

/// Who holds a key.
pub(super) fn of_key(keyring: &Keyring, token: &Token) -> Result<Principal, Problem> {
    let key = keyring.find(token).ok_or_else(|| {
        Problem::bad_credential("the server does not know this key: it was revoked, or is another server's")
    })?;
    let now = Timestamp::now();
    key.check(now)?;
    key.used(now);
    Ok(Principal::Key(Arc::clone(key)))
}

/// Reads the keys for the first time, so that the first request finds them. If they cannot be read, requests are refused
/// until they can.
pub(crate) async fn begin(guard: &Arc<Guard>) {
    if let Err(error) = look(guard).await {
        warn!(%error, "the keys cannot be read: requests are refused until they can");
    }
    let keyring = guard.keyring().clone();
    if let Some(jwt) = &guard.jwt {
        info!(issuer = jwt.issuer(), "requests need a token of this issuer, or a key");
        return;
    }
    match keyring {
        Some(keyring) if keyring.change().is_some() => info!("requests need a key"),
        Some(_) if guard.anonymity == Anonymity::Refused => {
            warn!(
                "there is no key yet, so nobody may publish or read: make one with `aggregator-server key new`"
            );
        }
        _ => {}
    }
}

/// Follows the changes of keys, and calls `on_change` after each. Ends when the sender of `stopped` is dropped.
pub(crate) async fn follow(guard: Arc<Guard>, on_change: impl Fn(), mut stopped: watch::Receiver<()>) {
    let mut is_failing = false;
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let looked = look(&guard).await;
        if let Err(error) = &looked
            && !is_failing
        {
            warn!(%error, "the keys cannot be read: those that were known before are used");
        }
        is_failing = looked.is_err();
        if looked.unwrap_or(false) {
            on_change();
        }
    }
}

/// Writes down when keys were used, now and then. Ends when the sender of `stopped` is dropped.
pub(crate) async fn note_uses_of(guard: Arc<Guard>, mut stopped: watch::Receiver<()>) {
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(NOTE_USES_EVERY) => note_uses(&guard).await,
        }
    }
}

async fn look(guard: &Arc<Guard>) -> Result<bool, StoreError> {
    let looking = Arc::clone(guard);
    let looked = tokio::task::spawn_blocking(move || looking.refresh()).await;
    let looked = looked.unwrap_or_else(|_| Err(StoreError::unavailable("reading the keys panicked")));
    guard.is_reading.store(looked.is_ok(), Ordering::Release);
    looked
}

async fn note_uses(guard: &Arc<Guard>) {
    let noting = Arc::clone(guard);
    let noted = tokio::task::spawn_blocking(move || noting.note_uses()).await;
    if let Ok(Err(error)) = noted {
        warn!(%error, "when keys were used last cannot be written down");
    }
}
