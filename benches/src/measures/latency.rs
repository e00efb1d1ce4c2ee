//! Latency under a steady load of half the server's capacity, and the latency of the disk without a server.

mod disk;

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::stalls::{Stalled, Watch};
use super::{SINGLE_CONNECTIONS, Scratch, settle};
use crate::load::{Load, as_fast_as_possible, steady};
use crate::options::Options;
use crate::server::{Server, Store};
use crate::wire::Results;
use crate::workload::{RECENT, Workload};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Steady {
    pub(crate) name: String,
    /// Deliveries per second as fast as possible; for the disk, writes.
    pub(crate) capacity: f64,
    /// The same in the steady load.
    pub(crate) rate: f64,
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    /// Stalls of the machine meanwhile.
    pub(crate) machine: Stalled,
    /// (quantile, milliseconds), for the plot.
    pub(crate) curve: Vec<(f64, f64)>,
}

pub(crate) fn measure(options: &Options, measured: &mut Vec<Steady>) -> anyhow::Result<()> {
    let all = options.run_events();
    let kinds =
        [("batches of 50", 50, all / 2, Results::Counts), ("single events", 1, all / 10, Results::PerEvent)];
    for (name, batch, deliveries, results) in kinds {
        if !options.has_line(name) {
            continue;
        }
        settle()?;
        let directory = Scratch::new(options, "latency")?;
        let server = Server::start(&options.server, Store::Sqlite, directory.path())?;
        let workload = Workload::new(options.seed, RECENT, options.topics);
        let load = Load {
            address: server.address,
            workload,
            batch,
            connections: SINGLE_CONNECTIONS,
            results,
            key: None,
        };
        let (flat_out, _) = as_fast_as_possible(load, 0..deliveries, None)?;
        flat_out.check(&workload, 0)?;
        let duration = Duration::from_secs(options.seconds().into());
        let watch = Watch::start()?;
        let done = steady(load, flat_out.deliveries, flat_out.rate() / 2.0, duration)?;
        let machine = watch.finish()?;
        done.check(&workload, flat_out.deliveries)?;
        server.check_stats(&workload, flat_out.deliveries + done.deliveries)?;
        let capacity = flat_out.rate();
        measured.push(Steady::new(name, capacity, done.rate(), done.seconds, &done.latency, machine));
    }
    if options.has_line(disk::NAME) {
        measured.push(disk::measure(options)?);
    }
    Ok(())
}

impl Steady {
    fn new(
        name: &str,
        capacity: f64,
        rate: f64,
        seconds: f64,
        latency: &Histogram<u64>,
        machine: Stalled,
    ) -> Self {
        let ms = |quantile| milliseconds(latency.value_at_quantile(quantile));
        eprintln!(
            "latency: {name} at {rate:.0}/s: p50 {} ms, p99 {} ms, p99.9 {} ms",
            ms(0.5),
            ms(0.99),
            ms(0.999)
        );
        Self {
            name: name.to_owned(),
            capacity,
            rate,
            seconds,
            requests: latency.len(),
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            max_ms: milliseconds(latency.max()),
            machine,
            curve: curve(latency),
        }
    }
}

/// The quantiles below 1.
fn curve(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    latency
        .iter_quantiles(8)
        .map(|step| (step.quantile(), milliseconds(step.value_iterated_to())))
        .filter(|&(quantile, _)| quantile < 1.0)
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "a latency needs no 53 bits")]
fn milliseconds(us: u64) -> f64 {
    us as f64 / 1000.0
}
