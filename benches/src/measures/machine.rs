//! The machine on which the figures were measured.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

use super::Spread;
use crate::options::Options;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    /// The rate of writing 256 MiB sequentially and syncing them.
    pub(crate) write_bytes_per_second: f64,
    /// The median time of writing 4 KiB and syncing them.
    pub(crate) fsync_ms: f64,
    /// Processes that wanted a core when the bench began. It shows whether the machine was busy.
    pub(crate) load_average: f64,
}

impl Machine {
    pub(crate) fn look(options: &Options) -> anyhow::Result<Self> {
        let (write_bytes_per_second, fsync_ms) =
            probe_disk(&options.work.join("probe")).context("the disk cannot be measured")?;
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Ok(Self {
            processor: field(&text("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory("MemTotal"),
            write_bytes_per_second,
            fsync_ms,
            load_average: text("/proc/loadavg").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0),
        })
    }
}

/// The value in the first line of `text` with this name.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Bytes of memory by their name in `/proc/meminfo`; 0 if it cannot be read.
pub(super) fn memory(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = field(&text, name).unwrap_or_default();
    kib.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// Bytes per second of sequential writes, and the median milliseconds of a small synced write.
fn probe_disk(path: &Path) -> anyhow::Result<(f64, f64)> {
    const MIB: usize = 1 << 20;
    const MIBS: u32 = 256;
    let mut file = File::create(path)?;
    let block = vec![0x5a; MIB];
    let started = Instant::now();
    for _ in 0..MIBS {
        file.write_all(&block)?;
    }
    file.sync_data()?;
    let rate = f64::from(MIBS) * 1048576.0 / started.elapsed().as_secs_f64();
    let mut synced = Vec::new();
    for _ in 0..100 {
        let started = Instant::now();
        file.write_all(&block[..4096])?;
        file.sync_data()?;
        synced.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    drop(file);
    fs::remove_file(path)?;
    Ok((rate, Spread::of(synced).median))
}
