//! What the publishers of all rounds were told, and what has to be true then.

use std::process::Output;

use serde::Deserialize;

use crate::reader::Read;
use crate::round::Round;
use crate::site::Stats;

/// What `publisher-sim` reports.
#[derive(Debug, Deserialize)]
struct Report {
    plan: Plan,
    sent: Sent,
    retries: Retries,
    verified: Verified,
}

#[derive(Debug, Deserialize)]
struct Plan {
    unique: u64,
    batch: u64,
}

#[derive(Debug, Deserialize)]
struct Sent {
    requests: u64,
    stored: u64,
    duplicates: u64,
    conflicts: u64,
}

#[derive(Debug, Deserialize)]
struct Retries {
    total: u64,
}

#[derive(Debug, Deserialize)]
struct Verified {
    ok: bool,
    acknowledged: u64,
    reconnections: u64,
}

/// The sums of all rounds.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) unique: u64,
    /// Deliveries with a receipt.
    pub(crate) acknowledged: u64,
    pub(crate) conflicts: u64,
    /// No more deliveries than these can have been received.
    pub(crate) most_received: u64,
    pub(crate) retried: u64,
    pub(crate) reconnections: u64,
    /// What is broken, a line each.
    pub(crate) breaches: Vec<String>,
}

impl Ledger {
    /// The reports of publishers that sent the same events at the same time.
    pub(crate) fn note(&mut self, round: &Round, outputs: &[Output]) {
        let mut unique = 0;
        let mut stored = 0;
        for Output { status, stdout, stderr } in outputs {
            let Ok(report) = serde_json::from_slice::<Report>(stdout) else {
                let told = stderr.escape_ascii();
                self.breaches.push(format!("{round:?}: a publisher ends with {status}: {told}"));
                continue;
            };
            let Report { plan, sent, retries, verified } = report;
            if !status.success() || !verified.ok || verified.acknowledged != plan.unique {
                let told = String::from_utf8_lossy(stdout);
                self.breaches.push(format!("{round:?}: a publisher says, {status}: {told}"));
            }
            (unique, stored) = (plan.unique, stored + sent.stored);
            self.acknowledged += sent.stored + sent.duplicates + sent.conflicts;
            self.conflicts += sent.conflicts;
            self.most_received += sent.requests * plan.batch;
            self.retried += retries.total;
            self.reconnections += verified.reconnections;
        }
        self.unique += unique;
        // Fewer, if answers were lost: what they spoke of is told as a duplicate to whoever asks again.
        self.at_most(&format!("{round:?}: told as stored by all publishers"), stored, unique);
    }

    /// Holds what the nodes say when all is over against the receipts.
    pub(crate) fn check_stats(&mut self, nodes: [Stats; 3], topics: u64) {
        for stats in nodes {
            self.equal("events in the statistics of a node", stats.unique_processed, self.unique);
            self.equal("topics in the statistics of a node", stats.topics_total, topics);
            let sum = stats.unique_processed + stats.duplicate_dropped + stats.conflicts;
            self.equal("received in the statistics of a node", stats.received, sum);
            self.at_most("deliveries acknowledged, of those received", self.acknowledged, stats.received);
            self.at_most("deliveries received, of those sent", stats.received, self.most_received);
            self.at_most("conflicts acknowledged, of those counted", self.conflicts, stats.conflicts);
            let totals = |stats: Stats| (stats.received, stats.duplicate_dropped, stats.conflicts);
            if totals(stats) != totals(nodes[0]) {
                self.breaches.push(format!("two nodes give different totals: {stats:?} and {:?}", nodes[0]));
            }
        }
    }

    /// All was sent once more, and nothing went wrong meanwhile: nothing is stored, and each delivery is counted
    /// by one node.
    pub(crate) fn check_resent(&mut self, before: [Stats; 3], after: [Stats; 3], output: &Output) {
        let report = serde_json::from_slice::<Report>(&output.stdout).ok();
        let Some(Report { sent, .. }) =
            report.filter(|report| report.verified.ok && report.retries.total == 0)
        else {
            self.breaches.push(format!("the last publisher ends with {output:?}"));
            return;
        };
        let sent = sent.stored + sent.duplicates + sent.conflicts;
        let sum = |stats: [Stats; 3], of: fn(&Stats) -> u64| stats.iter().map(of).sum::<u64>();
        let rise = |of| sum(after, of) - sum(before, of);
        self.equal("stored of what was sent again", rise(|stats| stats.node.stored), 0);
        self.equal("sent again, by the shares of the nodes", rise(|stats| stats.node.received), sent);
        self.equal("sent again, by the totals", after[0].received - before[0].received, sent);
        self.equal("events after all was sent again", after[0].unique_processed, before[0].unique_processed);
        for (before, after) in before.iter().zip(&after) {
            let took_part = after.node.received > before.node.received;
            self.equal("nodes that took no part", u64::from(!took_part), 0);
        }
    }

    /// A reader saw every event once, in its place.
    pub(crate) fn check_reader(&mut self, read: &Read) {
        self.equal("events that a reader saw", read.events, self.unique);
        for (what, findings) in [("out of order", &read.out_of_order), ("twice", &read.doubled)] {
            if findings.count() > 0 {
                let examples = findings.examples();
                self.breaches.push(format!("a reader saw {} {what}: {examples:#?}", findings.count()));
            }
        }
    }

    /// What `aggregator-server check` says.
    pub(crate) fn check_store(&mut self, output: &Output) {
        let told = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || !told.contains(&format!("is sound: {} events", self.unique)) {
            self.breaches.push(format!("the store contradicts itself: {output:?}"));
        }
    }

    fn equal(&mut self, what: &str, actual: u64, expected: u64) {
        if actual != expected {
            self.breaches.push(format!("{what}: {actual} instead of {expected}"));
        }
    }

    fn at_most(&mut self, what: &str, actual: u64, most: u64) {
        if actual > most {
            self.breaches.push(format!("{what}: {actual}, but there can be {most} at most"));
        }
    }
}
