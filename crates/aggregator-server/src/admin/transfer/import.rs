//! `import`: reads an export, or a list of identities, into a store.
//!
//! One thread reads and checks lines while another thread commits the batches before.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use aggregator_core::event::CheckedRow;
use aggregator_core::{
    DedupStore, DedupStoreExt, Import, Imported, Partition, Partitions, StoreError, Times, Timestamp,
    TopicInfo,
};

use program_support::values::at_least;

use super::format::{self, Header, Line, RowCounts};
use super::progress::{ExpectedTotal, Progress};
use super::{FileOrStdio, TransferError};
use crate::config::ByteSize;
use crate::utf8::BYTE_ORDER_MARK;

/// How many batches wait to be committed.
const WAITING_BATCHES: usize = 2;

/// What to import, and how.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct ImportOptions {
    /// The file to read, or - for standard input
    #[arg(long = "in", value_name = "FILE")]
    pub input: FileOrStdio,

    /// Read a list of identities, {"topic":…,"event_id":…} a line, instead of an export: their events count
    /// as duplicates from then on
    #[arg(long)]
    pub ids_only: bool,

    /// Give rows that are older than the store's newest its time; otherwise they are refused
    #[arg(long)]
    pub raise_times: bool,

    /// Rows in one commit
    #[arg(long, default_value = "10000", value_name = "N", value_parser = at_least::<NonZeroUsize>(1))]
    pub batch_rows: NonZeroUsize,

    /// Bytes of lines in one commit; the line that reaches it is the last one
    #[arg(long, default_value = "8MiB", value_name = "BYTES")]
    pub batch_bytes: ByteSize,

    /// Bytes of a line
    #[arg(long, default_value = "64MiB", value_name = "BYTES")]
    pub max_line_bytes: ByteSize,
}

/// Where lines are read from.
pub struct Input {
    lines: Box<dyn BufRead + Send>,
    /// The length of the input, if it is a file.
    bytes: Option<u64>,
}

impl Input {
    /// Opens the input. Opening a pipe waits until somebody writes to it.
    ///
    /// # Errors
    /// Names the file and why it cannot be opened.
    pub fn open(place: &FileOrStdio) -> Result<Self, TransferError> {
        const BUFFER_BYTES: usize = 1 << 20;
        let FileOrStdio::File(path) = place else {
            let lines = Box::new(BufReader::with_capacity(BUFFER_BYTES, std::io::stdin()));
            return Ok(Self { lines, bytes: None });
        };
        let file = File::open(path).map_err(TransferError::io(path.display().to_string()))?;
        // The length of a pipe or a device says nothing.
        let bytes = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
        Ok(Self { lines: Box::new(BufReader::with_capacity(BUFFER_BYTES, file)), bytes })
    }
}

/// Imports `input` into `store`. Skips rows that are there already.
///
/// # Errors
/// See [`TransferError`]. The rows imported so far stay, and the next import skips them.
pub fn import(store: &dyn DedupStore, input: Input, options: &ImportOptions) -> Result<(), TransferError> {
    let Input { lines: input, bytes } = input;
    let (send, batches) = sync_channel(WAITING_BATCHES);
    let partitions = store.partitions();
    let ids_only = options.ids_only;
    let reader = LineReader::new(input, options.clone(), partitions, send);
    let thread = std::thread::Builder::new().name("import-reader".into());
    let reader = thread.spawn(move || reader.run()).map_err(TransferError::io("starting a thread"))?;
    let times = if options.raise_times { Times::Raise } else { Times::Keep };
    // If this fails, the reader is not waited for. It may be waiting for a line that never comes.
    let (imported, progress) = commit(
        store,
        &batches,
        times,
        Progress::new("import", bytes.map_or(ExpectedTotal::Unknown, ExpectedTotal::Bytes), 0),
    )?;
    let read = reader.join();
    read.unwrap_or_else(|_| Err(TransferError::Refused("the thread that reads panicked".into())))?;
    let Imported { added, present, .. } = imported;
    let what = if ids_only { "identities" } else { "rows" };
    progress.done(&format!("imported {added} {what}, {present} were there already"));
    Ok(())
}

