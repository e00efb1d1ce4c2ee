//! The result of a run: a table for people, one JSON object for programs.

mod course;
mod facts;
mod page;
mod plots;
mod sequences;
mod table;

use std::collections::BTreeMap;

use serde::Serialize;

pub use self::course::Course;
pub use self::facts::Facts;
pub use self::sequences::{SequencesReport, SourceReport};
use crate::verify::VerifyBy;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All was acknowledged, and verified where asked.
    Done,
    /// A promise was broken, or deliveries were not acknowledged.
    Broken,
    /// Stopped early.
    Interrupted,
}

impl Verdict {
    /// The exit code of the program.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Broken => 1,
            // 128 + SIGINT, as in shells.
            Self::Interrupted => 130,
        }
    }
}

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How it ended.
    pub verdict: Verdict,
    /// The seed: with the same options it makes the same run.
    pub seed: u64,
    /// The server.
    pub url: String,
    /// What was to be sent.
    pub plan: PlanReport,
    /// What went wrong on purpose, as the options that ask for it; empty if nothing did.
    pub faults: String,
    /// What became of it, by the receipts.
    pub sent: SentReport,
    /// What was sent of the publisher's own numbers, if events have any.
    pub sequences: Option<SequencesReport>,
    /// Requests that were sent again.
    pub retries: RetryReport,
    /// From the first request to the last reply.
    pub elapsed_seconds: f64,
    /// Acknowledged deliveries per second.
    pub events_per_second: f64,
    /// From sending a request to the end of its reply, for acknowledged requests.
    pub latency_ms: LatencyReport,
    /// By how much the server's own counters rose; other publishers count too.
    pub server: Option<ServerReport>,
    /// What reading everything back found, where asked.
    pub verified: Option<VerifyReport>,
    /// What only the page shows.
    #[serde(skip)]
    pub course: Course,
}

/// What was to be sent.
#[derive(Debug, Clone, Serialize)]
pub struct PlanReport {
    /// Deliveries, repeats included.
    pub deliveries: u32,
    /// Identities.
    pub unique: u32,
    /// Deliveries that repeat an earlier one.
    pub repeats: u32,
    /// Repeats with another payload.
    pub altered: u32,
    /// Deliveries per request.
    pub batch: u32,
    /// Connections.
    pub concurrency: u32,
}

/// What became of the deliveries, by the receipts. Every delivery counts once, however often it was
/// retried: under the outcome of the reply that got through.
#[derive(Debug, Clone, Serialize)]
pub struct SentReport {
    /// Deliveries made: those planned, and the extra copies of bursts.
    pub deliveries: u64,
    /// The extra copies among them.
    pub burst_deliveries: u64,
    /// HTTP requests, retries included.
    pub requests: u64,
    /// Acknowledged as stored.
    pub stored: u64,
    /// Acknowledged as duplicate.
    pub duplicates: u64,
    /// Acknowledged as conflict.
    pub conflicts: u64,
    /// Refused one by one.
    pub rejected: u64,
    /// Never acknowledged: refused with their batch, or given up.
    pub failed: u64,
    /// Cut off by an interrupt, or not sent because of it.
    pub unanswered: u64,
    /// Receipts that contradict each other.
    pub contradictions: u64,
    /// Some of them.
    pub contradiction_examples: Vec<String>,
    /// Why deliveries failed.
    pub failures: BTreeMap<String, u64>,
}

