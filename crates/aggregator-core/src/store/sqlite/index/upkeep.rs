//! The writer's side of the index: what is done about it beside an append.
//!
//! At any time there is at most one task with the [`builder`](super::builder), or one slice that waits
//! to be written. What was written changes what is in memory only once its commit has returned.

use std::sync::{Arc, PoisonError, RwLockWriteGuard};

use rusqlite::Connection;

use super::builder::{Builder, Input, Missing, Slice, Task, span};
use super::manifest::{Manifest, RunEntry};
use super::run::{self, Run};
use super::{Held, Index, IndexOptions, Recent};
use crate::StoreError;
use crate::store::sqlite::group::Failure;

/// From how many times the fan-out on a level's runs are too many: appends wait for their merge then.
const CROWDED: usize = 4;

/// The most sections of a merge at a time.
const MAX_SECTIONS: u64 = 8;

pub(in super::super) struct Upkeep {
    index: Arc<Index>,
    options: IndexOptions,
    /// As of the last commit.
    manifest: Manifest,
    builder: Builder,
    work: Work,
    /// Appends wait for every task, so that a seed brings back the same writes.
    in_step: bool,
}

enum Work {
    Idle,
    /// A task is being done.
    Building,
    /// Boxed: it is there seldom.
    Ready(Box<Slice>),
}

impl Upkeep {
    pub(super) fn new(
        index: Arc<Index>,
        options: IndexOptions,
        manifest: Manifest,
        builder: Builder,
        in_step: bool,
    ) -> Self {
        let mut upkeep = Self { index, options, manifest, builder, work: Work::Idle, in_step };
        upkeep.plan(0);
        upkeep
    }

    pub(in super::super) fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Fetches what is ready to be written; waits for it if memory or the runs have become too many.
    pub(in super::super) fn collect(&mut self) -> Result<(), Failure> {
        if !matches!(self.work, Work::Building) {
            return Ok(());
        }
        match self.builder.take(self.in_step || self.is_overdue()) {
            Ok(slice) => self.work = Work::Ready(Box::new(slice)),
            Err(Missing::NotYet) => {}
            Err(Missing::Gone) => {
                let reason = "the thread that builds the dedup index panicked".into();
                return Err(Failure::Store(StoreError::Poisoned { reason }));
            }
            Err(Missing::Failed(error)) => {
                // The same once more, unless it was final.
                self.work = Work::Idle;
                self.plan(0);
                return Err(Failure::Sqlite(error));
            }
        }
        Ok(())
    }

    fn is_overdue(&self) -> bool {
        let held = self.index.held();
        let full = held.frozen.is_some() && held.recent.len() >= self.options.recent as usize;
        drop(held);
        let runs = &self.manifest.runs;
        let of_level = |level| runs.iter().filter(|run| run.level == level).count();
        let crowded = CROWDED * usize::from(self.options.fan_out);
        full || runs.iter().any(|run| of_level(run.level) > crowded)
    }

    /// Writes what is ready, if anything is; how the manifest reads once that is committed.
    pub(in super::super) fn write(&self, transaction: &Connection) -> rusqlite::Result<Option<Manifest>> {
        let Work::Ready(slice) = &self.work else { return Ok(None) };
        write(transaction, &self.manifest, slice).map(Some)
    }

    /// To be called when the commit has returned: with the entries of what was appended, the last offset
    /// and what [`Self::write`] said.
    pub(in super::super) fn committed(
        &mut self,
        added: &mut Recent,
        last_offset: u64,
        next: Option<Manifest>,
    ) {
        let appended = added.len();
        let index = Arc::clone(&self.index);
        let mut held = index.held_mut();
        held.recent.take(added);
        if let Some(next) = next
            && let Work::Ready(slice) = std::mem::replace(&mut self.work, Work::Idle)
        {
            held.apply(&slice, &next);
            self.manifest = next;
        }
        held.freeze(self.options.recent as usize, last_offset);
        drop(held);
        if matches!(self.work, Work::Idle) {
            self.plan(appended as u64);
        }
    }

    /// Gives the builder its next task, if there is one, beside appends of so many events.
    fn plan(&mut self, appended: u64) {
        // As much as keeps up: an entry is written again at every level.
        let sections = appended * 8 / u64::from(self.options.section) + 1;
        let held = self.index.held();
        if let Some(task) = next_task(&held, &self.manifest, self.options, sections.min(MAX_SECTIONS)) {
            self.builder.send(task);
            self.work = Work::Building;
        }
    }
}

