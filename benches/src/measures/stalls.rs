//! Whether the machine itself stood still: what no program on it can help.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use serde::Serialize;

/// How long the watch sleeps at a time.
const NAP: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Stalled {
    /// By how much the watch was woken too late, at most.
    pub(crate) latest_ms: f64,
    /// The share of the processors' time that the host gave to others.
    pub(crate) stolen: f64,
}

/// A thread that does nothing but sleep and look at the time, until this is dropped.
pub(crate) struct Watch {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Duration>>,
    before: Times,
}

impl Watch {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let before = Times::now()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::Builder::new().name("watch".into()).spawn(move || {
            let mut latest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                thread::sleep(NAP);
                latest = latest.max(began.elapsed().saturating_sub(NAP));
            }
            latest
        })?;
        Ok(Self { is_over, thread: Some(thread), before })
    }

    pub(crate) fn finish(mut self) -> anyhow::Result<Stalled> {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it is finished once")?;
        let latest = thread.join().map_err(|_| anyhow!("the watch panicked"))?;
        let after = Times::now()?;
        let all = after.all - self.before.all;
        let stolen = if all > 0.0 { (after.stolen - self.before.stolen) / all } else { 0.0 };
        Ok(Stalled { latest_ms: latest.as_secs_f64() * 1000.0, stolen })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// What the processors have done since the machine began, in ticks.
struct Times {
    all: f64,
    stolen: f64,
}

impl Times {
    fn now() -> anyhow::Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = line.split_whitespace().skip(1).map_while(|tick| tick.parse().ok()).collect();
        // What guests did, the last two, is in the first two already.
        let [user, nice, system, idle, waiting, interrupts, soft, stolen, ..] = ticks[..] else {
            return Err(anyhow!("/proc/stat begins with {line:?}"));
        };
        Ok(Self { all: user + nice + system + idle + waiting + interrupts + soft + stolen, stolen })
    }
}
