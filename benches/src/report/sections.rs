//! The parts of the report, in their order.

use report_page::Chart;

use super::{Report, markdown, mixed, overload, records, retention, scale, tails, topics};
use crate::plots;

pub(super) const TITLE: &str = "Benchmark of the event aggregator";

/// A part of the report.
pub(super) struct Section {
    pub(super) title: &'static str,
    /// Markdown, without a heading.
    pub(super) text: String,
    /// What the page has below the text.
    pub(super) charts: Vec<Chart>,
}

/// The parts that were measured.
pub(super) fn sections(report: &Report) -> Vec<Section> {
    let some = |any: bool, section: &dyn Fn() -> Section| any.then(section);
    let sections = [
        some(true, &|| Section::new("How it was measured", markdown::conditions(report))),
        some(!report.failures.is_empty(), &|| {
            Section::new("What failed and is missing", markdown::failures(&report.failures))
        }),
        report
            .ingest
            .as_ref()
            .map(|ingest| Section::new("Deliveries per second", markdown::ingest(report, ingest))),
        report
            .growth
            .as_ref()
            .map(|growth| Section::new("Growth", markdown::growth(growth)).with(plots::growth(growth))),
        some(!report.read.is_empty(), &|| Section::new("Reading", markdown::read(report))),
        some(!report.lookups.is_empty(), &|| {
            Section::new("Lookups of unknown ids", markdown::lookups(report))
        }),
        some(!report.tails.tailing.is_empty(), &|| Section::new("Streams", tails::tails(&report.tails))),
        some(report.overload.is_measured(), &|| {
            Section::new("Too much load", overload::overload(&report.overload))
        }),
        some(!report.latency.is_empty(), &|| {
            Section::new("Latency", markdown::latency(report)).with(vec![plots::latency(&report.latency)])
        }),
        report.scale.as_ref().map(|scale| Section::new("Over PostgreSQL", scale::render(scale))),
        some(!report.records.is_empty(), &|| Section::new("Records", records::writing(&report.records))),
        report.ingest_beside_records.as_ref().map(|measured| {
            Section::new("Ingest beside writes of records", records::beside_ingest(measured))
        }),
        report
            .retention
            .as_ref()
            .map(|measured| Section::new("Beside retention", retention::beside_purges(measured))),
        report.mixed.as_ref().map(|measured| Section::new("Reads beside appends", mixed::mixed(measured))),
        some(!report.many_topics.is_empty(), &|| {
            Section::new("Many topics", topics::many_topics(&report.many_topics))
        }),
        report.topic_cost.as_ref().map(|cost| Section::new("What a topic costs", topics::cost(cost))),
        some(!report.rivals.is_empty(), &|| {
            Section::new("Beside others", markdown::rivals(report)).with(vec![plots::rivals(&report.rivals)])
        }),
    ];
    sections.into_iter().flatten().collect()
}

impl Section {
    fn new(title: &'static str, text: String) -> Self {
        Self { title, text, charts: Vec::new() }
    }

    fn with(self, charts: Vec<Chart>) -> Self {
        Self { charts, ..self }
    }
}