/// Commits one batch after the other.
fn commit(
    store: &dyn DedupStore,
    batches: &Receiver<RowBatch>,
    times: Times,
    mut progress: Progress,
) -> Result<(Imported, Progress), TransferError> {
    let mut imported = Imported::default();
    for batch in batches {
        for (partition, part) in store.partitions().iter().zip(&batch.parts) {
            imported += part.import(store, partition, times)?;
        }
        progress.at(imported.added + imported.present, batch.read_to);
    }
    Ok((imported, progress))
}

/// Rows of one commit per partition.
pub(super) struct RowBatch {
    pub(super) parts: Vec<PartitionRows>,
    rows: usize,
    bytes: usize,
    /// How many bytes of the input were read up to here.
    read_to: u64,
}

#[derive(Default)]
pub(super) struct PartitionRows {
    pub(super) rows: Vec<CheckedRow>,
    pub(super) topics: Vec<TopicInfo>,
    /// The numbers of their lines: first those of the rows, then those of the topics, which come last in an export.
    pub(super) lines: Vec<u64>,
}

impl RowBatch {
    fn new(partitions: Partitions) -> Self {
        Self {
            parts: partitions.iter().map(|_| PartitionRows::default()).collect(),
            rows: 0,
            bytes: 0,
            read_to: 0,
        }
    }
}

impl PartitionRows {
    fn import(
        &self,
        store: &dyn DedupStore,
        partition: Partition,
        times: Times,
    ) -> Result<Imported, TransferError> {
        if self.lines.is_empty() {
            return Ok(Imported::default());
        }
        let import = Import { rows: &self.rows, topics: &self.topics, times };
        store.import(partition, import).map_err(|error| match error {
            StoreError::Invalid(faults) => {
                let fault = &faults[0];
                let number = fault.index.and_then(|index| self.lines.get(index)).copied().unwrap_or(0);
                let reason = format!("is refused, and nothing of its batch was stored. {}", fault.error);
                TransferError::Line { number, reason }
            }
            other => other.into(),
        })
    }
}

/// Reads lines and gathers them in batches.
pub(super) struct LineReader {
    input: Box<dyn BufRead + Send>,
    options: ImportOptions,
    partitions: Partitions,
    send: SyncSender<RowBatch>,
    batch: RowBatch,
    line: Vec<u8>,
    /// Whether the line has no end.
    is_cut: bool,
    number: u64,
    bytes: u64,
}

const CUT_OFF: &str = "is missing or has no end: the export was cut off. What comes before it is imported; let the export \
     go on, or export anew, and import all of it";

/// Nobody takes batches any more. The other thread says why.
struct Stopped;

impl LineReader {
    pub(super) fn new(
        input: Box<dyn BufRead + Send>,
        options: ImportOptions,
        partitions: Partitions,
        send: SyncSender<RowBatch>,
    ) -> Self {
        let batch = RowBatch::new(partitions);
        Self { input, options, partitions, send, batch, line: Vec::new(), is_cut: false, number: 0, bytes: 0 }
    }

    pub(super) fn run(mut self) -> Result<(), TransferError> {
        let read = if self.options.ids_only { self.identities() } else { self.export() };
        // Even after a bad line, the lines before it are committed. The other thread knows whether that succeeded.
        let _ = self.flush();
        read
    }

