//! Reads the files again when they change. They are looked at every second: a Kubernetes secret changes by a symbolic
//! link to another directory, which a watch on the file itself does not see.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tracing::{info, warn};

use super::Tls;
use super::files::Stamps;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks at the files again and again. Ends when the sender of `stopped` is dropped.
pub(crate) async fn follow(tls: Arc<Tls>, mut stopped: watch::Receiver<()>) {
    let mut follower = Follower { told_expired: tls.warn_if_expired(SystemTime::now()), tls, refused: None };
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        // A file system that hangs must hold up no request.
        let looked = tokio::task::spawn_blocking(move || {
            follower.look();
            follower
        });
        let Ok(looked) = looked.await else { return };
        follower = looked;
    }
}

struct Follower {
    tls: Arc<Tls>,
    /// The files that were refused last: each change is told once.
    refused: Option<Stamps>,
    told_expired: bool,
}

impl Follower {
    fn look(&mut self) {
        let now = SystemTime::now();
        let found = self.tls.files.stamps();
        if found == self.tls.loaded().stamps {
            self.refused = None;
        } else {
            self.read(found, now);
        }
        if !self.told_expired {
            self.told_expired = self.tls.warn_if_expired(now);
        }
    }

    /// Files that are refused are read again each time. What is written in pieces may be whole now.
    fn read(&mut self, found: Stamps, now: SystemTime) {
        let path = self.tls.files.cert.display();
        let reason = match self.tls.files.load() {
            Ok(loaded) if loaded.expires >= now => {
                let valid_until = humantime::format_rfc3339_seconds(loaded.expires);
                info!(%path, %valid_until, "the files of TLS have changed: new connections get the new certificate");
                self.tls.replace(loaded);
                (self.refused, self.told_expired) = (None, false);
                return;
            }
            Ok(loaded) => {
                format!(
                    "the certificate has expired at {}",
                    humantime::format_rfc3339_seconds(loaded.expires)
                )
            }
            Err(error) => error.to_string(),
        };
        self.tls.reload_failures.fetch_add(1, Ordering::Relaxed);
        if self.refused.as_ref() != Some(&found) {
            warn!(%path, reason, "the files of TLS have changed and cannot be used: those of before stay in use");
            self.refused = Some(found);
        }
    }
}
