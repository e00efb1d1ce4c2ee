//! `export`: writes everything that a store keeps.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::num::NonZeroU64;
use std::path::Path;

use aggregator_core::store::Rows;
use aggregator_core::{DedupStore, Kept, StoreError, TopicQuery};

use program_support::values::at_least;

use super::export_file::{self, ExportFile};
use super::format::{self, Header, ResumePoint, RowCounts};
use super::progress::{ExpectedTotal, Progress};
use super::{FileOrStdio, TransferError};

/// How many bytes are gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// What to export, and where to.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct ExportOptions {
    /// The file to write, or - for standard output. If an interrupted export left the file behind, this one continues
    /// it; a pipe or a device is written from the beginning
    #[arg(long, value_name = "FILE")]
    pub out: FileOrStdio,

    /// Rows between two places from which an interrupted export can go on
    #[arg(long, default_value = "100000", value_name = "N", value_parser = at_least::<NonZeroU64>(1))]
    pub checkpoint_rows: NonZeroU64,
}

/// Writes everything that `store` keeps. Nobody may change the store meanwhile.
///
/// # Errors
/// See [`TransferError`]. The next export continues a file that this one leaves behind.
pub fn export(store: &dyn DedupStore, options: &ExportOptions) -> Result<(), TransferError> {
    let info = store.info();
    let header = Header {
        export: format::VERSION,
        store: info.id.to_string(),
        kind: info.kind.to_owned(),
        partitions: info.partitions.count(),
    };
    let mut line = Vec::new();
    header.write(&mut line).map_err(not_json)?;
    let (target, begun) = match &options.out {
        #[expect(
            clippy::disallowed_methods,
            reason = "an export waits for its reader, and its errors are told"
        )]
        FileOrStdio::Stdio => (ExportTarget::Stdio(io::stdout()), None),
        FileOrStdio::File(path) if is_stream(path) => {
            let opened = File::options().write(true).open(path);
            (ExportTarget::Stream(opened.map_err(TransferError::io(path.display().to_string()))?), None)
        }
        FileOrStdio::File(path) => {
            let ExportFile { file, resume_point } = export_file::open(path, &header, &line)?;
            (ExportTarget::File(file), resume_point)
        }
    };
    let TopicSums { purged, seqs, .. } = totals(store, |_| Ok(()))?;
    if begun.as_ref().is_some_and(|begun| begun.written.rows() > 0 && begun.purged != purged) {
        return Err(TransferError::Refused(
            "events were purged since the export began, and those before the interruption are in it: remove \
             the file, and export anew"
                .into(),
        ));
    }
    let new = begun.is_none();
    let nothing =
        || ResumePoint { offsets: vec![0; usize::from(header.partitions)], ..ResumePoint::default() };
    let begun = begun.unwrap_or_else(nothing);
    let progress = Progress::new("export", ExpectedTotal::Rows(seqs), begun.written.rows());
    let mut export =
        Exporter { target, buffer: Vec::new(), bytes: 0, written: begun.written, purged, progress };
    if new {
        export.buffer = line;
        export.flush()?;
    }
    export.run(store, &begun.offsets, options.checkpoint_rows)
}

