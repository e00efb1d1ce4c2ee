//! Processes: starting them, measuring them, and ending them with the bench.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// All running processes. A signal ends the bench without any `drop`, so it kills these first.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// A process that is killed when dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    /// The signal that shuts it down in order, for a process that has something to clean up.
    #[cfg(feature = "rivals")]
    stop: Option<&'static str>,
}

impl Process {
    pub(crate) fn start(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        // The lock is held during the start: otherwise a signal in between would leave the process behind.
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        running.push(child.id());
        drop(running);
        Ok(Self {
            name: name.to_owned(),
            child,
            #[cfg(feature = "rivals")]
            stop: None,
        })
    }

    /// Ends the process by this signal. SIGKILL follows only if it does not end in time.
    #[cfg(feature = "rivals")]
    pub(crate) fn stopped_by(mut self, signal: &'static str) -> Self {
        self.stop = Some(signal);
        self
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Fails if the process has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended by itself: {status}", self.name),
            None => Ok(()),
        }
    }

    /// Waits until `ready` holds.
    pub(crate) fn await_ready(&mut self, mut ready: impl FnMut() -> bool) -> anyhow::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(120);
        let deadline = Instant::now() + PATIENCE;
        while !ready() {
            self.check()?;
            if Instant::now() > deadline {
                bail!("{} was not ready within {PATIENCE:?}", self.name);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Kills the process with SIGKILL, like a crash.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        #[cfg(feature = "rivals")]
        if let Some(signal) = self.stop.take() {
            let _ = Command::new("kill").args(["-s", signal, &self.id().to_string()]).status();
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(10));
            }
        }
        // This fails if the process has already ended, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|&pid| pid != self.child.id());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP end all processes and then the bench.
pub(crate) fn end_all_on_signals() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if !running.is_empty() {
            let pids = running.iter().map(u32::to_string);
            let _ = Command::new("kill").arg("-KILL").args(pids).status();
        }
        std::process::exit(130);
    });
    Ok(())
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("the memory of process {pid}"))?;
        let field = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|value| value.trim().strip_suffix(" kB"));
            Ok(kib.with_context(|| format!("process {pid} has no {name}"))?.parse::<u64>()? * 1024)
        };
        Ok(Self { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
    }
}

/// Processor time of a process so far, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    Ok(cpu_times(pid)?[..2].iter().sum())
}

/// Processor time of a process and its children, including those that have ended.
pub(crate) fn cpu_seconds_with_children(pid: u32) -> anyhow::Result<f64> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    // A child that ends meanwhile is counted by its parent.
    let running = children.split_whitespace().filter_map(|child| cpu_seconds(child.parse().ok()?).ok());
    Ok(running.sum::<f64>() + cpu_times(pid)?.iter().sum::<f64>())
}

/// Seconds in user and system mode, of the process itself and of its children that have ended.
fn cpu_times(pid: u32) -> anyhow::Result<[f64; 4]> {
    /// The kernel's USER_HZ, which is 100 on all common machines.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("the processor time of process {pid}"))?;
    // The name in parentheses may hold anything. utime is the 12th field after it, and the others follow.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut seconds = [0.0; 4];
    for (seconds, ticks) in seconds.iter_mut().zip(fields.split_whitespace().skip(11)) {
        *seconds = ticks.parse::<f64>()? / TICKS_PER_SECOND;
    }
    Ok(seconds)
}

/// The disk space of the files in a directory.
pub(crate) fn disk_bytes(directory: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in
        fs::read_dir(directory).with_context(|| format!("{} cannot be listed", directory.display()))?
    {
        // A file, such as a log, may be deleted meanwhile.
        let Ok(metadata) = entry.as_ref().map_err(drop).and_then(|entry| entry.metadata().map_err(drop))
        else {
            continue;
        };
        bytes += if metadata.is_dir() { disk_bytes(&entry?.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}
