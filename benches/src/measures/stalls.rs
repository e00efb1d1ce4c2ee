//! Stalls of the machine itself, which no program on it can prevent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, mem};

use anyhow::{Context as _, anyhow};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// How long a watch sleeps at a time.
const NAP: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Stalled {
    /// The most by which a watching thread was woken too late.
    pub(crate) latest_ms: f64,
    /// The share of the processors' time that the host gave to others.
    pub(crate) stolen: f64,
}

/// Runs a thread on each processor that only sleeps and looks at the time, until this is dropped. A host that halts a
/// virtual processor does not always count that as stolen time. A thread sees only its own processor, so each has one.
pub(crate) struct Watch {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<Duration>>>,
    before: Times,
}

impl Watch {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let before = Times::now()?;
        let mut watch = Self { is_over: Arc::new(AtomicBool::new(false)), threads: Vec::new(), before };
        for processor in processors()? {
            let over = Arc::clone(&watch.is_over);
            let body = move || latest_on(processor, &over);
            watch.threads.push(thread::Builder::new().name("watch".into()).spawn(body)?);
        }
        Ok(watch)
    }

    pub(crate) fn finish(mut self) -> anyhow::Result<Stalled> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut latest = Duration::ZERO;
        for thread in mem::take(&mut self.threads) {
            latest = latest.max(thread.join().map_err(|_| anyhow!("a watch panicked"))??);
        }
        let after = Times::now()?;
        let all = after.all - self.before.all;
        let stolen = if all > 0.0 { (after.stolen - self.before.stolen) / all } else { 0.0 };
        Ok(Stalled { latest_ms: latest.as_secs_f64() * 1000.0, stolen })
    }
}

/// The processors that this process may run on.
fn processors() -> anyhow::Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("asking which processors there are")?;
    Ok((0..CpuSet::MAX_CPU).filter(|&processor| allowed.is_set(processor)).collect())
}

/// The most by which a sleep on this processor was too long.
fn latest_on(processor: usize, is_over: &AtomicBool) -> anyhow::Result<Duration> {
    let mut here = CpuSet::new();
    here.set(processor);
    sched_setaffinity(None, &here).with_context(|| format!("staying on processor {processor}"))?;
    let mut latest = Duration::ZERO;
    while !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        thread::sleep(NAP);
        latest = latest.max(began.elapsed().saturating_sub(NAP));
    }
    Ok(latest)
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// The processors' times since the machine started, in ticks.
struct Times {
    all: f64,
    stolen: f64,
}

impl Times {
    fn now() -> anyhow::Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = line.split_whitespace().skip(1).map_while(|tick| tick.parse().ok()).collect();
        // The last two fields are times of guests, which the first two include.
        let [user, nice, system, idle, waiting, interrupts, soft, stolen, ..] = ticks[..] else {
            return Err(anyhow!("/proc/stat begins with {line:?}"));
        };
        Ok(Self { all: user + nice + system + idle + waiting + interrupts + soft + stolen, stolen })
    }
}
