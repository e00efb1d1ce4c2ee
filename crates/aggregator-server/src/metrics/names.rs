//! Every metric: its name, what it is, what is said about it, and the values of its labels. There are no others: whatever is
//! shown takes its name from here. docs/metrics.md has a row for each.

use aggregator_core::histogram::{LATENCY, Ticks};

/// What a metric measures, and under which name.
#[derive(Debug)]
pub(crate) struct Metric {
    /// Without the endings `_total` and `_info`, which come with the kind.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
    /// Each label with all values that it can have.
    pub(crate) labels: &'static [(&'static str, &'static [&'static str])],
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram(#[cfg_attr(not(test), expect(dead_code, reason = "a test counts its buckets"))] &'static Ticks),
    /// Always 1: its labels say something.
    Info,
}

type Labels = &'static [(&'static str, &'static [&'static str])];

const fn counter(name: &'static str, help: &'static str, labels: Labels) -> Metric {
    Metric { name, kind: Kind::Counter, help, labels }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, help, labels: &[] }
}

const fn histogram(name: &'static str, ticks: &'static Ticks, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram(ticks), help, labels: &[] }
}

/// The paths of the table of routes (`serve/routes.rs`). The first one stands for whatever has no row in it, and for requests
/// that were refused before their row was looked for.
pub(crate) const ROUTES: &[&str] = &[
    "unknown",
    "/publish",
    "/events",
    "/events/stream",
    "/lookup",
    "/topics",
    "/stats",
    "/stats/series",
    "/insight",
    "/duplicates",
    "/retention",
    "/metrics",
    "/admin/keys",
    "/admin/keys/{id}",
    "/admin/backup",
    "/admin/erase",
    "/admin/release",
    "/admin/audit",
    "/",
    "/ui/{file}",
    "/health",
    "/livez",
    "/readyz",
];

/// The statuses that the server answers with. The last one stands for all others.
pub(crate) const STATUSES: &[&str] = &[
    "202", "200", "201", "400", "401", "403", "404", "405", "408", "409", "410", "413", "415", "421", "422",
    "429", "500", "501", "503", "other",
];

/// Why requests are shed: the kinds of problems that are answered with 429 or 503, and `connections` for those from which no
/// request was read. The last one stands for all others.
pub(crate) const SHED_REASONS: &[&str] = &[
    "queue-full",
    "overloaded",
    "rate-limited",
    "connections",
    "no-space",
    "commit-timeout",
    "read-timeout",
    "store-unavailable",
    "keys-unknown",
    "issuer-keys-unknown",
    "draining",
    "failed",
    "other",
];

/// The parts of a store. The last one stands for all that the table does not know.
pub(crate) const PARTS: &[&str] = &["main", "log", "other"];

/// Numbers of events.
pub(crate) const SIZES: Ticks =
    Ticks { bounds: &[1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000], per_unit: 1 };

/// From a second to 30 days, in milliseconds. Among them are the usual windows of systems that forget: 2 and 5 minutes, an hour,
/// a day, a week.
pub(crate) const AGES: Ticks = Ticks {
    bounds: &[
        1_000,
        10_000,
        60_000,
        120_000,
        300_000,
        900_000,
        3_600_000,
        21_600_000,
        86_400_000,
        604_800_000,
        2_592_000_000,
    ],
    per_unit: 1_000,
};

pub(crate) const BUILD: Metric = Metric {
    name: "aggregator_build",
    kind: Kind::Info,
    help: "The version of the server.",
    labels: &[("version", &[env!("CARGO_PKG_VERSION")])],
};
pub(crate) const READY: Metric =
    gauge("aggregator_ready", "1 while events are taken, as /readyz says, else 0.");
pub(crate) const PARTITIONS_UNAVAILABLE: Metric = gauge(
    "aggregator_partitions_unavailable",
    "Partitions that do not answer while others do, as /readyz says.",
);
pub(crate) const EVENTS: Metric = counter(
    "aggregator_events",
    "Events by what became of them.",
    &[("outcome", &["stored", "duplicate", "conflict", "rejected"])],
);
pub(crate) const EVENTS_LOST: Metric =
    counter("aggregator_events_lost", "Events that were answered as queued and were never stored.", &[]);
