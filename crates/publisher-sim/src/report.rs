//! What a run came to: for people a table, for programs one JSON object.

mod table;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::Stats;
use crate::config::Config;
use crate::faults::Faults;
use crate::plan::Plan;
use crate::sender::Sent;
use crate::verify::Verification;

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
            // 128 + SIGINT, as shells have it.
            Self::Interrupted => 130,
        }
    }
}

/// What a run came to.
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
    /// Repeats recognised, conflicts among them.
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
    /// How long reading took.
    pub elapsed_seconds: f64,
}

/// All that a report is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The options.
    pub config: &'a Config,
    /// The seed, given or drawn.
    pub seed: u64,
    /// What was to be sent.
    pub plan: Plan,
    /// What went wrong on purpose.
    pub faults: Faults,
    /// What became of it.
    pub sent: &'a Sent,
    /// The server's counters before and after.
    pub stats: Option<(Stats, Stats)>,
    /// What was read back.
    pub verification: Option<&'a Verification>,
    /// Whether the run was stopped early.
    pub interrupted: bool,
}

impl Report {
    /// Puts the report together.
    #[must_use]
    pub fn new(facts: &Facts<'_>) -> Self {
        let Facts { config, plan, sent: Sent { tally, elapsed }, .. } = facts;
        let deliveries = u64::from(plan.deliveries) + tally.burst_deliveries;
        let sent = SentReport {
            deliveries,
            burst_deliveries: tally.burst_deliveries,
            requests: tally.requests,
            stored: tally.stored,
            duplicates: tally.duplicates,
            conflicts: tally.conflicts,
            rejected: tally.rejected,
            failed: tally.failed,
            unanswered: deliveries - tally.answered(),
            contradictions: tally.contradictions.count(),
            contradiction_examples: tally.contradictions.examples().to_vec(),
            failures: tally.refusals.clone(),
        };
        let verified = facts.verification.map(|verification| VerifyReport::new(verification, &sent));
        let elapsed_seconds = elapsed.as_secs_f64();
        Self {
            verdict: verdict(&sent, verified.as_ref(), facts.interrupted),
            seed: facts.seed,
            url: config.url.to_string(),
            plan: PlanReport {
                deliveries: plan.deliveries,
                unique: plan.unique(),
                repeats: plan.repeats,
                altered: plan.altered,
                batch: config.batch,
                concurrency: config.concurrency,
            },
            faults: facts.faults.to_string(),
            events_per_second: sent.acknowledged() as f64 / elapsed_seconds.max(f64::EPSILON),
            sent,
            retries: RetryReport {
                total: tally.retries.values().sum(),
                by_cause: tally.retries.iter().map(|(cause, n)| (cause.to_string(), *n)).collect(),
            },
            elapsed_seconds,
            latency_ms: LatencyReport::new(&tally.latency_us),
            server: facts.stats.and_then(|(before, after)| ServerReport::new(&before, &after)),
            verified,
        }
    }
}

impl SentReport {
    /// Deliveries with a receipt that says that their event is stored.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.stored + self.duplicates + self.conflicts
    }
}

/// A broken promise outweighs an interrupt, and an interrupt outweighs what it left undone.
fn verdict(sent: &SentReport, verified: Option<&VerifyReport>, interrupted: bool) -> Verdict {
    let broken = verified.is_some_and(|v| v.lost + v.doubled + v.out_of_order + v.mismatched > 0);
    if broken || sent.contradictions > 0 {
        return Verdict::Broken;
    }
    if interrupted {
        return Verdict::Interrupted;
    }
    let unread = verified.is_some_and(|v| !v.ok);
    if unread || sent.failed + sent.rejected + sent.unanswered > 0 { Verdict::Broken } else { Verdict::Done }
}

impl LatencyReport {
    fn new(latency_us: &Histogram<u64>) -> Self {
        let ms = |us: u64| us as f64 / 1e3;
        let at = |quantile| ms(latency_us.value_at_quantile(quantile));
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: ms(latency_us.max()) }
    }
}

impl ServerReport {
    /// The difference; `None` if a counter went back, which means another server answers now.
    fn new(before: &Stats, after: &Stats) -> Option<Self> {
        Some(Self {
            received: after.received.checked_sub(before.received)?,
            unique_processed: after.unique_processed.checked_sub(before.unique_processed)?,
            duplicate_dropped: after.duplicate_dropped.checked_sub(before.duplicate_dropped)?,
            conflicts: after.conflicts.checked_sub(before.conflicts)?,
        })
    }
}

impl VerifyReport {
    fn new(verification: &Verification, sent: &SentReport) -> Self {
        let counts = &verification.counts;
        let kinds = [
            ("lost", &counts.lost),
            ("doubled", &counts.doubled),
            ("out of order", &counts.out_of_order),
            ("mismatched", &counts.mismatched),
        ];
        let examples = kinds.iter().flat_map(|(kind, findings)| {
            findings.examples().iter().map(move |example| format!("{kind}: {example}"))
        });
        Self {
            ok: verification.is_clean(),
            delivered: sent.deliveries,
            acknowledged_deliveries: sent.acknowledged(),
            acknowledged: counts.acknowledged,
            stored_events: counts.found,
            lost: counts.lost.count(),
            doubled: counts.doubled.count(),
            out_of_order: counts.out_of_order.count(),
            mismatched: counts.mismatched.count(),
            events_read: counts.events_read,
            foreign: counts.foreign,
            examples: examples.collect(),
            unfinished: verification.unfinished.clone(),
            elapsed_seconds: verification.elapsed.as_secs_f64(),
        }
    }
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
            retries: RetryReport { total: 5, by_cause: BTreeMap::from([("reply dropped".to_owned(), 5)]) },
            elapsed_seconds: 0.5,
            events_per_second: 10_600.0,
            latency_ms: LatencyReport { p50: 1.0, p90: 2.0, p99: 3.0, p99_9: 4.0, max: 5.0 },
            server: Some(ServerReport {
                received: 5_550,
                unique_processed: 4_000,
                duplicate_dropped: 1_550,
                conflicts: 60,
            }),
            verified: Some(VerifyReport {
                ok: true,
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
        }
    }

    #[test]
    fn scripts_without_a_json_parser_find_each_number_under_a_name_of_its_own() {
        let json = serde_json::to_string(&report()).unwrap();
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
        ] {
            assert_eq!(json.matches(&format!("\"{name}\":")).count(), 1, "{name} in {json}");
        }
    }
}
