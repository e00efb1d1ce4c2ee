//! The simulator against the aggregator, and against a peer that speaks real HTTP and can lie: what
//! it proves, and that its proof can fail.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod aggregator;
mod editor;
mod evidence;
mod network;
mod page;
mod peer;
mod program;
mod proxy;
mod retries;
mod sequences;
mod server;
mod stream;
mod verification;

use clap::Parser as _;
use publisher_sim::Simulation;
use publisher_sim::config::Config;
use publisher_sim::report::Report;
use publisher_sim::stop::stop_switch;

use crate::peer::Peer;

/// Runs the simulator against the peer with these options, and small waits unless they say otherwise.
async fn run(peer: &Peer, options: &str) -> Report {
    run_at(&peer.url(), options).await
}

async fn run_at(url: &str, options: &str) -> Report {
    let simulation = Simulation::new(config(url, options)).unwrap();
    simulation.probe().await.unwrap();
    let (_switch, stop) = stop_switch();
    simulation.run(&stop).await
}

fn config(url: &str, options: &str) -> Config {
    let fixed = ["publisher-sim", "--url", url, "--retry-base-ms", "1"];
    Config::try_parse_from(fixed.into_iter().chain(options.split_whitespace())).unwrap()
}

/// HTTP of the tests' own.
fn http_client() -> reqwest::Client {
    aggregator_client::Client::builder("http://localhost").http_client().unwrap()
}
