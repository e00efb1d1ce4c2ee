//! Adds what was there at start to the Bloom filter that new runs come to.
//!
//! A start does not wait for it: a section's chunks are read at a time, beside appends, and a run is asked behind the filter
//! once all of it is in there. In memory alone, as the filter is.

use std::ops::ControlFlow::Continue;
use std::sync::Arc;

use rusqlite::Connection;

use super::bloom::{self, Bloom, HIGHEST_LEVEL};
use super::filter_group::Runs;
use crate::store::sqlite::index::layout;
use crate::store::sqlite::index::lookup::Chunks;
use crate::store::sqlite::index::manifest::{Manifest, RunEntry};
use crate::store::sqlite::index::run::section::Section;
use crate::store::sqlite::index::{Held, IndexOptions};

/// A section that is to be added.
pub(crate) struct Backfill {
    run: u32,
    number: u32,
    section: Section,
    bloom: Arc<Bloom>,
}

/// So many sections of a run are in the filter.
pub(crate) struct Backfilled {
    pub(crate) run: u32,
    sections: u32,
    bloom: Arc<Bloom>,
}

impl Backfill {
    pub(crate) fn run(self, connection: &Connection) -> rusqlite::Result<Backfilled> {
        let Self { run, number, section, bloom } = self;
        let snapshot = connection.unchecked_transaction()?;
        let mut chunks = Chunks::new(&snapshot)?;
        let mut entries = Vec::with_capacity(section.entries as usize);
        for chunk in 0..section.chunk_count() {
            chunks.read(layout::chunk_key(run, number, chunk), |entry| {
                entries.push(entry);
                Continue(())
            })?;
        }
        bloom.add(&entries);
        Ok(Backfilled { run, sections: number + 1, bloom })
    }
}

/// What to add next, behind what was done last. Nothing of runs that a merge takes apart, nor of those that came to an
/// earlier filter than new ones do: a merge is about to take them to a level where they need none.
pub(crate) fn next(
    held: &Held,
    manifest: &Manifest,
    options: IndexOptions,
    last: Option<&Backfilled>,
) -> Option<Backfill> {
    let bloom = held.filling.bloom()?;
    let earlier = bloom::flushed(options, manifest) / bloom::flushes(options) * u32::from(options.fan_out);
    let is_due = |run: &RunEntry| {
        let highest = manifest.runs.iter().filter(|run| run.level == HIGHEST_LEVEL);
        highest.take(earlier as usize).any(|due| due.id == run.id)
    };
    let run = held.runs.in_no_bloom().filter_map(|id| manifest.run(id)).find(|run| {
        run.level <= HIGHEST_LEVEL
            && run.inputs.is_empty()
            && manifest.target(run.id).is_none()
            && !is_due(run)
    })?;
    let last = last.filter(|last| last.run == run.id && Arc::ptr_eq(&last.bloom, bloom));
    let number = last.map_or(0, |last| last.sections);
    let section = held.runs.get(run.id)?.sections.get(number as usize)?.clone()?;
    Some(Backfill { run: run.id, number, section, bloom: Arc::clone(bloom) })
}

impl Runs {
    /// Those that are asked by themselves, and behind no Bloom filter.
    fn in_no_bloom(&self) -> impl Iterator<Item = u32> {
        let units = self.units.iter().filter(|unit| unit.bloom.is_none());
        units.filter_map(|unit| if let &[id] = unit.members.as_slice() { Some(id) } else { None })
    }

    /// Asks the run behind the filter from now on, if all of it is there; says whether it is.
    pub(crate) fn cover(&mut self, covered: &Backfilled) -> bool {
        let whole = self.get(covered.run).is_some_and(|run| run.sections.len() == covered.sections as usize);
        let unit = self.units.iter_mut().find(|unit| unit.members == [covered.run]);
        if let Some(unit) = unit.filter(|_| whole) {
            unit.bloom = Some(Arc::clone(&covered.bloom));
        }
        whole
    }
}
