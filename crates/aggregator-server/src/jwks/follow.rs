//! Reads the keys again: a file when it changes, a URL now and then and when somebody asks for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::fetch::Fetcher;
use super::{Jwks, Source, read};
use crate::file_stamp::FileStamp;

/// How often a file is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often a URL is fetched when nobody asks for it.
const REFRESH: Duration = Duration::from_secs(300);
/// Between the end of one fetch and the begin of the next one, whatever comes in.
pub(crate) const REST: Duration = Duration::from_secs(10);
/// How long a request waits for a fetch.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Keeps the keys as they are where they come from, and calls `on_withdrawal` after keys were taken back. Ends when the
/// sender of `stopped` is dropped.
pub(crate) async fn follow(jwks: Arc<Jwks>, on_withdrawal: impl Fn(), mut stopped: watch::Receiver<()>) {
    jwks.tell();
    let following = async {
        match (&jwks.source, jwks.location.as_file()) {
            (Source::Url(fetcher), _) => follow_url(&jwks, fetcher, on_withdrawal).await,
            (Source::File(stamp), Some(path)) => follow_file(&jwks, path, *stamp, on_withdrawal).await,
            (Source::File(_), None) => {}
        }
    };
    tokio::select! {
        _ = stopped.changed() => {}
        () = following => {}
    }
}

async fn follow_url(jwks: &Jwks, fetcher: &Fetcher, on_withdrawal: impl Fn()) {
    let mut is_failing = false;
    let mut looks = jwks.looks.subscribe();
    loop {
        jwks.looks.send_modify(|looks| (looks.is_looking, looks.is_wanted) = (true, false));
        let fetched = fetcher.fetch().await;
        let was_failing = std::mem::replace(&mut is_failing, fetched.is_err());
        match fetched {
            Ok(keys) => {
                let is_news = was_failing || jwks.keys().is_none_or(|known| !known.is_same(&keys));
                if jwks.replace(keys) {
                    on_withdrawal();
                }
                if is_news {
                    jwks.tell();
                }
            }
            Err(reason) if !was_failing => {
                let location = &jwks.location;
                let until_then = if jwks.keys().is_some() {
                    "those of before stay in use"
                } else {
                    "tokens are refused until they can"
                };
                warn!(%location, reason, "the keys of the issuer cannot be fetched: {until_then}");
            }
            Err(_) => {}
        }
        let now = Instant::now();
        jwks.looks.send_modify(|looks| {
            (looks.is_looking, looks.is_failing, looks.rests_until) = (false, is_failing, now + REST);
            looks.done += 1;
        });
        sleep(REST).await;
        if !is_failing {
            // The sender is this one's own, so it is there.
            let _ = tokio::time::timeout(REFRESH - REST, looks.wait_for(|looks| looks.is_wanted)).await;
        }
    }
}

async fn follow_file(jwks: &Jwks, path: &Path, mut used: Option<FileStamp>, on_withdrawal: impl Fn()) {
    // Each change that cannot be used is told once.
    let mut refused = None;
    loop {
        sleep(INTERVAL).await;
        let path = path.to_owned();
        // A file system that hangs must hold up no request.
        let looked = tokio::task::spawn_blocking(move || {
            let found = FileStamp::of(&path);
            // What was refused is read again: what is written in pieces may be whole now.
            (found, (found != used).then(|| read(&path)))
        });
        let Ok((found, read)) = looked.await else { return };
        match read {
            None => refused = None,
            Some(Ok(keys)) => {
                (used, refused) = (found, None);
                if jwks.replace(keys) {
                    on_withdrawal();
                }
                jwks.tell();
            }
            Some(Err(reason)) if refused != Some(found) => {
                refused = Some(found);
                let location = &jwks.location;
                warn!(%location, reason, "the keys of the issuer have changed and cannot be used: those of before stay in use");
            }
            Some(Err(_)) => {}
        }
    }
}
