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
    // What was erased before this process began is nowhere in its memory. But until the first look it is not known how much
    // that was, and something may be read meanwhile.
    let mut known = None;
    loop {
        match app.reads.run(Flow::EVERYBODY, |store| audit::erasures(store)).await {
            Ok(erasures) => {
                if known.is_some_and(|known| known != erasures) {
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
