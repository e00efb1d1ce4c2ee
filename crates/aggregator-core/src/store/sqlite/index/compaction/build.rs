//! What the index's helper does: it prepares what the writer writes, sorts, merges and makes maplets.

use std::ops::ControlFlow::Continue;
use std::ops::Range;
use std::sync::Arc;

use rusqlite::Connection;

use crate::store::sqlite::index::filter::bloom::{Bloom, Next};
use crate::store::sqlite::index::filter::bloom_backfill::{Backfill, Backfilled};
use crate::store::sqlite::index::filter::maplet_union::{MapletUnion, UnitedMaplets};
use crate::store::sqlite::index::layout;
use crate::store::sqlite::index::lookup::Chunks;
use crate::store::sqlite::index::manifest::RunEntry;
use crate::store::sqlite::index::run::Run;
use crate::store::sqlite::index::run::section::{NewSection, Section};
use crate::store::sqlite::index::{Entry, Memtable};

/// A piece of work.
pub(crate) enum Task {
    Write(Write),
    MapletUnion(MapletUnion),
    Backfill(Backfill),
}

/// What comes to sections that have to be written.
pub(crate) enum Write {
    /// All of a new run.
    Flush { run: RunEntry, through: u64, sealed: Arc<Memtable>, bloom: Next },
    /// The next sections of a merge.
    Merge { run: RunEntry, sections: Range<u32>, inputs: Vec<Input>, bloom: Option<Arc<Bloom>> },
}

/// What a task came to.
pub(crate) enum Built {
    Slice(Slice),
    UnitedMaplets(UnitedMaplets),
    Backfilled(Backfilled),
}

/// Sections that a new one takes its entries from.
pub(crate) struct Input {
    run: u32,
    section: u32,
    head: Section,
}

impl Input {
    /// What a merge needs of these runs for a section.
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
    /// As it is in the manifest once they are written.
    pub(crate) run: RunEntry,
    pub(crate) sections: Vec<NewSection>,
    /// Of a flush: the offset up to which the runs cover the log then.
    pub(crate) through: Option<u64>,
    /// The Bloom filter that all of the run is in.
    pub(crate) bloom: Option<Arc<Bloom>>,
}

/// Does a task.
pub(crate) fn run(connection: &Connection, task: Task) -> rusqlite::Result<Built> {
    match task {
        Task::Write(write) => build(connection, write).map(Built::Slice),
        Task::MapletUnion(join) => Ok(Built::UnitedMaplets(join.run())),
        Task::Backfill(cover) => cover.run(connection).map(Built::Backfilled),
    }
}

/// Makes what is to be written.
pub(crate) fn build(connection: &Connection, write: Write) -> rusqlite::Result<Slice> {
    match write {
        Write::Flush { run, through, sealed, bloom } => {
            let mut entries: Vec<Entry> = sealed.entries().collect();
            entries.sort_unstable();
            let bloom = bloom.get_or_make();
            if let Some(bloom) = &bloom {
                bloom.add(&entries);
            }
            let sections = sections(&run, 0..run.sections(), &entries);
            Ok(Slice { run, sections, through: Some(through), bloom })
        }
        Write::Merge { mut run, sections: numbers, inputs, bloom } => {
            let range = span(run.bits, &numbers);
            // One state of the file, and a short look at it.
            let snapshot = connection.unchecked_transaction()?;
            let mut chunks = Chunks::new(&snapshot)?;
            let mut sorted = Vec::new();
            for of_run in inputs.chunk_by(|a, b| a.run == b.run) {
                let mut entries = Vec::new();
                for input in of_run {
                    let numbers = input.head.chunks(range.start..=range.end - 1);
                    entries.reserve(input.head.entries_of(numbers.len()));
                    for number in numbers {
                        chunks.read(layout::chunk_key(input.run, input.section, number), |entry| {
                            if range.contains(&entry.fingerprint) {
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
            let entries = merge(&sorted, &range);
            run.written = numbers.end;
            let sections = sections(&run, numbers, &entries);
            Ok(Slice { run, sections, through: None, bloom })
        }
    }
}

/// All entries in order. They come sorted from each run, and their fingerprints are spread evenly: of a small part of
/// the range each run has a few, which are sorted where they are put together.
fn merge(runs: &[Vec<Entry>], range: &Range<u64>) -> Vec<Entry> {
    /// About how many entries a part of the range has.
    const TOGETHER: usize = 16;
    let mut rest: Vec<&[Entry]> = runs.iter().map(Vec::as_slice).collect();
    let count = rest.iter().map(|run| run.len()).sum();
    let mut merged = Vec::with_capacity(count);
    let width = (range.end - range.start) / (count / TOGETHER + 1) as u64 + 1;
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

/// The fingerprints of these sections.
pub(crate) fn span(bits: u32, sections: &Range<u32>) -> Range<u64> {
    layout::fingerprints(bits, sections.start).start..layout::fingerprints(bits, sections.end - 1).end
}

/// Shares sorted entries out to their sections.
fn sections(run: &RunEntry, numbers: Range<u32>, mut entries: &[Entry]) -> Vec<NewSection> {
    let section = |number| {
        let end = layout::fingerprints(run.bits, number).end;
        let (of_section, after) = entries.split_at(entries.partition_point(|entry| entry.fingerprint < end));
        entries = after;
        NewSection::of(run, number, of_section)
    };
    numbers.map(section).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the fingerprints are spread, and where there are none, or equal ones.
    #[test]
    fn a_merge_is_all_entries_in_order() {
        let entry = |fingerprint, offset| Entry { fingerprint, offset };
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
                // The last one has none.
                runs[n % 4].push(entry);
            }
            runs.iter_mut().for_each(|run| run.sort_unstable());
            all.sort_unstable();
            assert_eq!(merge(&runs, &(0..1 << 47)), all);
        }
    }
}
