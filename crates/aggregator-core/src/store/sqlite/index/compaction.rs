//! The writer's side of the index: what is done about it beside an append.
//!
//! At any time there is at most one task with the helper ([`build`]), or one slice that waits
//! to be written. What was written changes what is in memory only once its commit has returned.

pub(crate) mod build;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLockWriteGuard};

use rusqlite::Connection;

use self::build::{Built, Input, Slice, Task, Write, span};
use super::filter::bloom;
use super::filter::bloom_backfill::{self, Backfilled};
use super::filter::maplet_union;
use super::layout;
use super::manifest::{Manifest, RunEntry, damaged};
use super::run::Run;
use super::{Held, Index, IndexOptions, Memtable};
use crate::StoreError;
use crate::store::sqlite::background::{Helper, Missing, Watch};
use crate::store::sqlite::fault::TransactionError;

/// From how many times the fan-out on a level's runs are too many: appends wait for merges then.
const CROWDED: usize = 4;

/// The most that is merged at a time, in sections of the usual size or in what an append asks for.
const MAX_PIECES: u64 = 2;

pub(crate) struct Compaction {
    index: Arc<Index>,
    options: IndexOptions,
    /// As of the last commit.
    manifest: Manifest,
    builder: Helper<Task, rusqlite::Result<Built>>,
    work: Work,
    /// How many entries may be merged for what was appended.
    credit: u64,
    /// What came to a Bloom filter last, of a run that is not all there yet.
    covered: Option<Backfilled>,
    /// Whether the last task was one for memory alone.
    tidied: bool,
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

impl Compaction {
    /// Takes care of what [`recover`](super::recovery::recover) found.
    pub(crate) fn start(
        index: Arc<Index>,
        manifest: Manifest,
        options: IndexOptions,
        connection: Connection,
        in_step: bool,
        watch: Watch,
    ) -> std::io::Result<Self> {
        let builder = Helper::start("dedup-index", connection, watch, build::run)?;
        let mut compaction = Self {
            index,
            options,
            manifest,
            builder,
            work: Work::Idle,
            credit: 0,
            covered: None,
            tidied: false,
            in_step,
        };
        compaction.plan();
        Ok(compaction)
    }

    pub(crate) fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Fetches what is ready to be written; waits for it if runs or memory have become too many.
    pub(crate) fn collect(&mut self) -> Result<(), TransactionError> {
        while matches!(self.work, Work::Building) {
            match self.builder.take(self.in_step || self.is_full() || self.is_crowded()) {
                Ok(Ok(Built::Slice(slice))) => self.work = Work::Ready(Box::new(slice)),
                // In memory alone: there is nothing to commit.
                Ok(Ok(Built::UnitedMaplets(joined))) => {
                    Arc::make_mut(&mut self.index.held_mut().runs).take(joined);
                    self.rest();
                }
                Ok(Ok(Built::Backfilled(covered))) => {
                    let whole = Arc::make_mut(&mut self.index.held_mut().runs).cover(&covered);
                    self.covered = (!whole).then_some(covered);
                    self.rest();
                }
                Ok(Err(error)) => {
                    // The same once more, unless it was final.
                    self.rest();
                    return Err(TransactionError::Sqlite(error));
                }
                Err(Missing::NotYet) => return Ok(()),
                Err(Missing::Gone) => {
                    let reason = "the thread that builds the dedup index panicked".into();
                    return Err(TransactionError::Store(StoreError::Poisoned { reason }));
                }
            }
        }
        Ok(())
    }

    /// Whether memory holds all it is to hold.
    fn is_full(&self) -> bool {
        let held = self.index.held();
        held.sealed.is_some() && held.memtable.len() >= self.options.memtable as usize
    }

    /// Whether there are too many runs. What is ready has to be written then, before anything is appended.
    pub(crate) fn is_crowded(&self) -> bool {
        crowded_level(&self.manifest, self.options).is_some()
    }

    /// Writes what is ready, if anything is; how the manifest reads once that is committed.
    pub(crate) fn write(&self, transaction: &Connection) -> rusqlite::Result<Option<Manifest>> {
        let Work::Ready(slice) = &self.work else { return Ok(None) };
        write_slice(transaction, &self.manifest, slice).map(Some)
    }

