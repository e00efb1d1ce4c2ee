//! The answers that say: not now (503). Each tells when to come again.

use std::time::Duration;

use aggregator_core::store::OpenProgress;
use hyper::StatusCode;

use super::Problem;

impl Problem {
    /// 503: the queue of the commits is full.
    pub(crate) fn queue_full() -> Self {
        Self::unavailable("queue-full", "Queue full", "the queue of events to be committed is full")
    }

    /// 503: some other limit is reached.
    pub(crate) fn overloaded(detail: impl Into<String>) -> Self {
        Self::unavailable("overloaded", "Overloaded", detail)
    }

    /// 503: there are as many waiting readers as there may be.
    pub(crate) fn too_many_tails() -> Self {
        Self::overloaded("too many readers wait for events (--max-tails)")
    }

    /// 503: the store is not open yet.
    pub(crate) fn opening(since: Duration, progress: Option<OpenProgress>) -> Self {
        let mut detail = format!("the store is being opened, for {} s so far", since.as_secs());
        if let Some(OpenProgress { indexed, events }) = progress {
            detail.push_str(&format!(": {indexed} of {events} events are in its index"));
        }
        Self::unavailable("opening", "Starting", detail)
    }

    /// 503: the process is about to end.
    pub(crate) fn draining() -> Self {
        Self::unavailable("draining", "Shutting down", "the server is shutting down")
    }

    /// 503: nothing is acknowledged any more.
    pub(crate) fn failed(reason: &str) -> Self {
        let detail = format!("the server acknowledges nothing until it is restarted: {reason}");
        Self::new("failed", "Store failed", StatusCode::SERVICE_UNAVAILABLE, detail).with_retry_after(30)
    }

    /// 503: the disk is full.
    pub(crate) fn no_space(reason: &str) -> Self {
        let detail = format!("{reason}; make room on its disk, and it goes on by itself");
        Self::unavailable("no-space", "No space on the disk", detail).with_retry_after(5)
    }

    /// 503: whether it was stored is unknown.
    pub(crate) fn commit_timeout() -> Self {
        Self::unavailable(
            "commit-timeout",
            "Commit timeout",
            "the commit did not end within --commit-timeout; send the same events again to learn their fate",
        )
    }

    /// 503: the store cannot be read.
    pub(crate) fn unreadable() -> Self {
        Self::unavailable("store-unavailable", "Store unavailable", "the store cannot be read at the moment")
    }

    /// 503: the part of the store that the events are for does not answer.
    pub(crate) fn partition_out(reason: &str) -> Self {
        let detail = format!("nothing is queued for a part of the store that does not answer: {reason}");
        Self::unavailable("store-unavailable", "Store unavailable", detail)
    }

    /// 503: no part of the store takes events.
    pub(crate) fn all_partitions_out(reason: &str) -> Self {
        let detail = format!("no partition takes events: {reason}");
        Self::unavailable("store-unavailable", "Store unavailable", detail)
    }

    pub(super) fn unavailable(kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(kind, title, StatusCode::SERVICE_UNAVAILABLE, detail).with_retry_after(1)
    }
}
