//! The manifest: one row that says which runs and sections there are.

use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::CREATE;
use super::fingerprint::BITS;
use super::layout;
use crate::store::sqlite::fault::Corruption;

/// The state of the index after some commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Counts the changes.
    #[serde(skip)]
    pub(crate) generation: u64,
    /// The key of the hash that makes fingerprints.
    pub(crate) key: (u64, u64),
    /// The rows up to this offset are in the runs.
    pub(crate) covered: u64,
    /// The number of the next run.
    pub(crate) next_run: u32,
    pub(crate) runs: Vec<RunEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunEntry {
    pub(crate) id: u32,
    pub(crate) level: u8,
    /// It has 2^bits sections.
    pub(crate) bits: u32,
    /// How many sections are written: all of them if there are no inputs.
    pub(crate) written: u32,
    /// How many entries it has, or will have.
    pub(crate) entries: u64,
    /// The runs that are being merged into this one; empty once the merge is complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) inputs: Vec<u32>,
}

impl RunEntry {
    pub(crate) fn sections(&self) -> u32 {
        1 << self.bits
    }

    /// The run is written for all fingerprints below this one.
    fn end(&self) -> u64 {
        u64::from(self.written) << (BITS - self.bits)
    }
}

impl Manifest {
    /// The manifest of an empty index.
    fn new() -> Self {
        // The last 80 bits of a ULID are random.
        let random = || {
            let bytes = ulid::Ulid::generate().0.to_le_bytes();
            u64::from_le_bytes(*bytes.first_chunk().expect("an id has 16 bytes"))
        };
        let key = (random(), random());
        Self { generation: 0, key, covered: 0, next_run: 1, runs: Vec::new() }
    }

    pub(crate) fn run(&self, id: u32) -> Option<&RunEntry> {
        self.runs.iter().find(|run| run.id == id)
    }

    /// The run that this one is being merged into.
    pub(crate) fn merge_target(&self, id: u32) -> Option<&RunEntry> {
        self.runs.iter().find(|run| run.inputs.contains(&id))
    }

    /// The run answers for fingerprints from this one on. While it is merged, the new run answers for those below.
    pub(crate) fn answers_from(&self, id: u32) -> u64 {
        self.merge_target(id).map_or(0, RunEntry::end)
    }

    /// The sections of the run that are in the file.
    pub(crate) fn live_sections(&self, entry: &RunEntry) -> std::ops::Range<u32> {
        layout::section_number(entry.bits, self.answers_from(entry.id))..entry.written
    }

    /// The next manifest, once `run` is written as far as it says.
    pub(crate) fn with_run(&self, run: &RunEntry, covered: Option<u64>) -> Self {
        let mut next = self.clone();
        next.covered = covered.unwrap_or(self.covered);
        next.next_run = self.next_run.max(run.id + 1);
        next.runs.retain(|other| other.id != run.id);
        let mut run = run.clone();
        if run.written == run.sections() {
            let merged = std::mem::take(&mut run.inputs);
            next.runs.retain(|other| !merged.contains(&other.id));
        }
        next.runs.push(run);
        next
    }

    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut select =
            connection.prepare_cached("SELECT generation, manifest, checksum FROM index_manifest")?;
        let row = select.query_row([], |row| {
            let generation: u64 = row.get(0)?;
            let text = row.get_ref(1)?.as_str()?;
            if row.get::<_, i64>(2)? != checksum(generation, text) {
                return Err(damaged("its manifest does not match its checksum"));
            }
            let manifest = Self::parse(text).ok_or_else(|| damaged("its manifest cannot be understood"))?;
            Ok(Self { generation, ..manifest })
        });
        row.optional()?.ok_or_else(|| damaged("it has no manifest"))
    }

    /// The manifest that [`Self::to_text`] wrote, without its generation. `None` if the text is anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(Self::is_sound)
    }

    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("numbers make JSON")
    }

    /// Reads the generation alone.
    pub(crate) fn read_generation(connection: &Connection) -> rusqlite::Result<u64> {
        connection
            .prepare_cached("SELECT generation FROM index_manifest")?
            .query_row([], |row| row.get(0))
            .optional()?
            .ok_or_else(|| damaged("it has no manifest"))
    }

    fn is_sound(&self) -> bool {
        let is_complete = |run: &RunEntry| run.inputs.is_empty() && run.written == run.sections();
        let sound = |run: &RunEntry| {
            run.bits <= layout::MAX_SECTION_BITS
                && run.written <= run.sections()
                && (!run.inputs.is_empty() || is_complete(run))
                && run.inputs.iter().all(|&input| self.run(input).is_some_and(is_complete))
                // The first run of this number.
                && self.run(run.id).is_some_and(|first| std::ptr::eq(first, run))
                && run.id < self.next_run
                // A row has one entry.
                && run.entries <= self.covered
        };
        // The number of the next run may be one too many: then the index has to be made anew.
        self.next_run <= layout::MAX_RUN + 1 && self.runs.iter().all(sound)
    }

    /// Writes it as the next generation.
    pub(crate) fn write(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.generation += 1;
        let text = self.to_text();
        connection
            .prepare_cached(
                "INSERT INTO index_manifest (id, generation, manifest, checksum) VALUES (0, ?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET generation = ?1, manifest = ?2, checksum = ?3",
            )?
            .execute((self.generation, &text, checksum(self.generation, &text)))
            .map(drop)
    }
}

