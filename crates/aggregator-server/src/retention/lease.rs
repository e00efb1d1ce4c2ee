//! Which node of a store applies the rules: a record that says who does, until when.
//!
//! Two nodes that run at the same time for once do no harm: what one has purged is gone for the other. So a lease needs no
//! fence, and where the store takes no records because it is full, a node goes on without one.

use std::time::{Duration, Instant};

use aggregator_core::StoreError;
use aggregator_core::store::{RecordOutcome, RecordWrite, Records};
use serde::{Deserialize, Serialize};

use super::KIND;

const NAME: &str = "lease";

const MIN_SPAN: Duration = Duration::from_secs(5);
const MAX_SPAN: Duration = Duration::from_secs(30);

/// The value of the record. Times are in microseconds since 1970, by the store's clock.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Held {
    node: String,
    /// When the run began.
    began_at: i64,
    expires_at: i64,
}

/// A lease that this node has.
pub(super) struct Lease<'r> {
    records: &'r dyn Records,
    held: Held,
    version: u64,
    span: Duration,
    written: Instant,
}

impl<'r> Lease<'r> {
    /// Takes the lease for a run, unless another node has it or ran less than two intervals ago: the node that ran last
    /// stays the one, as long as it lives.
    pub(super) fn take(
        records: &'r dyn Records,
        node: &str,
        every: Duration,
    ) -> Result<Option<Self>, StoreError> {
        let found = records.get(KIND, NAME)?;
        let now = records.now()?.as_micros();
        let others: Option<Held> =
            found.as_ref().and_then(|record| serde_json::from_slice(&record.value).ok());
        if let Some(other) = others.filter(|held| held.node != node)
            && (now < other.expires_at || now < other.began_at.saturating_add(micros(every * 2)))
        {
            return Ok(None);
        }
        let span = every.clamp(MIN_SPAN, MAX_SPAN);
        let mut lease = Self {
            records,
            held: Held { node: node.to_owned(), began_at: now, expires_at: 0 },
            version: found.map_or(0, |record| record.version),
            span,
            written: Instant::now(),
        };
        Ok(lease.write(span)?.then_some(lease))
    }

    /// Extends the lease once a third of it is over. Returns whether this node still has it.
    pub(super) fn keep(&mut self) -> Result<bool, StoreError> {
        if self.written.elapsed() < self.span / 3 {
            return Ok(true);
        }
        self.write(self.span)
    }

    /// As if it were time to extend it.
    #[cfg(test)]
    pub(super) fn expire_now(&mut self) {
        self.span = Duration::ZERO;
    }

    /// Gives the lease back. If that fails, it expires.
    pub(super) fn end(mut self) {
        let _ = self.write(Duration::ZERO);
    }

    fn write(&mut self, span: Duration) -> Result<bool, StoreError> {
        self.held.expires_at = self.records.now()?.as_micros().saturating_add(micros(span));
        let value = serde_json::to_vec(&self.held).unwrap_or_default();
        let mut write = RecordWrite::create(KIND, NAME, value);
        write.expected_version = (self.version > 0).then_some(self.version);
        match self.records.write(&[write])? {
            RecordOutcome::Written(versions) => {
                self.version = versions.first().copied().unwrap_or_default();
                self.written = Instant::now();
                Ok(true)
            }
            RecordOutcome::Stale(_) => Ok(false),
        }
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}
