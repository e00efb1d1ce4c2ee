//! Reads every figure once.

use std::time::SystemTime;

use aggregator_core::store::StoreGauges;

use crate::app::App;
use crate::tls::Tls;

use super::exposition::{Exposition, Value};
use super::names::{self, Metric};
use super::process::Process;

pub(super) fn of(app: &App, process: &Process) -> Exposition {
    let mut page = Exposition::default();
    page.add(&names::BUILD, [([env!("CARGO_PKG_VERSION")], Value::Whole(1))]);
    page.set(&names::READY, Value::Whole(app.is_ready().into()));
    let unavailable: usize = app.store.outages().iter().map(|outage| outage.partitions.len()).sum();
    page.set(&names::PARTITIONS_UNAVAILABLE, Value::Whole(unavailable as u64));
    events(&mut page, app);
    requests(&mut page, app);
    queue(&mut page, app);
    readers(&mut page, app);
    if let Some(tls) = &app.tls {
        certificate(&mut page, tls);
    }
    if let Some(gauges) = app.store.gauges() {
        store(&mut page, &gauges);
    }
    of_process(&mut page, process);
    page
}

fn events(page: &mut Exposition, app: &App) {
    let outcomes = app.workers.outcomes();
    let rejected = app.rejected() + outcomes.refused;
    let counts = [
        ("stored", outcomes.stored),
        ("duplicate", outcomes.duplicates),
        ("conflict", outcomes.conflicts),
        ("rejected", rejected),
    ];
    page.add(&names::EVENTS, counts.map(|(outcome, count)| ([outcome], Value::Whole(count))));
    page.set(&names::EVENTS_LOST, Value::Whole(outcomes.lost));
    let groups = app.workers.groups();
    page.set(&names::DUPLICATE_AGE, Value::Histogram(groups.duplicate_ages.counts()));
    page.set(&names::COMMIT_DURATION, Value::Histogram(groups.durations.counts()));
    page.set(&names::COMMIT_EVENTS, Value::Histogram(groups.sizes.counts()));
}

fn requests(page: &mut Exposition, app: &App) {
    let requests = &app.requests;
    page.add(&names::REQUESTS, requests.answers().map(|(labels, count)| (labels, Value::Whole(count))));
    let durations = requests.durations().map(|(route, counts)| ([route], Value::Histogram(counts)));
    page.add(&names::REQUEST_DURATION, durations);
    page.add(&names::SHED, requests.reasons().map(|(reason, count)| ([reason], Value::Whole(count))));
    if let Some(tracer) = &app.tracer {
        let counts = [("exported", tracer.counters.exported()), ("dropped", tracer.counters.dropped())];
        page.add(&names::SPANS, counts.map(|(outcome, count)| ([outcome], Value::Whole(count))));
    }
    let retention = app.retention.counts();
    page.set(&names::RETENTION_PURGED, Value::Whole(retention.purged_events));
    page.set(&names::RETENTION_FORGOTTEN, Value::Whole(retention.forgotten_identities));
    page.set(&names::RETENTION_FAILURES, Value::Whole(retention.failures));
    let (connections, capacity) = app.connections();
    gauges(page, [(&names::CONNECTIONS, connections), (&names::CONNECTIONS_CAPACITY, capacity)]);
}

fn queue(page: &mut Exposition, app: &App) {
    let (used, capacity) = (app.admission.used(), app.admission.capacity());
    gauges(
        page,
        [
            (&names::QUEUE_EVENTS, used.events),
            (&names::QUEUE_CAPACITY_EVENTS, capacity.events),
            (&names::QUEUE_BYTES, used.bytes),
            (&names::QUEUE_CAPACITY_BYTES, capacity.bytes),
            (&names::QUEUE_WAITING, app.admission.waiting()),
        ],
    );
}

fn readers(page: &mut Exposition, app: &App) {
    gauges(
        page,
        [
            (&names::READS_WAITING, app.reads.waiting()),
            (&names::READS_CAPACITY, app.config.read_queue),
            (&names::TAILS, app.tails.count()),
            (&names::TAILS_CAPACITY, app.config.max_tails.get()),
        ],
    );
}

fn certificate(page: &mut Exposition, tls: &Tls) {
    // One that ended before 1970 has ended.
    let expires = tls.expires().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    page.set(&names::TLS_EXPIRES, Value::Whole(expires.as_secs()));
    page.set(&names::TLS_RELOAD_FAILURES, Value::Whole(tls.reload_failures()));
}

fn store(page: &mut Exposition, gauges: &StoreGauges) {
    let histograms =
        [(&names::SYNC_DURATION, &gauges.syncs), (&names::CHECKPOINT_DURATION, &gauges.checkpoints)];
    for (metric, counts) in histograms {
        if let Some(counts) = counts {
            page.set(metric, Value::Histogram(counts.clone()));
        }
    }
    let known = |part: &str| names::PARTS.iter().find(|known| **known == part).copied();
    let mut parts: Vec<(&str, u64)> = Vec::new();
    for &(part, bytes) in &gauges.parts {
        let part = known(part).unwrap_or("other");
        match parts.iter_mut().find(|(name, _)| *name == part) {
            Some((_, sum)) => *sum += bytes,
            None => parts.push((part, bytes)),
        }
    }
    page.add(&names::STORE_BYTES, parts.into_iter().map(|(part, bytes)| ([part], Value::Whole(bytes))));
    let numbers = [
        (&names::WAL_BYTES, gauges.log_bytes),
        (&names::INDEX_RUNS, gauges.index_runs),
        (&names::INDEX_BYTES, gauges.index_bytes),
    ];
    optional(page, numbers.map(|(metric, value)| (metric, value.map(Value::Whole))));
}

fn of_process(page: &mut Exposition, process: &Process) {
    optional(
        page,
        [
            (&names::RESIDENT_BYTES, process.resident_bytes.map(Value::Whole)),
            (&names::CPU_SECONDS, process.cpu_seconds.map(Value::Fraction)),
            (&names::OPEN_FDS, process.open_fds.map(Value::Whole)),
            (&names::MAX_FDS, process.max_fds.map(Value::Whole)),
            (&names::START_TIME, process.start_seconds.map(Value::Fraction)),
        ],
    );
}

fn gauges<const N: usize>(page: &mut Exposition, values: [(&'static Metric, usize); N]) {
    for (metric, value) in values {
        page.set(metric, Value::Whole(value as u64));
    }
}

fn optional<const N: usize>(page: &mut Exposition, values: [(&'static Metric, Option<Value>); N]) {
    for (metric, value) in values {
        if let Some(value) = value {
            page.set(metric, value);
        }
    }
}
