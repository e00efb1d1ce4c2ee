//! The report as a page: first the verdict, then what it rests on, then the course of the run.

mod faults;
mod verdict;

use std::collections::BTreeMap;

use report_page::number::{count, duration};
use report_page::{Column, Page};
use time::format_description::well_known::Rfc3339;

use self::faults::write_sequences;
use super::plots::charts;
use super::{Report, VerifyReport};
use crate::server_info::ServerInfo;
use crate::verify::VerifyBy;

impl Report {
    /// The report as one HTML page that needs nothing but itself.
    #[must_use]
    pub fn to_html(&self) -> String {
        let began = self.course.began.replace_nanosecond(0).unwrap_or(self.course.began);
        let began = began.format(&Rfc3339).unwrap_or_default().replace('T', " ").replace('Z', " UTC");
        let subtitle = format!("{}, seed {}, began {began}", self.url, self.seed);
        let mut page = Page::new("Delivery report", &subtitle);
        self.write_verdict(&mut page);
        page.figures(&self.figures());
        // What is wrong comes before the plots.
        let (wrong, fine) = self.verified.iter().partition::<Vec<_>, _>(|verified| !verified.ok);
        wrong.iter().for_each(|verified| write_verified(&mut page, verified));
        page.section("Rates and latencies");
        page.charts(&charts(self));
        self.write_outcomes(&mut page);
        fine.iter().for_each(|verified| write_verified(&mut page, verified));
        self.write_faults(&mut page);
        if let Some(sequences) = &self.sequences {
            write_sequences(&mut page, sequences);
        }
        self.write_configuration(&mut page);
        page.finish(concat!(
            "Written by publisher-sim ",
            env!("CARGO_PKG_VERSION"),
            ". The page loads and runs nothing."
        ))
    }

    fn write_outcomes(&self, page: &mut Page) {
        let sent = &self.sent;
        page.section("What became of the deliveries");
        let outcomes = [
            ("stored", sent.stored),
            ("duplicate", sent.duplicates),
            ("conflict", sent.conflicts),
            ("rejected", sent.rejected),
            ("given up", sent.failed),
            ("unanswered", sent.unanswered),
        ];
        page.counts("Deliveries by outcome", &outcomes.map(|(name, count)| (name.to_owned(), count)));
        let by_name = |counts: &BTreeMap<String, u64>| -> Vec<(String, u64)> {
            counts.iter().map(|(name, count)| (name.clone(), *count)).collect()
        };
        match self.retries.by_cause.is_empty() {
            true => page.paragraph("No request had to be sent again."),
            false => page.counts("Requests sent again, by cause", &by_name(&self.retries.by_cause)),
        }
        if !sent.failures.is_empty() {
            page.counts("Deliveries given up, by reason", &by_name(&sent.failures));
        }
        if !sent.contradiction_examples.is_empty() {
            let rows: Vec<_> =
                sent.contradiction_examples.iter().map(|example| vec![example.clone()]).collect();
            let caption =
                format!("Receipts that contradict each other: {}, such as", count(sent.contradictions));
            page.table(&caption, &[Column::text("event")], &rows);
        }
        if let Some(server) = &self.server {
            page.paragraph(&format!(
                "Meanwhile the server's own counters rose by {} received, {} unique, {} duplicates, {} conflicts; other \
                 publishers count there, too, and so do requests that were sent again.",
                count(server.received),
                count(server.unique_processed),
                count(server.duplicate_dropped),
                count(server.conflicts)
            ));
        }
    }

    fn write_configuration(&self, page: &mut Page) {
        page.section("The run");
        page.paragraph("This command makes the same run again. It has no keys and no names of files in it.");
        page.code(&self.course.command);
        let given = |is_default| if is_default { "default" } else { "given" };
        let rows: Vec<_> = self
            .course
            .settings
            .iter()
            .map(|setting| {
                let value = if setting.value.is_empty() { "yes".to_owned() } else { setting.value.clone() };
                let given =
                    if setting.option == "seed" { "given or drawn" } else { given(setting.is_default) };
                vec![format!("--{}", setting.option), value, given.to_owned()]
            })
            .collect();
        page.table("Options", &[Column::text("option"), Column::text("value"), Column::text("")], &rows);
        let mut versions = vec![vec!["publisher-sim".to_owned(), env!("CARGO_PKG_VERSION").to_owned()]];
        versions.push(match &self.course.about_server {
            Some(ServerInfo { version, store, durability }) => {
                vec![
                    "aggregator-server".to_owned(),
                    format!("{version} (store {store}, durability {durability})"),
                ]
            }
            None => vec!["server".to_owned(), "it does not say".to_owned()],
        });
        page.table("Versions", &[Column::text("program"), Column::text("version")], &versions);
    }
}

