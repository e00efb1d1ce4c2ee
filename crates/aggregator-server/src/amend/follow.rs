//! Forgets what other nodes of the store have erased, and the command line.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::debug;

use crate::app::App;
use crate::auth::audit;
use crate::fair::Flow;

/// How often a node looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks whether anything was erased, and forgets all that is in memory of payloads then. Ends when the sender of `stopped` is
/// dropped; at once where nobody else uses the store.
pub(crate) async fn follow(app: Arc<App>, mut stopped: watch::Receiver<()>) {
    if !app.store.info().shared || app.store.amend().is_none() {
        return;
    }
    let mut known = None;
    loop {
        match app.reads.run(Flow::EVERYBODY, |store| audit::erasures(store)).await {
            Ok(erasures) => {
                // With the first look, too: something may have been erased since the process has read its first event.
                if known != Some(erasures) {
                    app.forget_all_payloads();
                }
                known = Some(erasures);
            }
            Err(error) => debug!(%error, "it is not known whether something was erased"),
        }
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
