//! TLS for the port: what the server presents and what it asks of clients. Both come from files that are read again when
//! they change.

mod certificate;
mod client_names;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod reload;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use tracing::warn;

use crate::config::Config;

pub use self::files::TlsError;

pub(crate) use self::reload::follow;

use self::files::{Loaded, TlsFiles};

/// The protocols inside TLS, as ALPN (RFC 7301) names them.
pub(crate) const ALPN_HTTP_2: &[u8] = b"h2";
const ALPN_HTTP_1_1: &[u8] = b"http/1.1";

/// What new connections get. Those under way keep what they began with.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<Loaded>>,
    reload_failures: AtomicU64,
}

impl Tls {
    /// Reads the files that `config` names; `None` if it names none. A certificate that has expired is taken, with a
    /// warning: a server that ends would help nobody.
    ///
    /// # Errors
    /// Names the file, and what is wrong with it.
    pub fn load(config: &Config) -> Result<Option<Self>, TlsError> {
        let Some(files) = TlsFiles::of(config) else { return Ok(None) };
        let loaded = files.load()?;
        Ok(Some(Self { files, current: RwLock::new(Arc::new(loaded)), reload_failures: AtomicU64::new(0) }))
    }

    /// What a new connection gets.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.loaded().server)
    }

    /// When the server's certificate ends.
    pub(crate) fn expires(&self) -> SystemTime {
        self.loaded().expires
    }

    /// How often files that had changed could not be used.
    pub(crate) fn reload_failures(&self) -> u64 {
        self.reload_failures.load(Ordering::Relaxed)
    }

    fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, loaded: Loaded) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
    }

    /// Warns of a certificate that has expired. Returns whether it has.
    fn warn_if_expired(&self, now: SystemTime) -> bool {
        let loaded = self.loaded();
        let expired = loaded.expires < now;
        if expired {
            let (path, expired_at) =
                (self.files.cert.display(), humantime::format_rfc3339_seconds(loaded.expires));
            warn!(%path, %expired_at, "the certificate has expired: clients will refuse it. Replace the file, it is read again");
        }
        expired
    }
}
