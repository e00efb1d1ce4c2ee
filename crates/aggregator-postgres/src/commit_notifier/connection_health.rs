//! The state of the relay's connection: how long the relay waits before it reconnects, and when the log says so.

use std::time::Duration;

use aggregator_core::StoreError;
use tracing::{debug, info, warn};

use crate::connection::backoff::Backoff;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Counts the failures of the relay's connections.
pub(super) struct ConnectionHealth {
    backoff: Backoff,
    /// Failures since a connection last held.
    failures: u32,
}

impl ConnectionHealth {
    pub(super) const fn new() -> Self {
        Self { backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), failures: 0 }
    }

    /// Counts a connection that could not be made, or that has ended. A connection that ends and is replaced at once is
    /// no outage. So the second failure in a row is logged as a warning, and no other one until a connection has held.
    pub(super) fn failed(&mut self, error: &StoreError) {
        self.failures = self.failures.saturating_add(1);
        if self.failures == 2 {
            warn!(
                %error,
                "the connection that tells of other nodes' commits is lost: until it is back, this node polls for them"
            );
        } else {
            debug!(%error, failures = self.failures, "no connection that tells of other nodes' commits");
        }
    }

    /// How long to wait before the next connection.
    pub(super) fn pause(&mut self) -> Duration {
        if self.failures == 0 { Duration::ZERO } else { self.backoff.pause() }
    }

    /// Notes that a connection has worked for [`LONGEST_PAUSE`]. One that failed sooner does not count, or the relay
    /// would reconnect forever after the shortest pause.
    pub(super) fn held(&mut self) {
        if self.failures >= 2 {
            info!(failures = self.failures, "the connection that tells of other nodes' commits is back");
        }
        self.failures = 0;
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::unavailable;

    #[test]
    fn only_a_connection_that_held_makes_the_pauses_short_again() {
        let mut health = ConnectionHealth::new();
        assert_eq!(health.pause(), Duration::ZERO, "the first connection is made at once");
        for _ in 0..20 {
            health.failed(&unavailable("gone"));
            health.pause();
        }
        health.failed(&unavailable("gone"));
        assert!(health.pause() >= LONGEST_PAUSE / 2);
        health.held();
        assert_eq!(health.pause(), Duration::ZERO);
        health.failed(&unavailable("gone"));
        assert!(health.pause() <= FIRST_PAUSE);
    }
}