/// Requests that were sent again.
#[derive(Debug, Clone, Serialize)]
pub struct RetryReport {
    /// All of them.
    pub total: u64,
    /// By cause.
    pub by_cause: BTreeMap<String, u64>,
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it all")]
pub struct LatencyReport {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

/// By how much the server's own counters rose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerReport {
    /// Deliveries received.
    pub received: u64,
    /// Events stored.
    pub unique_processed: u64,
    /// Repeats with the same payload.
    pub duplicate_dropped: u64,
    /// Repeats with another payload.
    pub conflicts: u64,
}

/// The ground truth: what was delivered and acknowledged, against what reading everything back found.
///
/// If every delivery was acknowledged, `delivered` = `acknowledged_deliveries` = the receipts that say
/// stored, duplicate or conflict, and the unique events of the plan = `acknowledged` = `stored_events`
/// + `lost`.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Whether all was read and nothing is wrong.
    pub ok: bool,
    /// How it was read.
    pub by: VerifyBy,
    /// How often the stream was connected again after it broke.
    pub reconnections: u64,
    /// Deliveries made, repeats and the copies of bursts included.
    pub delivered: u64,
    /// Deliveries with a receipt: stored, duplicate or conflict.
    pub acknowledged_deliveries: u64,
    /// Identities among them, so events that must be there.
    pub acknowledged: u64,
    /// Events of this run that are there, doubled ones counted once.
    pub stored_events: u64,
    /// Acknowledged, but not there.
    pub lost: u64,
    /// There more than once.
    pub doubled: u64,
    /// Not in the place after the one before.
    pub out_of_order: u64,
    /// Not as sent, or not where the receipt says.
    pub mismatched: u64,
    /// Events read.
    pub events_read: u64,
    /// Events of other runs among them.
    pub foreign: u64,
    /// Some of what is wrong.
    pub examples: Vec<String>,
    /// Why not all could be read; then nothing is said about lost events.
    pub unfinished: Option<String>,
    /// How long reading took; of a stream, how long after the last receipt.
    pub elapsed_seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that went well: all kinds of faults, and some replies lost.
    pub(super) fn report() -> Report {
        Report {
            verdict: Verdict::Done,
            seed: 7,
            url: "http://127.0.0.1:8080".to_owned(),
            plan: PlanReport {
                deliveries: 5_000,
                unique: 4_000,
                repeats: 1_000,
                altered: 50,
                batch: 50,
                concurrency: 8,
            },
            faults: "--drop-replies 0.05 --bursts 0.03".to_owned(),
            sent: SentReport {
                deliveries: 5_300,
                burst_deliveries: 300,
                requests: 111,
                stored: 3_800,
                duplicates: 1_445,
                conflicts: 55,
                rejected: 0,
                failed: 0,
                unanswered: 0,
                contradictions: 0,
                contradiction_examples: Vec::new(),
                failures: BTreeMap::new(),
            },
            sequences: None,
            retries: RetryReport { total: 5, by_cause: BTreeMap::from([("reply dropped".to_owned(), 5)]) },
            elapsed_seconds: 0.5,
            events_per_second: 10_600.0,
            latency_ms: LatencyReport { p50: 1.0, p90: 2.0, p99: 3.0, p99_9: 4.0, max: 5.0 },
            server: Some(ServerReport {
                received: 5_550,
                unique_processed: 4_000,
                duplicate_dropped: 1_490,
                conflicts: 60,
            }),
            verified: Some(VerifyReport {
                ok: true,
                by: VerifyBy::Pages,
                reconnections: 0,
                delivered: 5_300,
                acknowledged_deliveries: 5_300,
                acknowledged: 4_000,
                stored_events: 4_000,
                lost: 0,
                doubled: 0,
                out_of_order: 0,
                mismatched: 0,
                events_read: 4_010,
                foreign: 10,
                examples: Vec::new(),
                unfinished: None,
                elapsed_seconds: 0.25,
            }),
            course: course::tests::course(),
        }
    }

    pub(super) fn sequences() -> SequencesReport {
        SequencesReport {
            order_is_exact: true,
            numbered: 4_000,
            never_sent: 44,
            reordered: 12,
            by_source: Vec::new(),
        }
    }

    #[test]
    fn scripts_without_a_json_parser_find_each_number_under_a_name_of_its_own() {
        let mut report = report();
        report.sequences = Some(sequences());
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(json.lines().count(), 1);
        for name in [
            "stored",
            "duplicates",
            "unique",
            "repeats",
            "total",
            "delivered",
            "acknowledged_deliveries",
            "acknowledged",
            "stored_events",
            "lost",
            "doubled",
            "out_of_order",
            "mismatched",
            "order_is_exact",
        ] {
            assert_eq!(json.matches(&format!("\"{name}\":")).count(), 1, "{name} in {json}");
        }
    }
}
