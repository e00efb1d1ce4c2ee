//! What the shards measure, summed up.

use crate::histogram::HistogramCounts;
use crate::store::{DedupStore, StoreGauges};

/// `None` if no shard measures anything.
pub(super) fn sum<'s>(shards: impl Iterator<Item = &'s dyn DedupStore>) -> Option<StoreGauges> {
    let mut all = shards.filter_map(DedupStore::gauges);
    let mut total = all.next()?;
    for gauges in all {
        add_histogram(&mut total.syncs, gauges.syncs);
        add_histogram(&mut total.checkpoints, gauges.checkpoints);
        add(&mut total.log_bytes, gauges.log_bytes);
        add(&mut total.index_runs, gauges.index_runs);
        add(&mut total.index_bytes, gauges.index_bytes);
        for (part, bytes) in gauges.parts {
            match total.parts.iter_mut().find(|(known, _)| *known == part) {
                Some((_, sum)) => *sum += bytes,
                None => total.parts.push((part, bytes)),
            }
        }
    }
    Some(total)
}

fn add(total: &mut Option<u64>, more: Option<u64>) {
    if let Some(more) = more {
        *total = Some(total.unwrap_or(0) + more);
    }
}

fn add_histogram(total: &mut Option<HistogramCounts>, more: Option<HistogramCounts>) {
    match (total, more) {
        (Some(total), Some(more)) => total.add(&more),
        (total @ None, more) => *total = more,
        (Some(_), None) => {}
    }
}
