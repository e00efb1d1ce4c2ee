//! Checks of the parsers of exports: see [`crate::fuzz`].

use std::io::Cursor;
use std::num::NonZeroUsize;
use std::sync::mpsc::sync_channel;

use aggregator_core::{Partitions, Timestamp};
use xxhash_rust::xxh3::xxh3_64;

use super::format::{self, Line};
use super::import::{ImportOptions, LineReader, RowBatch};
use super::{FileOrStdio, TransferError};
use crate::config::ByteSize;

/// The longest line that is taken.
const LINE_BYTES: usize = 1 << 10;

/// An export. Then the same lines with the sums that fit.
pub fn export_lines(data: &[u8]) {
    check_export(data);
    let mut with_sums = Vec::new();
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        let Some(open) = line.strip_suffix(b"}\n") else {
            with_sums.extend(line);
            continue;
        };
        with_sums.extend(open);
        with_sums.extend(format!(",\"sum\":\"{:016x}\"}}\n", xxh3_64(open)).as_bytes());
    }
    check_export(&with_sums);
}

fn check_export(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        check_line(line);
    }
    let (batch, end) = import(data, false);
    check_batch(&batch, data);
    check_end(end, data);
}

/// A line is read as it is written, whichever kind it is.
fn check_line(line: &[u8]) {
    let mut copy = line.to_vec();
    let read = match format::read_line(&mut copy) {
        Ok(read) => read,
        Err(reason) => return assert!(!reason.is_empty()),
    };
    let mut written = Vec::new();
    match &read {
        Line::Header(header) => header.write(&mut written),
        Line::Row(row) => format::write_row(&mut written, row),
        Line::Checkpoint(resume_point) => format::write_checkpoint(&mut written, resume_point.clone()),
        Line::Totals(info) => format::write_totals(&mut written, info),
        Line::End(counts) => format::write_end(&mut written, *counts),
    }
    .expect("what was read is JSON");
    assert_eq!(written.pop(), Some(b'\n'));
    assert!(!written.contains(&b'\n'), "it is two lines");
    let again = format::read_line(&mut written).expect("it was just written");
    assert_eq!(format!("{again:?}"), format!("{read:?}"), "it is not read as it is written");
}

/// A list of identities.
pub fn identity_lines(data: &[u8]) {
    let (batch, end) = import(data, true);
    check_batch(&batch, data);
    check_end(end, data);
    let now = Timestamp::from_micros(0);
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(row) = format::read_identity(line, now) {
            let mut written = Vec::new();
            format::write_row(&mut written, &row).expect("an identity is JSON");
            written.pop();
            let Ok(Line::Row(again)) = format::read_line(&mut written) else { panic!("{row:?} is no row") };
            // An export says the scope.
            let scope = Some(row.scope.unwrap_or_default());
            assert_eq!(again.into_inner(), aggregator_core::StoredRow { scope, ..row.into_inner() });
        }
    }
}

/// What an import takes, and how it ends.
fn import(data: &[u8], ids_only: bool) -> (RowBatch, Result<(), TransferError>) {
    let options = ImportOptions {
        input: FileOrStdio::Stdio,
        ids_only,
        raise_times: false,
        batch_rows: NonZeroUsize::MAX,
        batch_bytes: ByteSize(usize::MAX),
        max_line_bytes: ByteSize(LINE_BYTES),
    };
    let partitions = Partitions::new(3).expect("it is between 1 and 1,024");
    let (send, batches) = sync_channel(1);
    let end = LineReader::new(Box::new(Cursor::new(data.to_vec())), options, partitions, send).run();
    (batches.recv().expect("one comes at the end"), end)
}

fn check_batch(batch: &RowBatch, data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').count() as u64;
    for part in &batch.parts {
        assert_eq!(part.lines.len(), part.rows.len() + part.topics.len());
        assert!(part.lines.is_sorted_by(|a, b| a < b) && part.lines.iter().all(|n| (1..=lines).contains(n)));
    }
    let rows: usize = batch.parts.iter().map(|part| part.lines.len()).sum();
    assert!(rows as u64 <= lines, "{rows} rows of {lines} lines");
}

fn check_end(end: Result<(), TransferError>, data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').count() as u64;
    match end {
        Ok(()) => {
            let longest = data.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
            assert!(
                longest.is_none_or(|longest| longest <= LINE_BYTES + 3),
                "a line is longer than the limit"
            );
        }
        Err(TransferError::Line { number, reason }) => {
            assert!(
                (1..=lines + 1).contains(&number) && !reason.is_empty(),
                "line {number} of {lines}: {reason}"
            );
        }
        Err(error) => panic!("{error}"),
    }
}