    fn identities(&mut self) -> Result<(), TransferError> {
        let now = Timestamp::now();
        while self.next_line()? {
            if self.line.is_empty() {
                continue;
            }
            let row = format::read_identity(&self.line, now).map_err(|reason| self.fault(reason))?;
            if let Err(Stopped) = self.push(row) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn export(&mut self) -> Result<(), TransferError> {
        self.header()?;
        let mut read = RowCounts::default();
        let mut ended = false;
        while self.next_line()? {
            if ended {
                return Err(self.fault("follows the last line of an export: import one export at a time"));
            }
            if self.is_cut {
                return Err(self.fault(CUT_OFF));
            }
            let pushed = match format::read_line(&mut self.line).map_err(|reason| self.fault(reason))? {
                Line::Row(_) if read.topics > 0 => {
                    return Err(self.fault("is a row behind the totals: export anew"));
                }
                Line::Row(row) => {
                    read.count(&row);
                    self.push(*row)
                }
                Line::Totals(info) => {
                    read.topics += 1;
                    self.push_topic(info)
                }
                Line::End(counts) => {
                    if counts != read {
                        let reason = format!("says {counts:?}, but there were {read:?}: lines are missing");
                        return Err(self.fault(reason));
                    }
                    ended = true;
                    Ok(())
                }
                Line::Checkpoint(checkpoint) if checkpoint.written != read => {
                    let reason =
                        format!("says {:?}, but there were {read:?}: lines are missing", checkpoint.written);
                    return Err(self.fault(reason));
                }
                Line::Checkpoint(_) => Ok(()),
                Line::Header(_) => return Err(self.fault("is a second header: import one export at a time")),
            };
            if let Err(Stopped) = pushed {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
        self.number += 1;
        Err(self.fault(CUT_OFF))
    }

    fn header(&mut self) -> Result<(), TransferError> {
        let not_one = "is not the first line of an export: name a file that `export` wrote, or say --ids-only \
                       for a list of identities";
        if !self.next_line()? {
            self.number = 1;
            return Err(self.fault(not_one));
        }
        match format::read_line(&mut self.line) {
            Ok(Line::Header(Header { export: format::VERSION, .. })) => Ok(()),
            Ok(Line::Header(Header { export, .. })) => {
                let known = format::VERSION;
                Err(self.fault(format!(
                    "says format {export}, this program knows format {known}: use the program that wrote it"
                )))
            }
            _ => Err(self.fault(not_one)),
        }
    }

    /// Reads a line; `false` at the end.
    fn next_line(&mut self) -> Result<bool, TransferError> {
        self.line.clear();
        let most = self.options.max_line_bytes.0 as u64 + 1;
        let read = self.input.by_ref().take(most).read_until(b'\n', &mut self.line);
        let read = read.map_err(TransferError::io(format!("reading behind line {}", self.number)))?;
        if read == 0 {
            return Ok(false);
        }
        self.number += 1;
        self.bytes += read as u64;
        if self.number == 1 && self.line.starts_with(BYTE_ORDER_MARK) {
            self.line.drain(..BYTE_ORDER_MARK.len());
        }
        self.is_cut = self.line.last() != Some(&b'\n');
        if !self.is_cut {
            self.line.pop();
        } else if read as u64 == most {
            let limit = self.options.max_line_bytes;
            return Err(self.fault(format!("is longer than --max-line-bytes {limit}: raise it")));
        }
        Ok(true)
    }

    fn fault(&self, reason: impl Into<String>) -> TransferError {
        TransferError::Line { number: self.number, reason: reason.into() }
    }

    fn push(&mut self, row: CheckedRow) -> Result<(), Stopped> {
        let part = &mut self.batch.parts[usize::from(self.partitions.of(&row.topic).0)];
        part.rows.push(row);
        part.lines.push(self.number);
        self.count()
    }

    fn push_topic(&mut self, info: TopicInfo) -> Result<(), Stopped> {
        let part = &mut self.batch.parts[usize::from(self.partitions.of(info.topic.as_str()).0)];
        part.topics.push(info);
        part.lines.push(self.number);
        self.count()
    }

    fn count(&mut self) -> Result<(), Stopped> {
        self.batch.rows += 1;
        self.batch.bytes += self.line.len();
        if self.batch.rows >= self.options.batch_rows.get() || self.batch.bytes >= self.options.batch_bytes.0
        {
            return self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        let mut batch = std::mem::replace(&mut self.batch, RowBatch::new(self.partitions));
        batch.read_to = self.bytes;
        self.send.send(batch).map_err(|_| Stopped)
    }
}