pub(crate) const DUPLICATE_AGE: Metric = histogram(
    "aggregator_duplicate_age_seconds",
    &AGES,
    "How long after the first event with its identity a repeat came, conflicts included.",
);
pub(crate) const REQUESTS: Metric = counter(
    "aggregator_requests",
    "Requests answered, by route and status.",
    &[("route", ROUTES), ("status", STATUSES)],
);
pub(crate) const REQUEST_DURATION: Metric = Metric {
    labels: &[("route", ROUTES)],
    ..histogram(
        "aggregator_request_duration_seconds",
        &LATENCY,
        "From the head of a request to the head of its answer.",
    )
};
pub(crate) const SHED: Metric = counter(
    "aggregator_shed",
    "Requests and connections that were refused and may come again.",
    &[("reason", SHED_REASONS)],
);
pub(crate) const SPANS: Metric = counter(
    "aggregator_spans",
    "Spans by what became of them, where they are exported (--otlp-endpoint).",
    &[("outcome", &["exported", "dropped"])],
);
pub(crate) const RETENTION_PURGED: Metric = counter(
    "aggregator_retention_purged_events",
    "Events whose payloads this node has removed by the rules of retention (--retain).",
    &[],
);
pub(crate) const RETENTION_FORGOTTEN: Metric = counter(
    "aggregator_retention_forgotten_identities",
    "Identities that this node has forgotten by the rules of retention (--retain with identities).",
    &[],
);
pub(crate) const RETENTION_FAILURES: Metric = counter(
    "aggregator_retention_failures",
    "Runs of retention on this node that did not come to their end. GET /retention says why.",
    &[],
);
pub(crate) const CONNECTIONS: Metric =
    gauge("aggregator_connections", "Connections that count against --max-connections.");
pub(crate) const CONNECTIONS_CAPACITY: Metric =
    gauge("aggregator_connections_capacity", "The limit of connections (--max-connections).");
pub(crate) const QUEUE_EVENTS: Metric =
    gauge("aggregator_queue_events", "Events that wait for their commit.");
pub(crate) const QUEUE_CAPACITY_EVENTS: Metric =
    gauge("aggregator_queue_capacity_events", "The limit of events that wait (--queue-events).");
pub(crate) const QUEUE_BYTES: Metric =
    gauge("aggregator_queue_bytes", "Bytes of events that wait for their commit.");
pub(crate) const QUEUE_CAPACITY_BYTES: Metric =
    gauge("aggregator_queue_capacity_bytes", "The limit of bytes that wait (--queue-bytes).");
pub(crate) const QUEUE_WAITING: Metric =
    gauge("aggregator_queue_waiting_requests", "Requests that wait for room in the queue.");
pub(crate) const COMMIT_DURATION: Metric = histogram(
    "aggregator_commit_duration_seconds",
    &LATENCY,
    "How long the store took for a group of events that it took.",
);
pub(crate) const COMMIT_EVENTS: Metric =
    histogram("aggregator_commit_events", &SIZES, "Events of a group that was committed.");
pub(crate) const READS_WAITING: Metric = gauge("aggregator_reads_waiting", "Reads that wait for their turn.");
pub(crate) const READS_CAPACITY: Metric =
    gauge("aggregator_reads_waiting_capacity", "The limit of reads that wait (--read-queue).");
pub(crate) const TAILS: Metric = gauge("aggregator_tails", "Readers at the end: streams and long polls.");
pub(crate) const TAILS_CAPACITY: Metric =
    gauge("aggregator_tails_capacity", "The limit of readers at the end (--max-tails).");
pub(crate) const TLS_EXPIRES: Metric = gauge(
    "aggregator_tls_certificate_expires_timestamp_seconds",
    "When the server's certificate ends, in seconds since 1970.",
);
pub(crate) const TLS_RELOAD_FAILURES: Metric = counter(
    "aggregator_tls_reload_failures",
    "How often changed files of TLS could not be used. They are tried again every second.",
    &[],
);
pub(crate) const SYNC_DURATION: Metric = histogram(
    "aggregator_sync_duration_seconds",
    &LATENCY,
    "How long the last step of a commit took: writing the log and syncing it.",
);
pub(crate) const CHECKPOINT_DURATION: Metric = histogram(
    "aggregator_checkpoint_duration_seconds",
    &LATENCY,
    "How long it took to copy a part of the log into the main file.",
);
pub(crate) const WAL_BYTES: Metric = gauge("aggregator_wal_bytes", "Bytes of the log that are in use.");
pub(crate) const STORE_BYTES: Metric = Metric {
    labels: &[("part", PARTS)],
    ..gauge("aggregator_store_bytes", "Bytes of the store on the disk.")
};
pub(crate) const INDEX_RUNS: Metric = gauge("aggregator_index_runs", "Runs of the dedup index.");
pub(crate) const INDEX_BYTES: Metric =
    gauge("aggregator_index_bytes", "Memory of the filters and fences of the dedup index's runs.");
