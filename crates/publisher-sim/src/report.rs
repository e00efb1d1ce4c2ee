//! What a run came to: for people a table, for programs one JSON object.

mod table;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::Stats;
use crate::config::Config;
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

/// What reading everything back found.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Whether all was read and nothing is wrong.
    pub ok: bool,
    /// Identities that were acknowledged, and so must be there.
    pub acknowledged: u64,
    /// Events read.
    pub events_read: u64,
    /// Events of other runs among them.
    pub foreign: u64,
    /// Acknowledged, but not there.
    pub lost: u64,
    /// There more than once.
    pub doubled: u64,
    /// Not in the place after the one before.
    pub out_of_order: u64,
    /// Not as sent, or not where the receipt says.
    pub mismatched: u64,
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
        let verified = facts.verification.map(VerifyReport::new);
        let acknowledged = sent.stored + sent.duplicates + sent.conflicts;
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
            sent,
            retries: RetryReport {
                total: tally.retries.values().sum(),
                by_cause: tally.retries.iter().map(|(cause, n)| (cause.to_string(), *n)).collect(),
            },
            elapsed_seconds,
            events_per_second: acknowledged as f64 / elapsed_seconds.max(f64::EPSILON),
            latency_ms: LatencyReport::new(&tally.latency_us),
            server: facts.stats.and_then(|(before, after)| ServerReport::new(&before, &after)),
            verified,
        }
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
    fn new(verification: &Verification) -> Self {
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
            acknowledged: counts.acknowledged,
            events_read: counts.events_read,
            foreign: counts.foreign,
            lost: counts.lost.count(),
            doubled: counts.doubled.count(),
            out_of_order: counts.out_of_order.count(),
            mismatched: counts.mismatched.count(),
            examples: examples.collect(),
            unfinished: verification.unfinished.clone(),
            elapsed_seconds: verification.elapsed.as_secs_f64(),
        }
    }
}
