//! The earlier design of this service: FastAPI, an asyncio queue, one consumer, and one commit per event.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::drive::Driven;
use super::programs::{find, free_port, run, tree_bytes};
use super::{Measured, Tried};
use crate::load::{Load, as_fast_as_possible};
use crate::measures::Scratch;
use crate::options::Options;
use crate::process::{Process, disk_bytes};
use crate::server::get;
use crate::wire::Results;
use crate::workload::Workload;

pub(super) const NAME: &str = "the earlier design in Python";
pub(super) const HOW: &str = "FastAPI, an asyncio queue, one consumer, one SQLite commit per event, over HTTP in batches \
    of 50; 5,000 deliveries at a time, each time until the last one is processed";
pub(super) const DURABILITY: &str = "queued in memory: a crash loses it";

const MISSING: &str = "apt-get install python3-venv, and pip must reach its index";

const APP: &str = include_str!("../../rivals/python/app.py");
const REQUIREMENTS: &str = include_str!("../../rivals/python/requirements.txt");

const BATCH: u32 = 50;
const AT_A_TIME: u64 = 5_000;

pub(super) fn measure(options: &Options, workload: &Workload) -> anyhow::Result<Tried> {
    let Some(python) = find("python3") else {
        return Ok(Tried::NotInstalled(MISSING));
    };
    let environment = match environment(&python, &options.out) {
        Ok(environment) => environment,
        Err(error) => {
            eprintln!("rivals: {NAME}: {error:#}");
            return Ok(Tried::NotInstalled(MISSING));
        }
    };
    let directory = Scratch::new(options, "python")?;
    fs::write(directory.path().join("app.py"), APP)?;
    let port = free_port()?;
    let mut command = Command::new(environment.join("bin/python"));
    command.args(["-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--no-access-log", "--log-level", "warning"]);
    command.current_dir(directory.path()).env("DB_PATH", directory.path().join("events.db"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = Process::start("the Python service", &mut command)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    process.await_ready(|| get(address, "/stats").is_ok())?;

    let load = Load {
        address,
        workload: *workload,
        batch: BATCH,
        connections: options.connections,
        results: Results::Queued,
        key: None,
    };
    let driven = deliver(options, load)?;
    let resident_bytes = tree_bytes(process.id())?;
    Ok(Tried::Done(Measured { driven, resident_bytes, disk_bytes: disk_bytes(directory.path())? }))
}

/// A virtual environment with the packages of the service. It stays in the output directory for the next run.
fn environment(python: &Path, out: &Path) -> anyhow::Result<PathBuf> {
    let environment = out.join("python");
    let requirements = environment.join("requirements.txt");
    if fs::read_to_string(&requirements).is_ok_and(|installed| installed == REQUIREMENTS) {
        return Ok(environment);
    }
    run("python3 -m venv", Command::new(python).args(["-m", "venv", "--clear"]).arg(&environment))?;
    let wanted = environment.join("wanted.txt");
    fs::write(&wanted, REQUIREMENTS)?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run("pip install", Command::new(environment.join("bin/python")).args(pip).arg(&wanted))?;
    // This file shows that the environment is complete, so it comes last.
    fs::rename(&wanted, &requirements)?;
    Ok(environment)
}

/// The service answers before it has stored anything, so the clock runs until its counters have caught up.
fn deliver(options: &Options, load: Load) -> anyhow::Result<Driven> {
    let limit = Duration::from_secs(options.rival_seconds().into());
    let total = options.rivals_events() / AT_A_TIME * AT_A_TIME;
    let started = Instant::now();
    let (mut made, mut points, mut stored) = (0, Vec::new(), 0);
    while made < total && started.elapsed() < limit {
        as_fast_as_possible(load, made..made + AT_A_TIME, None)?;
        made += AT_A_TIME;
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let reply = get(load.address, "/stats")?;
            let stats: Stats = serde_json::from_slice(reply.body()).context("/stats")?;
            stored = stats.unique_processed;
            if stats.unique_processed + stats.duplicate_dropped == made {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "only {stats:?} of {made} deliveries were processed in two minutes"
            );
            thread::sleep(Duration::from_millis(10));
        }
        points.push((made, started.elapsed().as_secs_f64()));
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Driven { deliveries: made, stored, seconds, cut_short: made < total, points })
}

#[derive(Debug, Deserialize)]
struct Stats {
    unique_processed: u64,
    duplicate_dropped: u64,
}
