//! The tasks of the index's helper thread: it sorts, merges, and makes the sections that the writer will write.

use std::ops::ControlFlow::{Break, Continue};
use std::ops::Range;
use std::sync::Arc;

use rusqlite::Connection;

use crate::store::sqlite::index::filter::bloom::{Bloom, FlushBloom};
use crate::store::sqlite::index::filter::bloom_backfill::{Backfill, Backfilled};
use crate::store::sqlite::index::filter::maplet_union::{MapletUnion, UnitedMaplets};
use crate::store::sqlite::index::layout;
use crate::store::sqlite::index::lookup::ChunkReader;
use crate::store::sqlite::index::manifest::RunEntry;
use crate::store::sqlite::index::run::Run;
use crate::store::sqlite::index::run::section::{NewSection, Section};
use crate::store::sqlite::index::{IndexEntry, Memtable};
use crate::store::sqlite::row::gap::Gap;

/// One task of the helper thread.
pub(crate) enum Task {
    Write(WriteTask),
    MapletUnion(MapletUnion),
    Backfill(Backfill),
}

/// A task whose result is a slice: sections that have to be written.
pub(crate) enum WriteTask {
    /// All of a new run.
    Flush { run: RunEntry, through: u64, sealed: Arc<Memtable>, bloom: FlushBloom },
    /// The next sections of a merge.
    Merge { run: RunEntry, sections: Range<u32>, inputs: Vec<InputSection>, bloom: Option<Arc<Bloom>> },
}

/// The result of a task.
pub(crate) enum TaskOutput {
    Slice(Slice),
    UnitedMaplets(UnitedMaplets),
    Backfilled(Backfilled),
}

/// A section of an old run that a merge reads.
pub(crate) struct InputSection {
    run: u32,
    section: u32,
    head: Section,
}

impl InputSection {
    /// The sections of these runs that a merge of this range reads.
    pub(crate) fn of<'r>(runs: impl Iterator<Item = &'r Run>, range: &Range<u64>) -> Vec<Self> {
        let of = |run: &'r Run| {
            let id = run.id;
            run.overlapping(range).map(move |(section, head)| Self { run: id, section, head })
        };
        runs.flat_map(of).collect()
    }
}

/// Sections that are ready to be written.
pub(crate) struct Slice {
    /// The run as the manifest will have it, once the sections are written.
    pub(crate) run: RunEntry,
    pub(crate) sections: Vec<NewSection>,
    /// After a flush, the runs cover the log up to this offset. `None` for a merge.
    pub(crate) through: Option<u64>,
    /// The Bloom filter that has all entries of the run.
    pub(crate) bloom: Option<Arc<Bloom>>,
}

/// Runs a task.
pub(crate) fn run(connection: &Connection, task: Task) -> rusqlite::Result<TaskOutput> {
    match task {
        Task::Write(write) => build(connection, write).map(TaskOutput::Slice),
        Task::MapletUnion(union) => Ok(TaskOutput::UnitedMaplets(union.run())),
        Task::Backfill(backfill) => backfill.run(connection).map(TaskOutput::Backfilled),
    }
}

/// Makes the sections of a slice.
pub(crate) fn build(connection: &Connection, write: WriteTask) -> rusqlite::Result<Slice> {
    match write {
        WriteTask::Flush { run, through, sealed, bloom } => {
            let mut entries: Vec<IndexEntry> = sealed.entries().collect();
            entries.sort_unstable();
            let bloom = bloom.get_or_create();
            if let Some(bloom) = &bloom {
                bloom.add(&entries);
            }
            let sections = split_into_sections(&run, 0..run.sections(), &entries);
            Ok(Slice { run, sections, through: Some(through), bloom })
        }
        WriteTask::Merge { mut run, sections: numbers, inputs, bloom } => {
            let range = fingerprint_range(run.bits, &numbers);
            // A read transaction, so that all chunks are of one commit. It ends before the entries are merged.
            let snapshot = connection.unchecked_transaction()?;
            let forgotten = oldest_gaps(&snapshot)?;
            let mut chunks = ChunkReader::new(&snapshot)?;
            let mut sorted = Vec::new();
            for of_run in inputs.chunk_by(|a, b| a.run == b.run) {
                let mut entries = Vec::new();
                for input in of_run {
                    let numbers = input.head.chunks(range.start..=range.end - 1);
                    entries.reserve(input.head.entries_of(numbers.len()));
                    for number in numbers {
                        chunks.read(layout::chunk_key(input.run, input.section, number), |entry| {
                            if range.contains(&entry.fingerprint) && !are_at(&forgotten, entry.offset) {
                                entries.push(entry);
                            }
                            Continue(())
                        })?;
                    }
                }
                sorted.push(entries);
            }
            drop(chunks);
            drop(snapshot);
            let entries = merge_sorted(&sorted, &range);
            run.written = numbers.end;
            let sections = split_into_sections(&run, numbers, &entries);
            Ok(Slice { run, sections, through: None, bloom })
        }
    }
}