pub(crate) const RESIDENT_BYTES: Metric = gauge("process_resident_memory_bytes", "Memory in use.");
pub(crate) const CPU_SECONDS: Metric =
    counter("process_cpu_seconds", "Processor time spent, in the program and in the system for it.", &[]);
pub(crate) const OPEN_FDS: Metric = gauge("process_open_fds", "Open file descriptors.");
pub(crate) const MAX_FDS: Metric = gauge("process_max_fds", "The limit of open file descriptors.");
pub(crate) const START_TIME: Metric =
    gauge("process_start_time_seconds", "When the process began, in seconds since 1970.");

#[cfg(test)]
pub(super) const ALL: &[&Metric] = &[
    &BUILD,
    &READY,
    &PARTITIONS_UNAVAILABLE,
    &EVENTS,
    &EVENTS_LOST,
    &DUPLICATE_AGE,
    &REQUESTS,
    &REQUEST_DURATION,
    &SHED,
    &SPANS,
    &RETENTION_PURGED,
    &RETENTION_FORGOTTEN,
    &RETENTION_FAILURES,
    &CONNECTIONS,
    &CONNECTIONS_CAPACITY,
    &QUEUE_EVENTS,
    &QUEUE_CAPACITY_EVENTS,
    &QUEUE_BYTES,
    &QUEUE_CAPACITY_BYTES,
    &QUEUE_WAITING,
    &COMMIT_DURATION,
    &COMMIT_EVENTS,
    &READS_WAITING,
    &READS_CAPACITY,
    &TAILS,
    &TAILS_CAPACITY,
    &TLS_EXPIRES,
    &TLS_RELOAD_FAILURES,
    &SYNC_DURATION,
    &CHECKPOINT_DURATION,
    &WAL_BYTES,
    &STORE_BYTES,
    &INDEX_RUNS,
    &INDEX_BYTES,
    &RESIDENT_BYTES,
    &CPU_SECONDS,
    &OPEN_FDS,
    &MAX_FDS,
    &START_TIME,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What a server of Prometheus may have to keep for one process of ours.
    const MAX_SERIES: usize = 1_000;

    impl Metric {
        /// As a query names it.
        fn shown(&self) -> String {
            match self.kind {
                Kind::Counter => format!("{}_total", self.name),
                Kind::Info => format!("{}_info", self.name),
                Kind::Gauge | Kind::Histogram(_) => self.name.to_owned(),
            }
        }

        fn series(&self) -> usize {
            let each = match self.kind {
                // A bucket above all bounds, the sum and the number.
                Kind::Histogram(ticks) => ticks.bounds.len() + 3,
                _ => 1,
            };
            each * self.labels.iter().map(|(_, values)| values.len()).product::<usize>()
        }
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let series: usize = ALL.iter().map(|metric| metric.series()).sum();
        assert!(series <= MAX_SERIES, "{series}");
    }

    /// The names in the first column of its tables.
    #[test]
    fn the_document_has_every_metric_with_its_labels_and_no_other() {
        let text =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md")).unwrap();
        let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let documented: Vec<_> = cells.map(|(name, _)| name.to_owned()).collect();
        let with_labels = |metric: &&Metric| {
            let labels: Vec<_> = metric.labels.iter().map(|(label, _)| *label).collect();
            if labels.is_empty() {
                metric.shown()
            } else {
                format!("{}{{{}}}", metric.shown(), labels.join(","))
            }
        };
        let known: Vec<_> = ALL.iter().map(with_labels).collect();
        let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(set(&documented), set(&known));
        assert_eq!(documented.len(), known.len(), "one is there twice");
    }

    #[test]
    fn the_document_explains_every_reason() {
        let text =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md")).unwrap();
        for reason in SHED_REASONS.iter().chain(PARTS) {
            assert!(text.contains(&format!("`{reason}`")), "{reason}");
        }
    }
}
