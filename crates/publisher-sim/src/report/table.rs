//! The report as a table.

use std::fmt;

use indicatif::HumanCount;

use super::{Report, SentReport, SequencesReport, Verdict, VerifyReport};
use crate::verify::VerifyBy;

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
        let bursts = match sent.burst_deliveries {
            0 => String::new(),
            copies => format!(" + {} more in bursts", n(copies)),
        };
        let planned =
            format!("({} unique + {} repeats{bursts})", n(plan.unique.into()), n(plan.repeats.into()));
        row("delivered", n(sent.deliveries), planned)?;
        let SentReport { stored, duplicates, conflicts, .. } = *sent;
        let receipts =
            format!("({} stored + {} duplicates + {} conflicts)", n(stored), n(duplicates), n(conflicts));
        row("acknowledged", n(sent.acknowledged()), receipts)?;
        row("stored", n(stored), stored_note(self))?;
        row("duplicates", n(duplicates), String::new())?;
        row("conflicts", n(conflicts), conflicts_note(self))?;
        row("rejected", n(sent.rejected), String::new())?;
        row("failed", n(sent.failed), if sent.failed > 0 { "(never acknowledged)" } else { "" }.to_owned())?;
        if sent.unanswered > 0 {
            row("unanswered", n(sent.unanswered), "(interrupted)".to_owned())?;
        }
        let how = format!("(batches of {}, {} connections)", plan.batch, plan.concurrency);
        row("requests", n(sent.requests), how)?;
        let causes: Vec<_> =
            self.retries.by_cause.iter().map(|(cause, k)| format!("{k} × {cause}")).collect();
        let causes = if causes.is_empty() { String::new() } else { format!("({})", causes.join(", ")) };
        row("retries", n(self.retries.total), causes)?;
        if !self.faults.is_empty() {
            row("faults", "on purpose".to_owned(), self.faults.clone())?;
        }
        if let Some(sequences) = &self.sequences {
            row("sequences", n(sequences.numbered), sequences_note(sequences))?;
        }
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
                "{:<NAME$}received {}, unique {}, duplicates {}, conflicts {}",
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
        "(the other {} were stored by a try whose reply was lost, or by another run of this seed)",
        HumanCount(missing)
    )
}

fn sequences_note(sequences: &SequencesReport) -> String {
    let SequencesReport { never_sent, reordered, order_is_exact, .. } = *sequences;
    let left = if order_is_exact { "" } else { " as they left: connections overtake each other" };
    format!("({} more never sent, {} out of order{left})", HumanCount(never_sent), HumanCount(reordered))
}

fn conflicts_note(report: &Report) -> String {
    match report.plan.altered {
        0 => String::new(),
        altered => {
            format!(
                "({} repeats carry another payload; the first to arrive is kept)",
                HumanCount(altered.into())
            )
        }
    }
}

