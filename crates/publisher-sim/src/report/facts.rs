//! Makes the report of a run from what the run left behind.

use hdrhistogram::Histogram;
use time::OffsetDateTime;

use super::{
    Course, LatencyReport, PlanReport, Report, RetryReport, SentReport, SequencesReport, ServerReport,
    Verdict, VerifyReport,
};
use crate::client::Stats;
use crate::config::Config;
use crate::faults::Faults;
use crate::plan::Plan;
use crate::sender::Sent;
use crate::server_info::ServerInfo;
use crate::verify::Verification;
use crate::workload::Workload;

/// All that a report is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The options.
    pub config: &'a Config,
    /// The seed, given or drawn.
    pub seed: u64,
    /// What was to be sent.
    pub plan: Plan,
    /// The events.
    pub workload: &'a Workload,
    /// What went wrong on purpose.
    pub faults: Faults,
    /// What became of it.
    pub sent: &'a Sent,
    /// The server's counters before and after.
    pub stats: Option<(Stats, Stats)>,
    /// What was read back.
    pub verification: Option<&'a Verification>,
    /// When the run began.
    pub began: OffsetDateTime,
    /// What the server says of itself, if it was asked.
    pub about_server: Option<ServerInfo>,
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
            sequences: SequencesReport::new(&tally.sequences, facts.workload, config.concurrency),
            retries: RetryReport {
                total: tally.retries.values().sum(),
                by_cause: tally.retries.iter().map(|(cause, n)| (cause.to_string(), *n)).collect(),
            },
            elapsed_seconds,
            latency_ms: LatencyReport::new(&tally.latency_us),
            server: facts.stats.and_then(|(before, after)| ServerReport::new(&before, &after)),
            verified,
            course: Course::new(facts),
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
    let broken = verified.is_some_and(|v| v.faults() > 0);
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
    /// How many things are wrong.
    pub(super) fn faults(&self) -> u64 {
        self.lost + self.doubled + self.out_of_order + self.mismatched
    }

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
            by: verification.by,
            reconnections: verification.reconnections,
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
