//! `GET /stats`: the totals of the store over its whole life, whichever processes used it, and the share of this process.
//! The counters of the process are shown by `GET /metrics`, too.

use std::sync::Arc;

use aggregator_core::{DedupStore, Timestamp, TopicQuery};
use axum::extract::State;
use axum::response::Response;
use hyper::Uri;
use serde::Serialize;

use crate::app::App;
use crate::auth::Principal;
use crate::clock::ahead;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::response::json;

/// The most topics that are named.
const MAX_TOPICS: usize = 100;

#[derive(Serialize)]
struct StatsBody {
    /// `unique_processed`, `duplicate_dropped`, `conflicts` and `queue.events` together.
    received: u64,
    unique_processed: u64,
    /// Repeats with the payload of the first one. As everywhere, no outcome is counted inside another one.
    duplicate_dropped: u64,
    conflicts: u64,
    /// `duplicate_dropped` divided by the number of events that were decided: 0 to 1.
    duplicate_rate: f64,
    /// Items refused since the start of the process; never stored, so not part of `received`.
    rejected: u64,
    topics: Vec<String>,
    topics_total: u64,
    /// Seconds since the start of the process.
    uptime: f64,
    node: NodeBody,
    queue: QueueBody,
    workers: usize,
    store: StoreBody,
    clock: ClockBody,
}

/// What this process has done since its start, in the words of a reply to a publish request. `received` is the sum of the
/// four below.
#[derive(Serialize)]
struct NodeBody {
    received: u64,
    stored: u64,
    duplicates: u64,
    conflicts: u64,
    rejected: u64,
    uptime: f64,
}

#[derive(Serialize)]
struct QueueBody {
    events: usize,
    capacity_events: usize,
    bytes: usize,
    capacity_bytes: usize,
    /// Requests that wait for room in it.
    waiting: usize,
    /// Requests that found no room in time, since the start of the process.
    refused: u64,
    /// Events that were acknowledged as queued and never stored, since the start of the process: the store refused
    /// them (those are in `rejected`, too), or failed.
    lost: u64,
}

#[derive(Serialize)]
struct StoreBody {
    kind: &'static str,
    id: String,
    durability: &'static str,
    partitions: u16,
    bytes: u64,
    /// The partitions that are not in the totals, because they did not answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unavailable_partitions: Vec<u16>,
}

/// Whether the store is ahead of this machine's clock: then new events get its newest `processed_at` until the clock has
/// passed it.
#[derive(Serialize)]
struct ClockBody {
    now: String,
    newest_processed_at: Option<String>,
    /// Whole seconds; 0 if the store is not ahead.
    ahead_seconds: u64,
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
pub(crate) async fn stats(
    State(app): State<Arc<App>>,
    reader: Principal,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    // Whoever may read the counters need not be one who may know the topics.
    let readable = reader.readable().ok().cloned();
    let named = readable.map(|topics| TopicQuery { limit: MAX_TOPICS, ..TopicQuery::of(topics) });
    let read = move |store: &dyn DedupStore| {
        let totals = store.stats()?;
        let topics = match named.map(|named| store.topics(&named)).transpose() {
            // The names of the topics of all parts are not to be had then, the totals of some are.
            Err(error) if error.is_retryable() && !totals.unavailable.is_empty() => Vec::new(),
            topics => topics?.unwrap_or_default(),
        };
        Ok((totals, topics))
    };
    let (totals, topics) = app.reads.run(reader.flow(), read).await?;
    let (used, capacity, info) = (app.admission.used(), app.admission.capacity(), app.store.info());
    let decided = totals.stored + totals.duplicates;
    // A store counts conflicts among the repeats.
    let duplicates = totals.duplicates.saturating_sub(totals.conflicts);
    let node = node(&app);
    Ok(json(&StatsBody {
        received: decided + used.events as u64,
        unique_processed: totals.stored,
        duplicate_dropped: duplicates,
        conflicts: totals.conflicts,
        duplicate_rate: if decided == 0 { 0.0 } else { duplicates as f64 / decided as f64 },
        rejected: node.rejected,
        topics: topics.into_iter().map(|topic| topic.topic.to_string()).collect(),
        topics_total: totals.topics,
        uptime: node.uptime,
        node,
        queue: QueueBody {
            events: used.events,
            capacity_events: capacity.events,
            bytes: used.bytes,
            capacity_bytes: capacity.bytes,
            waiting: app.admission.waiting(),
            refused: app.admission.refused(),
            lost: app.workers.outcomes().lost,
        },
        workers: app.workers.count(),
        store: StoreBody {
            kind: info.kind,
            id: info.id.to_string(),
            durability: info.durability.as_str(),
            partitions: info.partitions.count(),
            bytes: totals.bytes,
            unavailable_partitions: totals.unavailable.iter().map(|partition| partition.0).collect(),
        },
        clock: clock(totals.newest_processed_at, Timestamp::now()),
    }))
}

fn clock(newest: Option<Timestamp>, now: Timestamp) -> ClockBody {
    ClockBody {
        now: now.to_string(),
        newest_processed_at: newest.map(|newest| newest.to_string()),
        ahead_seconds: ahead(newest, now).as_secs(),
    }
}

fn node(app: &App) -> NodeBody {
    let outcomes = app.workers.outcomes();
    let rejected = app.rejected() + outcomes.refused;
    NodeBody {
        received: outcomes.stored + outcomes.duplicates + outcomes.conflicts + rejected,
        stored: outcomes.stored,
        duplicates: outcomes.duplicates,
        conflicts: outcomes.conflicts,
        rejected,
        uptime: app.started.elapsed().as_secs_f64(),
    }
}