    /// To be called when the commit has returned: with the entries of what was appended and what
    /// [`Self::write`] said.
    pub(crate) fn committed(&mut self, added: &mut Memtable, next: Option<Manifest>) {
        let appended = added.len() as u64;
        let index = Arc::clone(&self.index);
        let mut held = index.held_mut();
        held.last_offset += appended;
        held.memtable.take(added);
        if let Some(next) = next
            && let Work::Ready(slice) = std::mem::replace(&mut self.work, Work::Idle)
        {
            held.apply(&slice, &next);
            self.manifest = next;
        }
        held.freeze(self.options.memtable as usize);
        drop(held);
        // Also beside a task: what comes while it is done is to be merged as well.
        self.earn(appended);
        if matches!(self.work, Work::Idle) {
            self.plan();
        }
    }

    /// Lets merges go on, now that so many events were appended.
    ///
    /// An entry is merged once for each level but the last, and one more than that is earned. Merges that went faster
    /// would take the processor from appends for a while, and then rest.
    fn earn(&mut self, appended: u64) {
        let levels = self.manifest.runs.iter().map(|run| u64::from(run.level) + 1).max().unwrap_or(0);
        let earned = appended * levels;
        // One append writes what comes of it: it is no more than fits in between, or than large appends need.
        let most = u64::from(self.options.section).max(earned) * MAX_PIECES;
        self.credit = (self.credit + earned).min(most);
    }

    /// After a task that leaves nothing to write.
    fn rest(&mut self) {
        self.work = Work::Idle;
        self.plan();
    }

