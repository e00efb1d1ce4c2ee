//! What only the page of a report shows: the course of the run, and what it was run with.

use std::time::Duration;

use hdrhistogram::Histogram;
use time::OffsetDateTime;

use super::Facts;
use crate::faults::Faults;
use crate::sender::Sent;
use crate::server_info::ServerInfo;
use crate::settings::Setting;
use crate::timeline::Timeline;

/// The course of a run.
#[derive(Debug, Clone)]
pub struct Course {
    /// When it began.
    pub began: OffsetDateTime,
    /// What happened when.
    pub timeline: Timeline,
    /// How long sending took.
    pub elapsed: Duration,
    /// Latencies of acknowledged requests, in microseconds.
    pub latency_us: Histogram<u64>,
    /// What went wrong on purpose.
    pub faults: Faults,
    /// How long batches were held back on purpose, all together.
    pub delayed: Duration,
    /// The options, without secrets.
    pub settings: Vec<Setting>,
    /// The command that makes the same run again, without secrets.
    pub command: String,
    /// What the server says of itself.
    pub about_server: Option<ServerInfo>,
}

impl Course {
    /// The course of a run that is over.
    #[must_use]
    pub fn new(facts: &Facts<'_>) -> Self {
        let Facts { config, seed, sent: Sent { tally, elapsed }, .. } = facts;
        Self {
            began: facts.began,
            timeline: tally.timeline.clone(),
            elapsed: *elapsed,
            latency_us: tally.latency_us.clone(),
            faults: facts.faults,
            delayed: tally.delayed,
            settings: config.settings(*seed),
            command: config.command_line(*seed),
            about_server: facts.about_server.clone(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Instant;

    use clap::Parser as _;

    use super::*;
    use crate::config::Config;

    pub(in crate::report) fn course() -> Course {
        let config = Config::parse_from(["publisher-sim", "--drop-replies", "0.05", "--bursts", "0.03"]);
        let mut latency_us = Histogram::new(3).unwrap();
        let mut timeline = Timeline::new(Instant::now());
        for us in [900, 1_000, 1_100, 3_000] {
            latency_us.record(us).unwrap();
            timeline.now().latency(us);
        }
        timeline.now().stored = 3_800;
        Course {
            began: OffsetDateTime::UNIX_EPOCH,
            timeline,
            elapsed: Duration::from_millis(500),
            latency_us,
            faults: Faults::new(&config.faults),
            delayed: Duration::ZERO,
            settings: config.settings(7),
            command: config.command_line(7),
            about_server: None,
        }
    }
}