/// The gaps of rows that were forgotten, whose entries a merge leaves out. Not more than fit into little memory: entries that are
/// left in lead nowhere, and the next merge has another chance.
fn oldest_gaps(snapshot: &Connection) -> rusqlite::Result<Vec<Gap>> {
    const MOST: usize = 1 << 16;
    let mut gaps = Vec::new();
    Gap::each_within(snapshot, 0, i64::MAX.cast_unsigned(), |gap| {
        gaps.push(gap);
        if gaps.len() < MOST { Continue(()) } else { Break(()) }
    })?;
    Ok(gaps)
}

fn are_at(gaps: &[Gap], offset: u64) -> bool {
    let behind = gaps.partition_point(|gap| gap.first <= offset);
    behind > 0 && gaps[behind - 1].last >= offset
}

/// All entries in order. Each run is sorted, and fingerprints are spread evenly. So the range is cut into many small
/// parts: each run adds its few entries of a part, and the part is sorted in place.
fn merge_sorted(runs: &[Vec<IndexEntry>], range: &Range<u64>) -> Vec<IndexEntry> {
    /// About how many entries a part of the range has.
    const ENTRIES_PER_PART: usize = 16;
    let mut rest: Vec<&[IndexEntry]> = runs.iter().map(Vec::as_slice).collect();
    let count = rest.iter().map(|run| run.len()).sum();
    let mut merged = Vec::with_capacity(count);
    let width = (range.end - range.start) / (count / ENTRIES_PER_PART + 1) as u64 + 1;
    let mut end = range.start;
    while merged.len() < count {
        end += width;
        let first = merged.len();
        for run in &mut rest {
            let taken = run.iter().take_while(|entry| entry.fingerprint < end).count();
            let (part, after) = run.split_at(taken);
            merged.extend_from_slice(part);
            *run = after;
        }
        merged[first..].sort_unstable();
    }
    merged
}

/// The range of fingerprints of these sections.
pub(crate) fn fingerprint_range(bits: u32, sections: &Range<u32>) -> Range<u64> {
    layout::section_range(bits, sections.start).start..layout::section_range(bits, sections.end - 1).end
}

/// Splits sorted entries into their sections.
fn split_into_sections(run: &RunEntry, numbers: Range<u32>, mut entries: &[IndexEntry]) -> Vec<NewSection> {
    let section = |number| {
        let end = layout::section_range(run.bits, number).end;
        let (of_section, after) = entries.split_at(entries.partition_point(|entry| entry.fingerprint < end));
        entries = after;
        NewSection::of(run, number, of_section)
    };
    numbers.map(section).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fingerprints may be spread in any way, be equal, or be missing.
    #[test]
    fn a_merge_is_all_entries_in_order() {
        let entry = |fingerprint, offset| IndexEntry { fingerprint, offset };
        let spread = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17;
        for (count, place) in [
            (0, (|n| n) as fn(u64) -> u64),
            (1, |_| (1 << 47) - 1),
            (5_000, spread),
            (5_000, |n| n % 7),
            (5_000, |n| (1 << 47) - 1 - n % 3),
        ] {
            let mut all: Vec<_> = (0..count).map(|n| entry(place(n), n)).collect();
            let mut runs = vec![Vec::new(); 5];
            for (n, &entry) in all.iter().enumerate() {
                // The last run stays empty.
                runs[n % 4].push(entry);
            }
            runs.iter_mut().for_each(|run| run.sort_unstable());
            all.sort_unstable();
            assert_eq!(merge_sorted(&runs, &(0..1 << 47)), all);
        }
    }
}
