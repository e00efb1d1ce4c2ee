//! The file of an export: a new one, or one that an interruption left behind.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::TransferError;
use super::format::{self, Header, Line, ResumePoint};

/// Only the line of a checkpoint begins so.
const CHECKPOINT: &[u8] = b"\n{\"checkpoint\":";

/// Longer than any header is.
const MAX_HEADER_BYTES: u64 = 4096;

/// A file that ends behind its header or behind a checkpoint.
pub(super) struct ExportFile {
    pub(super) file: File,
    /// What the file holds already; `None` for a new file.
    pub(super) resume_point: Option<ResumePoint>,
}

/// Opens the file at `path` for an export of the store with this header. `line` is the header as it is written.
pub(super) fn open(path: &Path, header: &Header, line: &[u8]) -> Result<ExportFile, TransferError> {
    let failed = |error| TransferError::io(path.display().to_string())(error);
    let mut options = OpenOptions::new();
    // An export holds everything that the store holds, so only the owner may read it.
    let file = match options.read(true).write(true).create_new(true).mode(0o600).open(path) {
        Ok(new) => {
            let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new(".")))
                .and_then(|directory| directory.sync_all())
                .map_err(failed)?;
            new
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            OpenOptions::new().read(true).write(true).open(path).map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let what = format!("{} is being written by another export", path.display());
            return Err(TransferError::Refused(what));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let resumed = resume(file, header, line).map_err(failed)?;
    resumed.map_err(|why| TransferError::Refused(format!("{} {why}", path.display())))
}

/// Cuts the file off behind its last checkpoint, or says why the file stays as it is.
fn resume(mut file: File, header: &Header, line: &[u8]) -> io::Result<Result<ExportFile, String>> {
    let mut first = Vec::new();
    BufReader::new((&file).take(MAX_HEADER_BYTES)).read_until(b'\n', &mut first)?;
    if line.starts_with(&first) && first.len() < line.len() {
        // The file is empty, or its header was cut off.
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        return Ok(Ok(ExportFile { file, resume_point: None }));
    }
    let header_bytes = first.len() as u64;
    let theirs = first.pop().and_then(|_| format::read_line(&mut first).ok());
    let Some(Line::Header(theirs)) = theirs else {
        return Ok(Err("exists and is no export: name another file".into()));
    };
    if theirs != *header {
        let why = format!(
            "is an export of another store ({}, this one is {}): name another file",
            theirs.store, header.store
        );
        return Ok(Err(why));
    }
    if let Some(Line::End(_)) = last_line(&mut file)? {
        return Ok(Err("is a complete export already: name another file".into()));
    }
    let (resume_point, end) = match last_checkpoint(&mut file)? {
        Some((resume_point, end)) => (resume_point, end),
        None => (ResumePoint::default(), header_bytes),
    };
    let offsets = usize::from(header.partitions);
    let resume_point = if resume_point.offsets.is_empty() {
        ResumePoint { offsets: vec![0; offsets], ..resume_point }
    } else {
        resume_point
    };
    if resume_point.offsets.len() != offsets {
        return Ok(Err("has a checkpoint of other partitions: remove it, and export anew".into()));
    }
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    Ok(Ok(ExportFile { file, resume_point: Some(resume_point) }))
}

/// The line at the end of the file, if it is whole.
fn last_line(file: &mut File) -> io::Result<Option<Line>> {
    const MAX_END_BYTES: u64 = 4096;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_END_BYTES)))?;
    let mut tail = Vec::new();
    file.take(MAX_END_BYTES).read_to_end(&mut tail)?;
    if tail.pop() != Some(b'\n') {
        return Ok(None);
    }
    let start = tail.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    Ok(format::read_line(&mut tail.split_off(start)).ok())
}

/// The last whole checkpoint, and where its line ends. Searches backwards, because it is not far from the end.
fn last_checkpoint(file: &mut File) -> io::Result<Option<(ResumePoint, u64)>> {
    const BLOCK: u64 = 1 << 20;
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        let mut block = Vec::new();
        // With a little of the next block, so that a checkpoint at the edge is found.
        file.take(end - start + CHECKPOINT.len() as u64).read_to_end(&mut block)?;
        let mut search = block.as_slice();
        while let Some(at) = search.windows(CHECKPOINT.len()).rposition(|window| window == CHECKPOINT) {
            if let Some(found) = checkpoint_at(file, start + at as u64 + 1)? {
                return Ok(Some(found));
            }
            search = &search[..at];
        }
        end = start;
    }
    Ok(None)
}

fn checkpoint_at(file: &mut File, start: u64) -> io::Result<Option<(ResumePoint, u64)>> {
    file.seek(SeekFrom::Start(start))?;
    let mut line = Vec::new();
    BufReader::new(file).read_until(b'\n', &mut line)?;
    let end = start + line.len() as u64;
    if line.pop() != Some(b'\n') {
        return Ok(None);
    }
    Ok(match format::read_line(&mut line) {
        Ok(Line::Checkpoint(resume_point)) => Some((resume_point, end)),
        _ => None,
    })
}
