//! What went wrong on purpose and what came of it, and the publisher's own numbers.

use report_page::number::{count, duration};
use report_page::{Column, Page};

use crate::config::Ratio;
use crate::report::{Report, SequencesReport};

/// So many topics and sources are listed: those with the most lost and late numbers.
const MAX_SOURCES: usize = 40;

impl Report {
    pub(super) fn write_faults(&self, page: &mut Page) {
        let rows = self.faults_on_purpose();
        page.section("Faults on purpose");
        if rows.is_empty() {
            page.paragraph("None: --chaos and the options beside it inject them.");
            return;
        }
        page.table(
            "",
            &[Column::text("fault"), Column::text("asked for"), Column::text("what came of it")],
            &rows,
        );
    }

    fn faults_on_purpose(&self) -> Vec<Vec<String>> {
        let (faults, sent) = (&self.course.faults, &self.sent);
        let share = |share: Ratio| format!("{} %", trimmed(share.get() * 100.0));
        let dropped = self.retries.by_cause.get("reply dropped").copied().unwrap_or(0);
        let numbers = |of: fn(&SequencesReport) -> u64| count(self.sequences.as_ref().map_or(0, of));
        let late = numbers(|told| told.reordered);
        let late = match faults.reorder {
            0 | 1 => format!("{late} numbers out of order"),
            _ => format!("{late} numbers out of order, most of them because all were shuffled"),
        };
        let rows = [
            (
                faults.drop_replies != Ratio::ZERO,
                "replies thrown away",
                share(faults.drop_replies),
                format!("{} replies", count(dropped)),
            ),
            (
                !faults.max_delay.is_zero(),
                "batches sent late",
                format!("up to {} ms", faults.max_delay.as_millis()),
                format!("{} of waiting, all together", duration(self.course.delayed.as_secs_f64())),
            ),
            (
                faults.reorder > 1,
                "deliveries shuffled",
                format!("in windows of {}", faults.reorder),
                "repeats overtook their originals".to_owned(),
            ),
            (
                faults.bursts != Ratio::ZERO,
                "batches sent three times at once",
                share(faults.bursts),
                format!("{} more deliveries", count(sent.burst_deliveries)),
            ),
            (
                faults.conflicts != Ratio::ZERO,
                "repeats with another payload",
                share(faults.conflicts),
                format!("{} repeats", count(self.plan.altered.into())),
            ),
            (
                faults.drop != Ratio::ZERO,
                "numbers lost before they were sent",
                share(faults.drop),
                format!("{} numbers", numbers(|told| told.never_sent)),
            ),
            (
                faults.late.share != Ratio::ZERO,
                "events sent behind their successors",
                format!("{}, by up to {}", share(faults.late.share), faults.late.by),
                late,
            ),
        ];
        let injected = rows.into_iter().filter(|(is_injected, ..)| *is_injected);
        injected.map(|(_, fault, asked, came)| vec![fault.to_owned(), asked, came]).collect()
    }
}

pub(super) fn write_sequences(page: &mut Page, sequences: &SequencesReport) {
    page.section("The publisher's own numbers");
    let order = if sequences.order_is_exact {
        "One connection sent everything, so this is the order of arrival."
    } else {
        "That is the order in which they left: requests of several connections overtake each other."
    };
    page.paragraph(&format!(
        "{} numbers were sent. {} numbers below the highest of their topic and source were never sent, and {} came after a \
         higher one. {order}",
        count(sequences.numbered),
        count(sequences.never_sent),
        count(sequences.reordered)
    ));
    let mut sources: Vec<_> = sequences.by_source.iter().collect();
    sources.sort_by_key(|source| std::cmp::Reverse(source.never_sent + source.reordered));
    let rows = sources.iter().take(MAX_SOURCES).map(|source| {
        let figures = [source.highest, source.numbered, source.never_sent, source.reordered].map(count);
        [vec![source.topic.clone(), source.source.clone()], figures.to_vec()].concat()
    });
    let left_out = sources.len().saturating_sub(MAX_SOURCES);
    let caption = match left_out {
        0 => String::new(),
        _ => format!(
            "Those with the most lost and late numbers; {} more are in the JSON",
            count(left_out as u64)
        ),
    };
    let columns = [
        Column::text("topic"),
        Column::text("source"),
        Column::number("highest"),
        Column::number("sent"),
        Column::number("never sent"),
        Column::number("out of order"),
    ];
    page.table(&caption, &columns, &rows.collect::<Vec<_>>());
}

/// A number without trailing zeros.
fn trimmed(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use crate::report::tests::report;

    #[test]
    fn faults_are_told_with_what_came_of_them() {
        let rows = report().faults_on_purpose();
        assert_eq!(
            rows,
            [
                ["replies thrown away", "5 %", "5 replies"],
                ["batches sent three times at once", "3 %", "300 more deliveries"]
            ]
        );
    }
}