/// Whether `path` is a pipe, a terminal or a device: something that cannot be read back.
fn is_stream(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Where the lines are written.
enum ExportTarget {
    Stdio(io::Stdout),
    /// A stream is neither read nor synced, so no export can be continued there.
    Stream(File),
    File(File),
}

struct Exporter {
    target: ExportTarget,
    /// Lines that are not written yet.
    buffer: Vec<u8>,
    bytes: u64,
    written: RowCounts,
    purged: u64,
    progress: Progress,
}

impl Exporter {
    fn run(
        mut self,
        store: &dyn DedupStore,
        offsets: &[u64],
        every: NonZeroU64,
    ) -> Result<(), TransferError> {
        let mut rows = Rows::after(store, offsets);
        let mut since_checkpoint = 0;
        while let Some(row) = rows.next()? {
            if row.kept == (Kept::Forgotten { seq: 0 }) {
                // Identities without seqs were forgotten: there is no gap to tell of.
                continue;
            }
            format::write_row(&mut self.buffer, &row).map_err(not_json)?;
            self.written.count(&row);
            if self.buffer.len() >= BUFFER_BYTES {
                self.flush()?;
            }
            since_checkpoint += 1;
            if since_checkpoint == every.get() {
                since_checkpoint = 0;
                self.checkpoint(rows.offsets().collect())?;
            }
        }
        let buffer = &mut self.buffer;
        let totals = totals(store, |info| format::write_totals(buffer, info).map_err(not_json))?;
        if self.written.with_seqs() > totals.seqs {
            // Stubs, and behind them the mark that stands for the same ones.
            return Err(TransferError::Refused(
                "identities were forgotten since the export began, and some of them are in it: remove the file, and export \
                 anew"
                    .into(),
            ));
        }
        if totals.seqs != self.written.with_seqs() || totals.purged != self.purged {
            return Err(TransferError::Refused(
                "the store was changed while it was exported: see to it that nobody uses it, and run the export \
                 again"
                    .into(),
            ));
        }
        self.written.topics = totals.topics;
        format::write_end(&mut self.buffer, self.written).map_err(not_json)?;
        self.flush()?;
        self.sync()?;
        let RowCounts { events, stubs, identities, forgotten, topics } = self.written;
        let forgotten = if forgotten > 0 { format!(", {forgotten} forgotten") } else { String::new() };
        let text = format!(
            "exported {events} events, {stubs} stubs, {identities} identities alone, {topics} topics{forgotten}"
        );
        self.progress.done(&text);
        Ok(())
    }

    /// Writes a checkpoint, after everything before it is synced.
    fn checkpoint(&mut self, offsets: Vec<u64>) -> Result<(), TransferError> {
        if !matches!(self.target, ExportTarget::File(_)) {
            return Ok(());
        }
        self.flush()?;
        self.sync()?;
        let resume_point = ResumePoint { written: self.written, purged: self.purged, offsets };
        format::write_checkpoint(&mut self.buffer, resume_point).map_err(not_json)?;
        self.flush()
    }

    fn flush(&mut self) -> Result<(), TransferError> {
        match &mut self.target {
            ExportTarget::Stdio(out) => {
                out.write_all(&self.buffer).and_then(|()| out.flush()).map_err(not_printed)?;
            }
            ExportTarget::Stream(file) | ExportTarget::File(file) => {
                file.write_all(&self.buffer).map_err(TransferError::io("writing the export"))?;
            }
        }
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        self.progress.at(self.written.rows(), self.bytes);
        Ok(())
    }

    fn sync(&self) -> Result<(), TransferError> {
        match &self.target {
            ExportTarget::Stdio(_) | ExportTarget::Stream(_) => Ok(()),
            ExportTarget::File(file) => file.sync_all().map_err(TransferError::io("syncing the export")),
        }
    }
}

/// Sums over all topics.
#[derive(Default)]
struct TopicSums {
    topics: u64,
    /// How many rows have a seq.
    seqs: u64,
    purged: u64,
}

fn totals(
    store: &dyn DedupStore,
    mut each: impl FnMut(&aggregator_core::TopicInfo) -> Result<(), TransferError>,
) -> Result<TopicSums, TransferError> {
    const PAGE: usize = 1_000;
    let mut totals = TopicSums::default();
    let mut query = TopicQuery { limit: PAGE, ..TopicQuery::default() };
    loop {
        let page = store.topics(&query)?;
        for info in &page {
            totals.topics += 1;
            totals.seqs += info.last_seq;
            totals.purged += info.purged_seq;
            each(info)?;
        }
        match page.into_iter().last() {
            Some(last) => query.after = Some(last.topic),
            None => return Ok(totals),
        }
    }
}

fn not_printed(error: io::Error) -> TransferError {
    match error.kind() {
        ErrorKind::BrokenPipe => TransferError::PipeClosed,
        _ => TransferError::io("standard output")(error),
    }
}

fn not_json(error: serde_json::Error) -> TransferError {
    let what = "what is stored as JSON is not".to_owned();
    TransferError::Store(StoreError::Corrupt { what, source: Some(Box::new(error)) })
}
