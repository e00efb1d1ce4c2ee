//! Adds the runs that a start found to the current Bloom filter.
//!
//! A start does not wait for this. The helper thread reads the chunks of one section at a time, beside appends. Lookups
//! use the filter for a run once the filter has all sections of the run. This changes memory alone, as filters do.

use std::ops::ControlFlow::Continue;
use std::sync::Arc;

use rusqlite::Connection;

use super::bloom::{self, Bloom, HIGHEST_LEVEL};
use super::filter_group::Runs;
use crate::store::sqlite::index::layout;
use crate::store::sqlite::index::lookup::ChunkReader;
use crate::store::sqlite::index::manifest::{Manifest, RunEntry};
use crate::store::sqlite::index::run::section::Section;
use crate::store::sqlite::index::{IndexOptions, IndexState};

/// A section to add to a Bloom filter.
pub(crate) struct Backfill {
    run: u32,
    number: u32,
    section: Section,
    bloom: Arc<Bloom>,
}

/// The Bloom filter has the first `sections` sections of a run.
pub(crate) struct Backfilled {
    pub(crate) run: u32,
    pub(crate) sections: u32,
    pub(crate) bloom: Arc<Bloom>,
}

impl Backfill {
    pub(crate) fn run(self, connection: &Connection) -> rusqlite::Result<Backfilled> {
        let Self { run, number, section, bloom } = self;
        let snapshot = connection.unchecked_transaction()?;
        let mut chunks = ChunkReader::new(&snapshot)?;
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

/// The section to add after `last`. Two kinds of runs are left out, because they are about to reach a level without
/// Bloom filters: runs that are being merged, and runs whose flushes belong to an earlier filter than the current one.
pub(crate) fn next(
    state: &IndexState,
    manifest: &Manifest,
    options: IndexOptions,
    last: Option<&Backfilled>,
) -> Option<Backfill> {
    let bloom = state.current_bloom.bloom()?;
    let earlier_blooms = bloom::flushes_in_runs(options, manifest) / bloom::flushes_per_bloom(options);
    let earlier_runs = earlier_blooms * u32::from(options.fan_out);
    let is_due = |run: &RunEntry| {
        let highest = manifest.runs.iter().filter(|run| run.level == HIGHEST_LEVEL);
        highest.take(earlier_runs as usize).any(|due| due.id == run.id)
    };
    let run = state.runs.without_bloom().filter_map(|id| manifest.run(id)).find(|run| {
        run.level <= HIGHEST_LEVEL
            && run.inputs.is_empty()
            && manifest.merge_target(run.id).is_none()
            && !is_due(run)
    })?;
    let last = last.filter(|last| last.run == run.id && Arc::ptr_eq(&last.bloom, bloom));
    let number = last.map_or(0, |last| last.sections);
    let section = state.runs.get(run.id)?.sections.get(number as usize)?.clone()?;
    Some(Backfill { run: run.id, number, section, bloom: Arc::clone(bloom) })
}

impl Runs {
    /// The runs that have a filter group of their own and no Bloom filter.
    fn without_bloom(&self) -> impl Iterator<Item = u32> {
        let groups = self.filter_groups.iter().filter(|group| group.bloom.is_none());
        groups.filter_map(|group| if let &[id] = group.members.as_slice() { Some(id) } else { None })
    }

    /// Puts the run behind the Bloom filter if the filter has all of it. Returns whether it has.
    pub(crate) fn apply_backfill(&mut self, backfilled: &Backfilled) -> bool {
        let run = self.get(backfilled.run);
        let whole = run.is_some_and(|run| run.sections.len() == backfilled.sections as usize);
        let group = self.filter_groups.iter_mut().find(|group| group.members == [backfilled.run]);
        if let Some(group) = group.filter(|_| whole) {
            group.bloom = Some(Arc::clone(&backfilled.bloom));
        }
        whole
    }
}
