//! Runs a connection, and says goodbye to it in time.

use std::pin::Pin;

use tokio::sync::watch;

/// Told once no connection takes further requests.
pub(super) struct Stop(pub(super) watch::Receiver<bool>);

impl Stop {
    pub(super) async fn told(mut self) {
        // The sender lives until every connection has ended.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }
}

/// Runs a connection to its end. Says goodbye once `until` completes: then requests under way are still answered. Breaks it
/// off if `enough` completes after that.
///
/// The connection comes in a box. It is large, and each future around this one would have room for it as well.
pub(super) async fn drive<C>(
    mut connection: Pin<Box<C>>,
    goodbye: impl Fn(Pin<&mut C>),
    until: impl Future<Output = ()>,
    enough: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    tokio::select! {
        biased;
        ended = &mut connection => return ended,
        () = until => goodbye(connection.as_mut()),
    }
    tokio::select! {
        biased;
        ended = connection => ended,
        () = enough => Ok(()),
    }
}
