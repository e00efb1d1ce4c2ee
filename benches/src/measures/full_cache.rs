//! A page cache that is full from the start, as on a machine that has been up for a while.
//!
//! Then the pages that a store writes replace other pages. With an empty cache, a virtual machine first uses memory
//! that it already has, and later memory that its host must find first. That can cost several times as much as writing
//! a page, and then the curve shows the host and not the store.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process;

use anyhow::Context as _;
use serde::Serialize;

use super::Scratch;
use super::machine::memory;
use crate::options::Options;
use crate::process::cpu_seconds;

const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;

/// A file as large as the available memory, removed when dropped.
pub(crate) struct FullCache {
    pub(crate) filled: Filled,
    _directory: Scratch,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Filled {
    pub(crate) bytes: u64,
    /// Processor time of writing one GiB, in seconds: for the cheapest GiB and for the most expensive one.
    pub(crate) cheapest: f64,
    pub(crate) dearest: f64,
}

impl FullCache {
    pub(crate) fn fill(options: &Options) -> anyhow::Result<Self> {
        let gib = (memory("MemAvailable") / GIB).max(1);
        let directory = Scratch::new(options, "full-cache")?;
        let filled = write(&directory.path().join("file"), gib);
        let filled = filled.with_context(|| format!("a file of {gib} GiB, as large as the free memory"))?;
        eprintln!("growth: the page cache is full with {gib} GiB of another file");
        Ok(Self { filled, _directory: directory })
    }
}

fn write(path: &Path, gib: u64) -> anyhow::Result<Filled> {
    let mut filled = Filled { bytes: gib * GIB, cheapest: f64::INFINITY, dearest: 0.0 };
    let mut file = File::create(path)?;
    let block = vec![0x5a; MIB];
    for _ in 0..gib {
        let before = cpu_seconds(process::id())?;
        for _ in 0..GIB / MIB as u64 {
            file.write_all(&block)?;
        }
        let took = cpu_seconds(process::id())? - before;
        filled.cheapest = filled.cheapest.min(took);
        filled.dearest = filled.dearest.max(took);
        // Only pages that are on the disk already can be replaced at once.
        file.sync_data()?;
    }
    Ok(filled)
}