fn write_verified(f: &mut fmt::Formatter<'_>, verified: &VerifyReport) -> fmt::Result {
    let name = if verified.ok { "verified" } else { "NOT verified" };
    let n = HumanCount;
    match &verified.unfinished {
        Some(reason) if verified.by == VerifyBy::Stream => {
            writeln!(f, "{name:<NAME$}the stream stopped early: {reason}")?;
        }
        Some(reason) => writeln!(f, "{name:<NAME$}reading back stopped early: {reason}")?,
        None => {
            let VerifyReport { acknowledged, stored_events, events_read, foreign, .. } = *verified;
            let (read, seconds) = (n(events_read), verified.elapsed_seconds);
            let others = match foreign {
                0 => String::new(),
                foreign => format!(", {} of them of other runs", n(foreign)),
            };
            let how = match (verified.by, verified.reconnections) {
                (VerifyBy::Pages, _) => format!("read back in {seconds:.3} s"),
                (VerifyBy::Stream, 0) => format!("came by stream, {seconds:.3} s after the last receipt"),
                (VerifyBy::Stream, times) => format!(
                    "came by stream, {seconds:.3} s after the last receipt and {} reconnections",
                    n(times)
                ),
            };
            writeln!(f, "{name:<NAME$}{} events acknowledged; {read} {how}{others}", n(acknowledged))?;
            let VerifyReport { delivered, acknowledged_deliveries, lost, doubled, .. } = *verified;
            let VerifyReport { out_of_order, mismatched, .. } = *verified;
            writeln!(
                f,
                "{:<NAME$}delivered {}, acknowledged {}, stored {}, \
                 lost {}, doubled {}, out of order {}, mismatched {}",
                "ground truth",
                n(delivered),
                n(acknowledged_deliveries),
                n(stored_events),
                n(lost),
                n(doubled),
                n(out_of_order),
                n(mismatched)
            )?;
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

pub(super) fn reasons(report: &Report) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::super::tests::{report, sequences};
    use super::*;

    #[test]
    fn the_table_ends_with_the_ground_truth_and_shows_how_its_numbers_add_up() {
        let table = report().to_string();
        assert_eq!(table, EXPECTED);
        let sums = [[4_000, 1_000, 300], [3_800, 1_445, 55]].map(|parts| parts.iter().sum::<u32>());
        assert_eq!(sums, [5_300, 5_300], "deliveries, receipts");
    }

    const EXPECTED: &str = "\
seed                         7  (--seed 7 sends the same events again)
delivered                5,300  (4,000 unique + 1,000 repeats + 300 more in bursts)
acknowledged             5,300  (3,800 stored + 1,445 duplicates + 55 conflicts)
stored                   3,800  (the other 200 were stored by a try whose reply was lost, or by another run of this seed)
duplicates               1,445
conflicts                   55  (50 repeats carry another payload; the first to arrive is kept)
rejected                     0
failed                       0
requests                   111  (batches of 50, 8 connections)
retries                      5  (5 × reply dropped)
faults              on purpose  --drop-replies 0.05 --bursts 0.03
elapsed                0.500 s
throughput               10600  events/s
latency          p50 1.00  p90 2.00  p99 3.00  p99.9 4.00  max 5.00 ms
server           received 5,550, unique 4,000, duplicates 1,490, conflicts 60
verified         4,000 events acknowledged; 4,010 read back in 0.250 s, 10 of them of other runs
ground truth     delivered 5,300, acknowledged 5,300, stored 4,000, lost 0, doubled 0, out of order 0, mismatched 0
";

    #[test]
    fn a_ground_truth_that_is_red_says_what_is_wrong_and_that_it_failed() {
        let mut report = report();
        report.verdict = Verdict::Broken;
        let verified = report.verified.as_mut().unwrap();
        (verified.ok, verified.stored_events, verified.lost) = (false, 3_999, 1);
        verified.examples.push("lost: sim.topic-0 a".to_owned());
        let table = report.to_string();
        for expected in [
            "NOT verified     4,000 events acknowledged;",
            "stored 3,999, lost 1, doubled 0,",
            "- lost: sim.topic-0 a",
            "\nFAILED: what was read back is not what was acknowledged\n",
        ] {
            assert!(table.contains(expected), "{expected}: {table}");
        }
    }

    #[test]
    fn numbers_are_told_as_they_left_where_connections_overtake_each_other() {
        let mut report = report();
        let mut sequences = sequences();
        for (exact, said) in [
            (true, "sequences                4,000  (44 more never sent, 12 out of order)\n"),
            (false, "12 out of order as they left: connections overtake each other)\n"),
        ] {
            sequences.order_is_exact = exact;
            report.sequences = Some(sequences.clone());
            assert!(report.to_string().contains(said), "{report}");
        }
    }

    #[test]
    fn a_stream_says_when_it_was_through_and_how_often_it_broke() {
        let mut report = report();
        let verified = report.verified.as_mut().unwrap();
        (verified.by, verified.reconnections) = (VerifyBy::Stream, 3);
        let said = "4,010 came by stream, 0.250 s after the last receipt and 3 reconnections, 10 of them of other runs";
        assert!(report.to_string().contains(said), "{report}");
        let verified = report.verified.as_mut().unwrap();
        (verified.ok, verified.unfinished) = (false, Some("no more".to_owned()));
        assert!(
            report.to_string().contains("NOT verified     the stream stopped early: no more"),
            "{report}"
        );
    }

    #[test]
    fn without_the_end_of_the_store_there_is_no_ground_truth() {
        let mut report = report();
        let verified = report.verified.as_mut().unwrap();
        (verified.ok, verified.unfinished) = (false, Some("the server is gone".to_owned()));
        let table = report.to_string();
        assert!(table.contains("NOT verified     reading back stopped early: the server is gone"), "{table}");
        assert!(!table.contains("lost 0"), "{table}");
    }
}
