//! The load generator. It shares the machine with the server, so it does as little as it can.

mod closed;
mod flood;
mod open;

use std::net::SocketAddr;

use anyhow::ensure;
use hdrhistogram::Histogram;

pub(crate) use self::closed::{
    Progress, Sample, Watched, run as as_fast_as_possible, run_over as as_fast_as_possible_over,
};
pub(crate) use self::flood::run as flood;
pub(crate) use self::open::run as steady;
use crate::wire::{Counts, Key, Results};
use crate::workload::Workload;

/// What is sent, and how.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) workload: Workload,
    /// Events per request.
    pub(crate) batch: u32,
    /// Each connection has one request under way at a time.
    pub(crate) connections: u32,
    pub(crate) results: Results,
    /// The credential of each request, if the server asks for one.
    pub(crate) key: Option<Key>,
}

/// The result of a load.
pub(crate) struct Done {
    /// How many deliveries were made, from the first one on and without a gap.
    pub(crate) deliveries: u64,
    /// The sum of all replies.
    pub(crate) counts: Counts,
    pub(crate) seconds: f64,
    /// In microseconds.
    pub(crate) latency: Histogram<u64>,
    /// Requests that were answered 503 and sent again.
    pub(crate) refused: u64,
}

impl Done {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    pub(crate) fn rate(&self) -> f64 {
        self.deliveries as f64 / self.seconds
    }

    /// Compares the sum of the replies with the counts that the workload expects for the deliveries from `first` on.
    pub(crate) fn check(&self, workload: &Workload, first: u64) -> anyhow::Result<()> {
        let stored = workload.identities(first + self.deliveries) - workload.identities(first);
        let expected = Counts {
            received: self.deliveries,
            stored,
            duplicates: self.deliveries - stored,
            conflicts: 0,
            rejected: 0,
        };
        ensure!(self.counts == expected, "the replies say {:?}, but {expected:?} is right", self.counts);
        Ok(())
    }
}

/// Microseconds up to a minute, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("these bounds are good")
}

/// Checks the counts of each reply, because errors in two replies could cancel out in the sum.
fn check_reply(counts: Counts, load: &Load) -> anyhow::Result<()> {
    let Counts { received, stored, duplicates, conflicts, rejected } = counts;
    let batch = load.batch;
    let decided = match load.results {
        #[cfg(feature = "rivals")]
        Results::Queued => received,
        _ => stored + duplicates,
    };
    let whole = received == u64::from(batch) && decided == received;
    ensure!(whole && conflicts == 0 && rejected == 0, "a reply to {batch} events says {counts:?}");
    Ok(())
}

fn add(sum: &mut Counts, counts: Counts) {
    sum.received += counts.received;
    sum.stored += counts.stored;
    sum.duplicates += counts.duplicates;
    sum.conflicts += counts.conflicts;
    sum.rejected += counts.rejected;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::RECENT;

    #[test]
    fn a_count_that_is_off_by_one_is_found() {
        let workload = Workload::new(1, RECENT, 4_u16);
        let address = ([127, 0, 0, 1], 1).into();
        let load =
            Load { address, workload, batch: 500, connections: 1, results: Results::Counts, key: None };
        let right = Counts { received: 500, stored: 400, duplicates: 100, conflicts: 0, rejected: 0 };
        let done = |counts| Done { deliveries: 500, counts, seconds: 1.0, latency: histogram(), refused: 0 };
        check_reply(right, &load).unwrap();
        done(right).check(&workload, 0).unwrap();
        for wrong in [
            Counts { received: 499, ..right },
            Counts { stored: 399, ..right },
            Counts { duplicates: 99, conflicts: 1, ..right },
            Counts { conflicts: 1, ..right },
            Counts { rejected: 1, ..right },
        ] {
            assert!(check_reply(wrong, &load).is_err(), "{wrong:?}");
            assert!(done(wrong).check(&workload, 0).is_err(), "{wrong:?}");
        }
        // An event that is stored twice shows only in the sum.
        let twice = Counts { stored: 401, duplicates: 99, ..right };
        assert!(check_reply(twice, &load).is_ok() && done(twice).check(&workload, 0).is_err());
    }
}
