//! What the page begins with: the verdict, and the numbers that stand out.

use report_page::number::{count, duration, milliseconds};
use report_page::{Figure, Page, Tone};

use crate::report::plots::whole;
use crate::report::table::reasons;
use crate::report::{Report, Verdict, VerifyReport};
use crate::verify::VerifyBy;

impl Report {
    pub(super) fn write_verdict(&self, page: &mut Page) {
        let verified = self.verified.as_ref();
        let (tone, sentence) = match (self.verdict, verified) {
            (Verdict::Interrupted, _) => (Tone::Open, "Interrupted: this is the report so far"),
            (Verdict::Done, Some(_)) => (Tone::Good, "Exactly once: verified"),
            (Verdict::Done, None) => {
                (Tone::Open, "All deliveries were acknowledged; what is stored was not verified")
            }
            (Verdict::Broken, Some(verified)) if verified.faults() > 0 => (Tone::Bad, "Exactly once: broken"),
            (Verdict::Broken, _) if self.sent.contradictions > 0 => {
                (Tone::Bad, "Receipts contradict each other")
            }
            (Verdict::Broken, Some(verified)) if verified.unfinished.is_some() => {
                (Tone::Bad, "Not verified to the end")
            }
            (Verdict::Broken, _) => (Tone::Bad, "Not all deliveries were acknowledged"),
        };
        let mut told: Vec<String> =
            reasons(self).iter().map(|reason| format!("{}.", capitalized(reason))).collect();
        match verified {
            Some(verified @ VerifyReport { unfinished: None, acknowledged: 0, .. }) if verified.faults() == 0 => {
                told.push("No event was acknowledged, so there was none to look for.".to_owned());
            }
            Some(verified) if verified.unfinished.is_none() => told.push(format!(
                "Every one of the {} events that were acknowledged was looked for in what {}: {} lost, {} doubled, {} out of \
                 order, {} changed.",
                count(verified.acknowledged),
                match verified.by {
                    VerifyBy::Pages => "was read back from the store",
                    VerifyBy::Stream => "came by stream while it was stored",
                },
                count(verified.lost),
                count(verified.doubled),
                count(verified.out_of_order),
                count(verified.mismatched),
            )),
            Some(VerifyReport { unfinished: Some(reason), .. }) => told.push(format!("It stopped early: {reason}.")),
            _ if self.verdict == Verdict::Done => {
                told.push("Run it with --verify to have everything read back and compared with its receipts.".to_owned());
            }
            _ => {}
        }
        page.verdict(tone, sentence, &told);
    }

    pub(super) fn figures(&self) -> Vec<Figure> {
        let figure = |name: &str, value: String, note: String, tone| Figure {
            name: name.to_owned(),
            value,
            note,
            tone,
        };
        let none = self.course.latency_us.is_empty();
        let latency = |ms| if none { "–".to_owned() } else { milliseconds(ms) };
        let bad_if = |bad: bool| if bad { Tone::Bad } else { Tone::Open };
        let mut figures = vec![
            figure(
                "acknowledged",
                count(self.sent.acknowledged()),
                format!("of {} deliveries", count(self.sent.deliveries)),
                bad_if(self.verdict == Verdict::Broken && self.sent.acknowledged() < self.sent.deliveries),
            ),
            figure(
                "throughput",
                format!("{}/s", count(whole(self.events_per_second))),
                format!("for {}", duration(self.elapsed_seconds)),
                Tone::Open,
            ),
            figure("latency p50", latency(self.latency_ms.p50), String::new(), Tone::Open),
            figure(
                "latency p99",
                latency(self.latency_ms.p99),
                format!("slowest {}", latency(self.latency_ms.max)),
                Tone::Open,
            ),
            figure(
                "sent again",
                count(self.retries.total),
                format!("of {} requests", count(self.sent.requests)),
                Tone::Open,
            ),
        ];
        if let Some(verified) = self.verified.as_ref().filter(|verified| verified.unfinished.is_none()) {
            let faults = verified.faults();
            figures.insert(
                0,
                figure(
                    "faults found",
                    count(faults),
                    format!("of {} events", count(verified.acknowledged)),
                    bad_if(faults > 0),
                ),
            );
        }
        figures
    }
}

fn capitalized(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}