fn checksum(generation: u64, text: &str) -> i64 {
    xxh3_64_with_seed(text.as_bytes(), generation).cast_signed()
}

/// Makes an empty index, whatever was there before. The next start fills it from the events and stubs.
pub(crate) fn reset(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "DROP TABLE IF EXISTS index_manifest;
         DROP TABLE IF EXISTS index_sections;
         DROP TABLE IF EXISTS index_chunks;",
    )?;
    connection.execute_batch(CREATE)?;
    Manifest::new().write(connection)
}

/// The error that some part of the index is not as it was written.
pub(crate) fn damaged(what: impl std::fmt::Display) -> rusqlite::Error {
    Corruption::error(format!(
        "the dedup index: {what} (it can be made anew from the events: aggregator-server check --rebuild-index)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> (Connection, Manifest) {
        let connection = Connection::open_in_memory().unwrap();
        reset(&connection).unwrap();
        let manifest = Manifest::read(&connection).unwrap();
        (connection, manifest)
    }

    /// Whoever has an older one in memory has to notice.
    #[test]
    fn every_write_is_a_generation_of_its_own() {
        let (connection, mut manifest) = empty();
        for _ in 0..3 {
            let before = Manifest::read_generation(&connection).unwrap();
            manifest.write(&connection).unwrap();
            assert_eq!(Manifest::read_generation(&connection).unwrap(), before + 1);
            assert_eq!(Manifest::read(&connection).unwrap(), manifest);
        }
    }

    /// A run that is written next has a key.
    #[test]
    fn a_manifest_whose_numbers_are_more_than_used_up_is_refused() {
        let with = |next_run| Manifest { next_run, ..Manifest::new() }.to_text();
        assert!(Manifest::parse(&with(layout::MAX_RUN + 1)).is_some());
        assert!(Manifest::parse(&with(layout::MAX_RUN + 2)).is_none());
    }

    #[test]
    fn a_manifest_that_no_program_of_this_version_writes_is_refused() {
        let run = |id| RunEntry { id, level: 0, bits: 1, written: 2, entries: 10, inputs: Vec::new() };
        let merged = RunEntry { written: 1, inputs: vec![1, 2], ..run(3) };
        let most =
            RunEntry { bits: layout::MAX_SECTION_BITS, written: 1 << layout::MAX_SECTION_BITS, ..run(1) };
        for runs in [vec![], vec![run(1), run(2)], vec![run(1), run(2), merged.clone()], vec![most]] {
            let (connection, mut manifest) = empty();
            (manifest.runs, manifest.covered, manifest.next_run) = (runs, 10, 4);
            manifest.write(&connection).unwrap();
            assert_eq!(Manifest::read(&connection).unwrap(), manifest);
        }
        let bits = layout::MAX_SECTION_BITS + 1;
        let of_merged = RunEntry { id: 4, inputs: vec![3], ..merged.clone() };
        for (what, runs) in [
            ("more sections than keys", vec![RunEntry { bits, written: 1 << bits, ..run(1) }]),
            ("more sections written than there are", vec![RunEntry { written: 3, ..run(1) }]),
            ("unfinished, and merged from none", vec![RunEntry { written: 1, ..run(1) }]),
            ("merged from a run that is not there", vec![run(1), merged.clone()]),
            ("merged from itself", vec![RunEntry { inputs: vec![3], ..merged.clone() }]),
            ("merged from one that is not complete", vec![run(1), run(2), merged.clone(), of_merged]),
            ("a number twice", vec![run(1), run(1)]),
            ("a number that is not given out yet", vec![run(5)]),
            ("more entries than rows", vec![RunEntry { entries: 11, ..run(1) }]),
        ] {
            let (connection, mut manifest) = empty();
            (manifest.runs, manifest.covered, manifest.next_run) = (runs, 10, 5);
            manifest.write(&connection).unwrap();
            let error = Manifest::read(&connection).unwrap_err().to_string();
            assert!(error.contains("cannot be understood"), "{what}: {error}");
        }
    }
}