fn write_verified(page: &mut Page, verified: &VerifyReport) {
    page.section("What was found");
    let findings = [
        ("lost: acknowledged, but not there", verified.lost),
        ("doubled: there more than once", verified.doubled),
        ("out of order: not in the place after the one before", verified.out_of_order),
        ("changed: not as sent, or not where the receipt says", verified.mismatched),
    ];
    if verified.unfinished.is_none() {
        let findings = findings.map(|(name, found)| (name.to_owned(), found));
        page.counts("Events by what is wrong with them", &findings);
    }
    page.paragraph(&format!(
        "{} deliveries were made and {} acknowledged, of {} events. {} events were read, {} of them of other runs; {} of this \
         run are there. Reading {} {}.",
        count(verified.delivered),
        count(verified.acknowledged_deliveries),
        count(verified.acknowledged),
        count(verified.events_read),
        count(verified.foreign),
        count(verified.stored_events),
        match verified.by {
            VerifyBy::Pages => "took".to_owned(),
            VerifyBy::Stream => format!("broke {} times, and ended after the last receipt by", verified.reconnections),
        },
        duration(verified.elapsed_seconds)
    ));
    if !verified.examples.is_empty() {
        let rows: Vec<_> = verified.examples.iter().map(|example| vec![example.clone()]).collect();
        page.table("Some of what is wrong", &[Column::text("event")], &rows);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{report, sequences};
    use super::*;
    use crate::report::{SourceReport, Verdict};

    #[test]
    fn the_verdict_comes_first_and_is_the_one_of_the_exit_code() {
        let page = report().to_html();
        assert!(page.find("Exactly once: verified").unwrap() < page.find("Rates and latencies").unwrap());
        let lost = |report: &mut Report| {
            let verified = report.verified.as_mut().unwrap();
            (verified.ok, verified.lost) = (false, 3);
        };
        let unfinished = |report: &mut Report| {
            let verified = report.verified.as_mut().unwrap();
            (verified.ok, verified.unfinished) = (false, Some("the server is gone".to_owned()));
        };
        type Change = fn(&mut Report);
        let cases: [(Verdict, Change, &str, &str); 6] = [
            (Verdict::Broken, lost, "bad", "Exactly once: broken"),
            (Verdict::Broken, unfinished, "bad", "Not verified to the end"),
            (Verdict::Broken, |report| report.sent.failed = 9, "bad", "Not all deliveries were acknowledged"),
            (
                Verdict::Broken,
                |report| report.sent.contradictions = 1,
                "bad",
                "Receipts contradict each other",
            ),
            (
                Verdict::Interrupted,
                |report| report.verified = None,
                "open",
                "Interrupted: this is the report so far",
            ),
            (Verdict::Done, |report| report.verified = None, "open", "what is stored was not verified"),
        ];
        for (verdict, change, tone, said) in cases {
            let mut report = report();
            report.verdict = verdict;
            change(&mut report);
            let page = report.to_html();
            let first = page.split("</section>").next().unwrap();
            assert!(first.contains(said) && first.contains(&format!("verdict {tone}")), "{said}: {first}");
            assert!(!page.contains("Exactly once: verified"), "{said}");
            let found = page.find("What was found").unwrap_or(0);
            assert!(
                found < page.find("Rates and latencies").unwrap() || report.verified.unwrap().ok,
                "{said}"
            );
        }
    }

    #[test]
    fn a_run_without_any_acknowledgement_claims_nothing() {
        let mut report = report();
        report.verdict = Verdict::Broken;
        report.course.latency_us.reset();
        let verified = report.verified.as_mut().unwrap();
        (verified.acknowledged, verified.stored_events) = (0, 0);
        report.sent.failed = 5_300;
        let page = report.to_html();
        assert!(
            page.contains("there was none to look for") && page.contains("No request was acknowledged."),
            "{page}"
        );
        assert!(!page.contains("Every one of the 0"), "{page}");
    }

    #[test]
    fn every_text_that_comes_from_outside_is_escaped() {
        let evil = "</td><script>alert(1)</script>";
        let mut report = report();
        let own = || evil.to_owned();
        report.url = own();
        report.verdict = Verdict::Broken;
        report.sent.failures.insert(own(), 1);
        report.sent.contradictions = 1;
        report.sent.contradiction_examples.push(own());
        report.retries.by_cause.insert(own(), 1);
        let verified = report.verified.as_mut().unwrap();
        verified.examples.push(own());
        verified.unfinished = Some(own());
        let mut sequences = sequences();
        let source = SourceReport {
            topic: own(),
            source: own(),
            highest: 1,
            numbered: 1,
            never_sent: 0,
            reordered: 0,
        };
        sequences.by_source.push(source);
        report.sequences = Some(sequences);
        report.course.about_server = Some(ServerInfo { version: own(), store: own(), durability: own() });
        report.course.command = own();
        report.course.settings[0].value = own();
        let page = report.to_html();
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 13, "{page}");
    }
}
