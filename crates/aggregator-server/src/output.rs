//! Standard error and standard output.
//!
//! Logs are best effort. Lines for standard error wait in a queue, and one thread writes them. So neither a reader that has
//! stopped or gone, nor a full disk, holds up a request or ends the process. A line that finds the queue full, or that
//! cannot be written, is dropped and counted. The count is reported as soon as something can be written again.
//!
//! The result of a command goes to standard output directly. The command waits for a slow reader, and fails if it cannot
//! write.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many bytes of lines may wait by default.
const DEFAULT_LIMIT_BYTES: usize = 1 << 20;
/// How long the end of the process waits for the last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long to wait before a write is tried again, if another process has made the stream non-blocking.
const RETRY: Duration = Duration::from_millis(10);

/// The one way to standard error.
pub fn stderr() -> &'static LineQueue {
    #[expect(clippy::disallowed_methods, reason = "this is the one way to it")]
    static STDERR: LazyLock<LineQueue> = LazyLock::new(|| LineQueue::new("stderr", io::stderr()));
    &STDERR
}

/// Waits until all lines for standard error are written, for a second at most. Called before the process ends.
pub fn finish() {
    stderr().flush(LAST_LINES);
}

/// Writes to standard output where the server listens. Serves even if nobody reads it.
pub fn announce(line: &str) {
    #[expect(clippy::disallowed_methods, reason = "its thread may wait for a reader for ever")]
    LineQueue::new("stdout", io::stdout()).line(line);
}

/// Writes the result of a command to standard output. A reader that has closed its pipe is no error.
///
/// # Errors
/// Any other error of the write.
pub fn print(text: &str) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "the result of a command waits for its reader")]
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A queue of lines, and the thread that writes them. Handing a line over never waits and never fails.
pub struct LineQueue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: VecDeque<Entry>,
    /// Bytes of the lines that wait or are being written.
    bytes: usize,
    limit_bytes: usize,
    /// Whether the thread is writing a line.
    busy: bool,
    /// Formats the report that so many lines were lost.
    tell_lost: fn(u64) -> String,
}

enum Entry {
    Line(Vec<u8>),
    /// So many lines found the queue full here.
    Lost(u64),
}

impl LineQueue {
    /// Starts the thread.
    fn new(name: &str, sink: impl Write + Send + 'static) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            bytes: 0,
            limit_bytes: DEFAULT_LIMIT_BYTES,
            busy: false,
            tell_lost: |lines| format!("{lines} lines were lost: they could not be written"),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let own = Arc::clone(&shared);
        // Without a thread the lines stay in the queue, and those beyond its limit are dropped.
        let _ = std::thread::Builder::new().name(name.into()).spawn(move || own.drain(sink));
        Self(shared)
    }

    /// Sets how many bytes may wait, and how lost lines are reported.
    pub(crate) fn configure(&self, limit_bytes: usize, tell_lost: fn(u64) -> String) {
        let mut state = self.0.lock();
        (state.limit_bytes, state.tell_lost) = (limit_bytes, tell_lost);
    }

    /// Queues a line with this text.
    pub fn line(&self, text: &str) {
        self.push(format!("{text}\n").into_bytes());
    }

    /// Queues this text without the end of a line.
    pub(crate) fn part(&self, text: &str) {
        self.push(text.as_bytes().to_vec());
    }

    /// Waits until all queued lines are written or lost, for `limit` at most.
    fn flush(&self, limit: Duration) {
        let pending = |state: &mut State| state.busy || !state.waiting.is_empty();
        drop(self.0.changed.wait_timeout_while(self.0.lock(), limit, pending));
    }

    fn push(&self, line: Vec<u8>) {
        let mut state = self.0.lock();
        if state.bytes + line.len() <= state.limit_bytes {
            state.bytes += line.len();
            state.waiting.push_back(Entry::Line(line));
        } else if let Some(Entry::Lost(lines)) = state.waiting.back_mut() {
            *lines += 1;
        } else {
            state.waiting.push_back(Entry::Lost(1));
        }
        drop(state);
        self.0.changed.notify_all();
    }
}

/// One write is one line, as tracing writes them.
impl Write for &LineQueue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn drain(&self, sink: impl Write) {
        let mut sink = LineWriter { to: sink, lost: 0, torn: false };
        let mut state = self.lock();
        loop {
            let entry = state.waiting.pop_front();
            state.busy = entry.is_some();
            let Some(entry) = entry else {
                self.changed.notify_all();
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let tell_lost = state.tell_lost;
            drop(state);
            let bytes = sink.take(entry, tell_lost);
            state = self.lock();
            state.bytes -= bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics, so the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes lines, and counts those that it cannot write.
struct LineWriter<W> {
    to: W,
    /// Lines that were lost and not reported yet.
    lost: u64,
    /// Whether the last line was written in part.
    torn: bool,
}

impl<W: Write> LineWriter<W> {
    /// Writes the entry if it can. Returns how many bytes leave the queue.
    fn take(&mut self, entry: Entry, tell_lost: fn(u64) -> String) -> usize {
        let (line, lost) = match entry {
            Entry::Line(line) => (line, 0),
            Entry::Lost(lines) => (Vec::new(), lines),
        };
        self.lost += lost;
        if self.lost > 0 && self.write((tell_lost(self.lost) + "\n").as_bytes()) {
            self.lost = 0;
        }
        self.lost += u64::from(!self.write(&line));
        line.len()
    }

    /// Whether all of it was written.
    fn write(&mut self, line: &[u8]) -> bool {
        if std::mem::take(&mut self.torn) && !self.write_all(b"\n") {
            self.torn = true;
            return false;
        }
        self.write_all(line)
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> bool {
        let length = bytes.len();
        while !bytes.is_empty() {
            match self.to.write(bytes) {
                Ok(written @ 1..) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY),
                Ok(0) | Err(_) => {
                    self.torn = bytes.len() < length;
                    return false;
                }
            }
        }
        true
    }
}