/// The most urgent task: what is frozen, then merges, those of the lowest level first.
pub(super) fn next_task(
    held: &Held,
    manifest: &Manifest,
    options: IndexOptions,
    sections: u64,
) -> Option<Task> {
    if let Some((frozen, through)) = &held.frozen {
        let run = new_run(manifest, options, 0, frozen.len() as u64);
        let run = RunEntry { written: run.sections(), ..run };
        return Some(Task::Flush { run, through: *through, frozen: Arc::clone(frozen) });
    }
    let levels = manifest.runs.iter().map(|run| run.level).max()?;
    let run = (0..=levels).find_map(|level| merge(manifest, options, level))?;
    let end = (u64::from(run.written) + sections).min(u64::from(run.sections()));
    let sections = run.written..u32::try_from(end).expect("there are at most 2^24 sections");
    let inputs = held.runs.iter().filter(|held| run.inputs.contains(&held.id));
    let inputs = Input::of(inputs, &span(run.bits, &sections));
    Some(Task::Merge { run, sections, inputs })
}

/// The merge of runs of this level that is going on, or that it is time for.
fn merge(manifest: &Manifest, options: IndexOptions, level: u8) -> Option<RunEntry> {
    if let Some(run) = manifest.runs.iter().find(|run| !run.inputs.is_empty() && run.level == level + 1) {
        return Some(run.clone());
    }
    let inputs: Vec<_> = manifest.runs.iter().filter(|run| run.level == level).collect();
    let fan_out = usize::from(options.fan_out.max(2));
    let inputs = inputs.get(..fan_out)?;
    let run = new_run(manifest, options, level + 1, inputs.iter().map(|run| run.entries).sum());
    Some(RunEntry { inputs: inputs.iter().map(|run| run.id).collect(), ..run })
}

fn new_run(manifest: &Manifest, options: IndexOptions, level: u8, entries: u64) -> RunEntry {
    let sections = entries.div_ceil(u64::from(options.section.max(1))).max(1).next_power_of_two();
    let bits = sections.trailing_zeros().min(run::MAX_SECTION_BITS);
    assert!(manifest.next_run <= run::MAX_RUN, "runs have numbers up to {}", run::MAX_RUN);
    RunEntry { id: manifest.next_run, level, bits, written: 0, entries, inputs: Vec::new() }
}

/// Writes a slice, deletes what it replaces, and writes the manifest that says so.
pub(super) fn write(
    transaction: &Connection,
    manifest: &Manifest,
    slice: &Slice,
) -> rusqlite::Result<Manifest> {
    let next = manifest.with(&slice.run, slice.through);
    let mut head =
        transaction.prepare_cached("INSERT INTO index_sections (section, head) VALUES (?1, ?2)")?;
    let mut chunk =
        transaction.prepare_cached("INSERT INTO index_chunks (chunk, entries) VALUES (?1, ?2)")?;
    for new in &slice.sections {
        head.execute((run::section_key(slice.run.id, new.number), &new.head))?;
        for (number, entries) in (0..).zip(&new.chunks) {
            chunk.execute((run::chunk_key(slice.run.id, new.number, number), entries))?;
        }
    }
    let mut heads =
        transaction.prepare_cached("DELETE FROM index_sections WHERE section >= ?1 AND section < ?2")?;
    let mut chunks =
        transaction.prepare_cached("DELETE FROM index_chunks WHERE chunk >= ?1 AND chunk < ?2")?;
    for input in slice.run.inputs.iter().filter_map(|&id| manifest.run(id)) {
        let from = manifest.live(input).start;
        let until = next.run(input.id).map_or(input.sections(), |input| next.live(input).start);
        heads.execute((run::section_key(input.id, from), run::section_key(input.id, until)))?;
        chunks.execute((run::chunk_key(input.id, from, 0), run::chunk_key(input.id, until, 0)))?;
    }
    let mut next = next;
    next.write(transaction)?;
    Ok(next)
}

impl Index {
    fn held_mut(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Sets what has gathered aside to be flushed, if it is time for it and nothing is set aside yet.
    pub(super) fn freeze(&mut self, at: usize, last_offset: u64) {
        if self.frozen.is_none() && self.recent.len() >= at.max(1) {
            let recent = std::mem::replace(&mut self.recent, Recent::with_capacity(at));
            self.frozen = Some((Arc::new(recent), last_offset));
        }
    }

    /// Takes over what was committed.
    pub(super) fn apply(&mut self, slice: &Slice, manifest: &Manifest) {
        self.generation = manifest.generation;
        if slice.through.is_some() {
            self.frozen = None;
        }
        let id = slice.run.id;
        if !self.runs.iter().any(|run| run.id == id) {
            self.runs.push(Run { id, bits: slice.run.bits, from: 0, sections: Vec::new() });
        }
        for run in &mut self.runs {
            if run.id == id {
                let sections = slice.sections.iter().map(|new| Some(Arc::clone(&new.section)));
                run.sections.extend(sections);
            } else {
                run.advance(manifest.from(run.id));
            }
        }
        self.runs.retain(|run| manifest.run(run.id).is_some());
    }
}
