//! The thread that prepares what the writer writes: it sorts, merges and makes filters.

use std::ops::ControlFlow::Continue;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::lookup::Chunks;
use super::manifest::RunEntry;
use super::run::{self, Run};
use super::section::{NewSection, Section};
use super::{Entry, Recent};

/// A piece of work.
pub(super) enum Task {
    /// All of a new run.
    Flush { run: RunEntry, through: u64, frozen: Arc<Recent> },
    /// The next sections of a merge.
    Merge { run: RunEntry, sections: Range<u32>, inputs: Vec<Input> },
}

/// Sections that a new one takes its entries from.
pub(super) struct Input {
    run: u32,
    section: u32,
    head: Section,
}

impl Input {
    /// What a merge needs of these runs for a section.
    pub(super) fn of<'r>(runs: impl Iterator<Item = &'r Run>, range: &Range<u64>) -> Vec<Self> {
        let of = |run: &'r Run| {
            let id = run.id;
            run.overlapping(range).map(move |(section, head)| Self { run: id, section, head })
        };
        runs.flat_map(of).collect()
    }
}

/// Sections that are ready to be written.
pub(super) struct Slice {
    /// As it is in the manifest once they are written.
    pub(super) run: RunEntry,
    pub(super) sections: Vec<NewSection>,
    /// Of a flush: the offset up to which the runs cover the log then.
    pub(super) through: Option<u64>,
}

/// Does a task.
pub(super) fn build(connection: &Connection, task: Task) -> rusqlite::Result<Slice> {
    match task {
        Task::Flush { run, through, frozen } => {
            let mut entries: Vec<Entry> = frozen.entries().collect();
            entries.sort_unstable();
            let sections = sections(&run, 0..run.sections(), &entries);
            Ok(Slice { run, sections, through: Some(through) })
        }
        Task::Merge { mut run, sections: numbers, inputs } => {
            let range = span(run.bits, &numbers);
            // As many as there are on average, and some more.
            let section = usize::try_from(run.entries >> run.bits).unwrap_or(0);
            let mut entries = Vec::with_capacity((section + section / 16) * numbers.len());
            // One state of the file, and a short look at it.
            let snapshot = connection.unchecked_transaction()?;
            let mut chunks = Chunks::new(&snapshot)?;
            for input in inputs {
                for number in input.head.chunks(range.start..=range.end - 1) {
                    chunks.read(run::chunk_key(input.run, input.section, number), |entry| {
                        if range.contains(&entry.fingerprint) {
                            entries.push(entry);
                        }
                        Continue(())
                    })?;
                }
            }
            drop(chunks);
            drop(snapshot);
            // They come sorted from each input, which the stable sort makes use of.
            entries.sort();
            run.written = numbers.end;
            Ok(Slice { sections: sections(&run, numbers, &entries), run, through: None })
        }
    }
}

/// The fingerprints of these sections.
pub(super) fn span(bits: u32, sections: &Range<u32>) -> Range<u64> {
    run::fingerprints(bits, sections.start).start..run::fingerprints(bits, sections.end - 1).end
}

/// Shares sorted entries out to their sections.
fn sections(run: &RunEntry, numbers: Range<u32>, mut entries: &[Entry]) -> Vec<NewSection> {
    let section = |number| {
        let end = run::fingerprints(run.bits, number).end;
        let (of_section, after) = entries.split_at(entries.partition_point(|entry| entry.fingerprint < end));
        entries = after;
        NewSection::of(run.id, number, of_section)
    };
    numbers.map(section).collect()
}

/// The thread.
pub(super) struct Builder {
    tasks: Option<Sender<Task>>,
    slices: Receiver<rusqlite::Result<Slice>>,
    thread: Option<JoinHandle<()>>,
}

/// Why there is no slice.
pub(super) enum Missing {
    NotYet,
    Failed(rusqlite::Error),
    /// The thread panicked.
    Gone,
}

impl Builder {
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (tasks, queue) = channel::<Task>();
        let (ready, slices) = channel();
        let thread = std::thread::Builder::new().name("dedup-index".into()).spawn(move || {
            for task in queue {
                if ready.send(build(&connection, task)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { tasks: Some(tasks), slices, thread: Some(thread) })
    }

    /// Hands a task over; if the thread is gone, [`Self::take`] says so.
    pub(super) fn send(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            let _ = tasks.send(task);
        }
    }

    /// What the last task came to.
    pub(super) fn take(&self, wait: bool) -> Result<Slice, Missing> {
        let result = if wait {
            self.slices.recv().map_err(|_| Missing::Gone)?
        } else {
            self.slices.try_recv().map_err(|error| match error {
                TryRecvError::Empty => Missing::NotYet,
                TryRecvError::Disconnected => Missing::Gone,
            })?
        };
        result.map_err(Missing::Failed)
    }
}

impl Drop for Builder {
    /// Its connection is closed when this returns.
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, the writer was told, or has nothing left to tell.
            let _ = thread.join();
        }
    }
}
