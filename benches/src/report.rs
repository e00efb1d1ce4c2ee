//! The report: as JSON for programs, as Markdown for terminals and documents, and as a page with plots.

mod markdown;
mod mixed;
mod overload;
mod page;
mod records;
mod retention;
mod scale;
mod sections;
mod tails;
mod topics;

use std::path::Path;

use anyhow::Context as _;
use report_page::file::ReportFile;
use serde::Serialize;

use crate::measures::Spread;
use crate::measures::growth::Growth;
use crate::measures::ingest::Ingest;
use crate::measures::latency::Steady;
use crate::measures::machine::Machine;
use crate::measures::mixed::Mixed;
use crate::measures::overload::Overload;
use crate::measures::read::Reading;
use crate::measures::read::unknown::Asked;
use crate::measures::records::Writing;
use crate::measures::records::beside_ingest::BesideIngest;
use crate::measures::retention::BesidePurges;
use crate::measures::scale::Scale;
use crate::measures::tails::Tails;
use crate::measures::topics::ManyTopics;
use crate::measures::topics::cost::TopicCost;
use crate::options::Options;

/// Everything a run measured. Parts that were not asked for are empty.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) quick: bool,
    pub(crate) rounds: u32,
    pub(crate) connections: u32,
    pub(crate) topics: u16,
    pub(crate) seed: u64,
    pub(crate) event_bytes: usize,
    pub(crate) machine: Machine,
    /// What failed, so that figures are missing.
    pub(crate) failures: Vec<String>,
    pub(crate) ingest: Option<Ingest>,
    pub(crate) growth: Option<Growth>,
    pub(crate) read: Vec<Reading>,
    pub(crate) lookups: Vec<Asked>,
    pub(crate) tails: Tails,
    pub(crate) overload: Overload,
    pub(crate) latency: Vec<Steady>,
    pub(crate) scale: Option<Scale>,
    pub(crate) records: Vec<Writing>,
    pub(crate) ingest_beside_records: Option<BesideIngest>,
    pub(crate) retention: Option<BesidePurges>,
    pub(crate) mixed: Option<Mixed>,
    pub(crate) many_topics: Vec<ManyTopics>,
    pub(crate) topic_cost: Option<TopicCost>,
    pub(crate) rivals: Vec<RivalLine>,
}

/// A system that got the same deliveries. Ours comes first.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RivalLine {
    pub(crate) name: String,
    /// How the deliveries were sent.
    pub(crate) how: String,
    /// What an acknowledgement of this system means.
    pub(crate) durability: String,
    pub(crate) outcome: RivalOutcome,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(not(feature = "rivals"), expect(dead_code, reason = "the rivals are a feature"))]
pub(crate) enum RivalOutcome {
    Measured(RivalFigures),
    /// What is missing, and how to get it.
    NotInstalled(String),
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct RivalFigures {
    pub(crate) deliveries: u64,
    pub(crate) identities: u64,
    /// Whether the time limit ended it.
    pub(crate) cut_short: bool,
    /// Deliveries per second.
    pub(crate) rate: Spread,
    /// The rates of the first and the last tenth in the median run.
    pub(crate) first_tenth: f64,
    pub(crate) last_tenth: f64,
    /// Our rate over this system's, in the same round.
    pub(crate) ours_to_this: Option<Spread>,
    pub(crate) resident_bytes: u64,
    pub(crate) disk_bytes: u64,
    /// (deliveries, deliveries per second since the point before).
    pub(crate) curve: Vec<(u64, f64)>,
}

impl Report {
    pub(crate) fn new(options: &Options, machine: Machine) -> Self {
        Self {
            quick: options.quick,
            rounds: options.rounds(),
            connections: options.connections,
            topics: options.topics,
            seed: options.seed,
            event_bytes: crate::workload::TEMPLATE.len(),
            machine,
            failures: Vec::new(),
            ingest: None,
            growth: None,
            read: Vec::new(),
            lookups: Vec::new(),
            tails: Tails::default(),
            overload: Overload::default(),
            latency: Vec::new(),
            scale: None,
            records: Vec::new(),
            ingest_beside_records: None,
            retention: None,
            mixed: None,
            many_topics: Vec::new(),
            topic_cost: None,
            rivals: Vec::new(),
        }
    }

    /// Adds a failure, with the names of this machine's directories replaced.
    pub(crate) fn fail(&mut self, options: &Options, error: &anyhow::Error) {
        let mut text = format!("{error:#}");
        eprintln!("aggregator-bench: {text}");
        for (path, name) in [(&options.server, "SERVER"), (&options.work, "WORK"), (&options.out, "OUT")] {
            text = text.replace(&*path.to_string_lossy(), name);
        }
        self.failures.push(text);
    }

    /// Writes `report.json`, `report.md` and `report.html`. Returns the text of the second.
    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<String> {
        let markdown = markdown::render(self);
        let json = serde_json::to_string_pretty(self)? + "\n";
        let page = page::render(self);
        for (name, text) in [("report.json", &json), ("report.md", &markdown), ("report.html", &page)] {
            let path = directory.join(name);
            let written = ReportFile::claim(&path).and_then(|file| file.write(text));
            written.with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(markdown)
    }
}
