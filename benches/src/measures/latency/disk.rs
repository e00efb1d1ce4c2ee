//! The same without a server: a file is written and synced by the same kind of schedule, and latency counts from when a
//! write was due. No server can be faster than its disk.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::Steady;
use crate::load::histogram;
use crate::measures::stalls::Watch;
use crate::measures::{Scratch, settle};
use crate::options::Options;

pub(super) const NAME: &str = "the disk alone, 64 KB a write";

/// The bytes of a write, and of the file, which is written over and over like a log.
const WRITTEN: usize = 64 << 10;
const FILE: u64 = 64 << 20;
/// Writes per second: about as many as a server makes that takes some 250,000 deliveries per second.
const WRITES: u32 = 1000;

pub(super) fn measure(options: &Options) -> anyhow::Result<Steady> {
    settle()?;
    let directory = Scratch::new(options, "latency-disk")?;
    let log = Log::create(&directory.path().join("log")).context("a file of the disk's latency")?;
    let began = Instant::now();
    for n in 0..u64::from(WRITES) {
        log.write(n)?;
    }
    let capacity = f64::from(WRITES) / began.elapsed().as_secs_f64();
    let watch = Watch::start()?;
    let (mut latency, start) = (histogram(), Instant::now());
    for n in 0..u64::from(WRITES) * u64::from(options.seconds()) {
        let due = start + Duration::from_secs(1) / WRITES * u32::try_from(n)?;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        log.write(n)?;
        latency.saturating_record(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = f64::from(WRITES) * f64::from(options.seconds()) / seconds;
    Ok(Steady::new(NAME, capacity, rate, seconds, &latency, watch.finish()?))
}

struct Log {
    file: File,
    block: Vec<u8>,
}

impl Log {
    /// Writes the whole file once, so that no later write makes it longer.
    fn create(path: &Path) -> anyhow::Result<Self> {
        let log = Self { file: File::create(path)?, block: vec![0x5a; WRITTEN] };
        for place in (0..FILE).step_by(WRITTEN) {
            log.file.write_all_at(&log.block, place)?;
        }
        log.file.sync_all()?;
        Ok(log)
    }

    fn write(&self, n: u64) -> anyhow::Result<()> {
        self.file.write_all_at(&self.block, n * WRITTEN as u64 % FILE)?;
        self.file.sync_data().context("a sync")
    }
}