    /// Gives the builder its next task, if it is time for one: a flush, or else what is to be done in memory alone and what
    /// is to be merged, by turns as long as there is both.
    fn plan(&mut self) {
        let held = self.index.held();
        let is_urgent = held.sealed.is_some() || self.is_crowded();
        let is_due = is_urgent || self.credit >= u64::from(self.options.section);
        let write = || {
            let write = is_due.then(|| next_task(&held, &self.manifest, self.options, self.credit));
            write.flatten().map(Task::Write)
        };
        let tidy = || {
            let cover = bloom_backfill::next(&held, &self.manifest, self.options, self.covered.as_ref());
            let join = || maplet_union::next(&held.runs, &self.manifest, self.options.fan_out.into());
            cover.map(Task::Backfill).or_else(|| join().map(Task::MapletUnion))
        };
        let task = if is_urgent || self.tidied { write().or_else(tidy) } else { tidy().or_else(write) };
        let Some(task) = task else { return };
        self.tidied = !matches!(task, Task::Write(_));
        if let Task::Write(Write::Merge { run, sections, .. }) = &task {
            let merged = (run.entries >> run.bits) * sections.len() as u64;
            self.credit = self.credit.saturating_sub(merged);
        }
        self.builder.send(task);
        self.work = Work::Building;
    }
}

/// The lowest level that has too many runs.
fn crowded_level(manifest: &Manifest, options: IndexOptions) -> Option<u8> {
    let of_level = |level| manifest.runs.iter().filter(|run| run.level == level).count();
    let levels = manifest.runs.iter().map(|run| run.level);
    levels.filter(|&level| of_level(level) > CROWDED * usize::from(options.fan_out)).min()
}

/// The most urgent task: what is frozen, unless a level is crowded, then merges of about so many entries,
/// those of the lowest level first.
pub(crate) fn next_task(
    held: &Held,
    manifest: &Manifest,
    options: IndexOptions,
    entries: u64,
) -> Option<Write> {
    if let Some((sealed, through)) = &held.sealed
        && crowded_level(manifest, options).is_none()
    {
        let run = new_run(manifest, options, 0, sealed.len() as u64);
        let run = RunEntry { written: run.sections(), ..run };
        let bloom = held.filling.next();
        return Some(Write::Flush { run, through: *through, sealed: Arc::clone(sealed), bloom });
    }
    let levels = manifest.runs.iter().map(|run| run.level).max()?;
    let run = (0..=levels).find_map(|level| merge(manifest, options, level))?;
    let sections = (entries / (run.entries >> run.bits).max(1)).max(1);
    let end = (u64::from(run.written) + sections).min(u64::from(run.sections()));
    let sections = run.written..u32::try_from(end).expect("there are at most 2^24 sections");
    let inputs = held.runs.runs.iter().filter(|held| run.inputs.contains(&held.id));
    let inputs = Input::of(inputs, &span(run.bits, &sections));
    let bloom = held.runs.bloom_of(&run.inputs).filter(|_| run.level <= bloom::HIGHEST_LEVEL);
    Some(Write::Merge { run, sections, inputs, bloom })
}

/// The merge of runs of this level that is going on, or that it is time for.
fn merge(manifest: &Manifest, options: IndexOptions, level: u8) -> Option<RunEntry> {
    if let Some(run) = manifest.runs.iter().find(|run| !run.inputs.is_empty() && run.level == level + 1) {
        return Some(run.clone());
    }
    let inputs: Vec<_> = manifest.runs.iter().filter(|run| run.level == level).collect();
    let inputs = inputs.get(..usize::from(options.fan_out))?;
    let run = new_run(manifest, options, level + 1, inputs.iter().map(|run| run.entries).sum());
    Some(RunEntry { inputs: inputs.iter().map(|run| run.id).collect(), ..run })
}

fn new_run(manifest: &Manifest, options: IndexOptions, level: u8, entries: u64) -> RunEntry {
    let sections = entries.div_ceil(u64::from(options.section)).max(1).next_power_of_two();
    let bits = sections.trailing_zeros().min(layout::MAX_SECTION_BITS);
    RunEntry { id: manifest.next_run, level, bits, written: 0, entries, inputs: Vec::new() }
}

/// Writes a slice, deletes what it replaces, and writes the manifest that says so.
pub(crate) fn write_slice(
    transaction: &Connection,
    manifest: &Manifest,
    slice: &Slice,
) -> rusqlite::Result<Manifest> {
    if slice.run.id > layout::MAX_RUN {
        return Err(damaged("it has had as many runs as can be counted"));
    }
    let mut next = manifest.with(&slice.run, slice.through);
    let mut head =
        transaction.prepare_cached("INSERT INTO index_sections (section, head) VALUES (?1, ?2)")?;
    let mut chunk =
        transaction.prepare_cached("INSERT INTO index_chunks (chunk, entries) VALUES (?1, ?2)")?;
    for new in &slice.sections {
        head.execute((layout::section_key(slice.run.id, new.number), &new.head))?;
        for (number, entries) in (0..).zip(new.chunks()) {
            chunk.execute((layout::chunk_key(slice.run.id, new.number, number), entries))?;
        }
    }
    let mut heads =
        transaction.prepare_cached("DELETE FROM index_sections WHERE section >= ?1 AND section < ?2")?;
    let mut chunks =
        transaction.prepare_cached("DELETE FROM index_chunks WHERE chunk >= ?1 AND chunk < ?2")?;
    for input in slice.run.inputs.iter().filter_map(|&id| manifest.run(id)) {
        let from = manifest.live(input).start;
        let until = next.run(input.id).map_or(input.sections(), |input| next.live(input).start);
        heads.execute((layout::section_key(input.id, from), layout::section_key(input.id, until)))?;
        chunks.execute((layout::chunk_key(input.id, from, 0), layout::chunk_key(input.id, until, 0)))?;
    }
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
    pub(crate) fn freeze(&mut self, at: usize) {
        if self.sealed.is_none() && self.memtable.len() >= at {
            // In the memory of what was flushed before, where there is some.
            let flushed = self.flushed.take().map(|(flushed, _)| flushed);
            let mut next = flushed.unwrap_or_else(|| Memtable::with_capacity(at));
            next.clear();
            let memtable = std::mem::replace(&mut self.memtable, next);
            self.sealed = Some((Arc::new(memtable), self.last_offset));
        }
    }

    /// Takes over what was committed.
    pub(crate) fn apply(&mut self, slice: &Slice, manifest: &Manifest) {
        if slice.through.is_some() {
            let sealed = self.sealed.take().and_then(|(sealed, _)| Arc::into_inner(sealed));
            self.flushed = sealed.map(|sealed| (sealed, self.covered));
            self.filling.flushed(slice.bloom.clone());
        }
        let id = slice.run.id;
        let runs = Arc::make_mut(&mut self.runs);
        if runs.get(id).is_none() {
            runs.push(
                Run { id, bits: slice.run.bits, from: 0, sections: Vec::new() },
                Vec::new(),
                slice.bloom.clone(),
            );
        }
        let sections = slice.sections.iter().map(|new| (new.section.clone(), new.maplet.clone()));
        runs.extend(id, sections);
        runs.advance(|id| manifest.run(id).map(|run| manifest.from(run.id)));
        self.covered = manifest.covered;
        // Last: should anything above panic, no reader takes what is left for the state it belongs to.
        self.generation = manifest.generation;
    }
}
