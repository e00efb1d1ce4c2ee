//! The report as a table.

use std::fmt;

use indicatif::HumanCount;

use super::{Report, SentReport, Verdict, VerifyReport};

/// The width of the column of names, and of the numbers behind them.
const NAME: usize = 17;
const NUMBER: usize = 13;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (plan, sent) = (&self.plan, &self.sent);
        let n = |count: u64| HumanCount(count).to_string();
        let mut row = |name: &str, number: String, note: String| {
            let line = format!("{name:<NAME$}{number:>NUMBER$}  {note}");
            writeln!(f, "{}", line.trim_end())
        };

        row("seed", self.seed.to_string(), format!("(--seed {} sends the same events again)", self.seed))?;
        let planned = format!("({} unique + {} repeats{})", n(plan.unique.into()), n(plan.repeats.into()), {
            let bursts = format!(" + {} more in bursts", n(sent.burst_deliveries));
            if sent.burst_deliveries > 0 { bursts } else { String::new() }
        });
        row("sent", n(sent.deliveries), planned)?;
        let how = format!("(batches of {}, {} connections)", plan.batch, plan.concurrency);
        row("requests", n(sent.requests), how)?;
        row("stored", n(sent.stored), stored_note(self))?;
        row("duplicates", n(sent.duplicates), String::new())?;
        row("conflicts", n(sent.conflicts), conflicts_note(self))?;
        row("rejected", n(sent.rejected), String::new())?;
        row("failed", n(sent.failed), if sent.failed > 0 { "(never acknowledged)" } else { "" }.to_owned())?;
        if sent.unanswered > 0 {
            row("unanswered", n(sent.unanswered), "(interrupted)".to_owned())?;
        }
        let causes: Vec<_> =
            self.retries.by_cause.iter().map(|(cause, k)| format!("{k} × {cause}")).collect();
        let causes = if causes.is_empty() { String::new() } else { format!("({})", causes.join(", ")) };
        row("retries", n(self.retries.total), causes)?;
        row("elapsed", format!("{:.3} s", self.elapsed_seconds), String::new())?;
        row("throughput", format!("{:.0}", self.events_per_second), "events/s".to_owned())?;

        let l = &self.latency_ms;
        writeln!(
            f,
            "{:<NAME$}p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms",
            "latency", l.p50, l.p90, l.p99, l.p99_9, l.max
        )?;
        match &self.server {
            Some(server) => writeln!(
                f,
                "{:<NAME$}received {}, unique {}, duplicates {} (conflicts among them {})",
                "server",
                n(server.received),
                n(server.unique_processed),
                n(server.duplicate_dropped),
                n(server.conflicts)
            )?,
            None => writeln!(f, "{:<NAME$}no counters to compare", "server")?,
        }
        if let Some(verified) = &self.verified {
            write_verified(f, verified)?;
        }
        write_troubles(f, sent)?;
        match self.verdict {
            Verdict::Interrupted => writeln!(f, "\nINTERRUPTED: this is the report so far"),
            Verdict::Broken => writeln!(f, "\nFAILED: {}", reasons(self).join("; ")),
            Verdict::Done => Ok(()),
        }
    }
}

/// Receipts may name fewer events as stored than there are identities, and nothing is wrong.
fn stored_note(report: &Report) -> String {
    let missing = u64::from(report.plan.unique).saturating_sub(report.sent.stored);
    if missing == 0 || report.sent.failed + report.sent.rejected + report.sent.unanswered > 0 {
        return String::new();
    }
    format!(
        "(the other {} were stored by a try whose reply was lost, or by an earlier run of this seed)",
        HumanCount(missing)
    )
}

fn conflicts_note(report: &Report) -> String {
    match report.plan.altered {
        0 => String::new(),
        altered => format!("({} repeats carry another payload)", HumanCount(altered.into())),
    }
}

fn write_verified(f: &mut fmt::Formatter<'_>, verified: &VerifyReport) -> fmt::Result {
    let VerifyReport { lost, doubled, out_of_order, mismatched, .. } = verified;
    let name = if verified.ok { "verified" } else { "NOT verified" };
    match &verified.unfinished {
        Some(reason) => writeln!(f, "{name:<NAME$}reading back stopped early: {reason}")?,
        None => {
            writeln!(
                f,
                "{name:<NAME$}lost {lost}, doubled {doubled}, out of order {out_of_order}, mismatched {mismatched}"
            )?;
            let (own, read) = (HumanCount(verified.acknowledged), HumanCount(verified.events_read));
            let seconds = verified.elapsed_seconds;
            writeln!(f, "{:<NAME$}{own} acknowledged identities, {read} events read in {seconds:.3} s", "")?;
        }
    }
    verified.examples.iter().try_for_each(|example| writeln!(f, "{:<NAME$}- {example}", ""))
}

fn write_troubles(f: &mut fmt::Formatter<'_>, sent: &SentReport) -> fmt::Result {
    for (reason, deliveries) in &sent.failures {
        writeln!(f, "{:<NAME$}{} × {reason}", "failed", HumanCount(*deliveries))?;
    }
    for example in &sent.contradiction_examples {
        writeln!(f, "{:<NAME$}{example}", "contradiction")?;
    }
    Ok(())
}

fn reasons(report: &Report) -> Vec<String> {
    let sent = &report.sent;
    let mut reasons = Vec::new();
    let unacknowledged = sent.failed + sent.rejected + sent.unanswered;
    if unacknowledged > 0 {
        let count = HumanCount(unacknowledged);
        reasons.push(format!("{count} deliveries were never acknowledged, so their events may be missing"));
    }
    if sent.contradictions > 0 {
        reasons.push(format!("{} receipts contradict each other", HumanCount(sent.contradictions)));
    }
    if let Some(verified) = &report.verified
        && !verified.ok
    {
        let told = "what was read back is not what was acknowledged";
        let untold = "it could not be read back to the end";
        reasons.push(if verified.unfinished.is_some() { untold } else { told }.to_owned());
    }
    reasons
}
