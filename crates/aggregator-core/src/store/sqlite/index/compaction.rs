//! Compaction: flushes the sealed memtable and merges runs, a slice with each append.
//!
//! A helper thread does the work ([`build`]): one task at a time, and never while a finished slice waits to be written.
//! The writer writes the slice in the transaction of an append. The index in memory changes only after that commit has
//! returned.

pub(crate) mod build;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLockWriteGuard};

use rusqlite::Connection;

use self::build::{InputSection, Slice, Task, TaskOutput, WriteTask, fingerprint_range};
use super::filter::bloom;
use super::filter::bloom_backfill::{self, Backfilled};
use super::filter::maplet_union;
use super::layout;
use super::manifest::{Manifest, RunEntry, damaged};
use super::run::Run;
use super::{Index, IndexOptions, IndexState, Memtable};
use crate::StoreError;
use crate::store::sqlite::background::{Helper, HelperObserver, NoResult};
use crate::store::sqlite::fault::TransactionError;

/// A level with more runs than this many times the fan-out is crowded: appends wait for merges.
const CROWDED_FAN_OUTS: usize = 4;

/// The most credit that merges gather, in sections of the usual size or in what one append earns.
const MAX_CREDIT: u64 = 2;

pub(crate) struct Compaction {
    index: Arc<Index>,
    options: IndexOptions,
    /// The manifest as of the last commit.
    manifest: Manifest,
    helper: Helper<Task, rusqlite::Result<TaskOutput>>,
    work: Work,
    /// How many entries may be merged; appends earn it.
    credit: u64,
    /// The last backfill, while a part of its run is still missing in the Bloom filter.
    backfilled: Option<Backfilled>,
    /// Whether the last task changed memory alone and left nothing to write.
    was_in_memory: bool,
    /// Appends wait for every task, so that a test with the same seed makes the same writes.
    in_step: bool,
}

enum Work {
    Idle,
    /// The helper has a task.
    Building,
    /// Boxed, because most of the time there is none.
    Ready(Box<Slice>),
}

impl Compaction {
    /// Starts the helper thread for the index that [`recover`](super::recovery::recover) made.
    pub(crate) fn start(
        index: Arc<Index>,
        manifest: Manifest,
        options: IndexOptions,
        connection: Connection,
        in_step: bool,
        observer: HelperObserver,
    ) -> std::io::Result<Self> {
        let helper = Helper::start("dedup-index", connection, observer, build::run)?;
        let mut compaction = Self {
            index,
            options,
            manifest,
            helper,
            work: Work::Idle,
            credit: 0,
            backfilled: None,
            was_in_memory: false,
            in_step,
        };
        compaction.index.note_size(&compaction.index.state().runs);
        compaction.schedule();
        Ok(compaction)
    }

    pub(crate) fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Takes the result of the helper's task, if there is one. Waits for it while the memtables are full or a level is
    /// crowded.
    pub(crate) fn collect(&mut self) -> Result<(), TransactionError> {
        while matches!(self.work, Work::Building) {
            match self.helper.take(self.in_step || self.is_full() || self.is_crowded()) {
                Ok(Ok(TaskOutput::Slice(slice))) => self.work = Work::Ready(Box::new(slice)),
                // This changes memory alone: there is nothing to commit.
                Ok(Ok(TaskOutput::UnitedMaplets(united))) => {
                    let mut state = self.index.state_mut();
                    Arc::make_mut(&mut state.runs).apply_union(united);
                    self.index.note_size(&state.runs);
                    drop(state);
                    self.become_idle();
                }
                Ok(Ok(TaskOutput::Backfilled(backfilled))) => {
                    let mut state = self.index.state_mut();
                    let whole = Arc::make_mut(&mut state.runs).apply_backfill(&backfilled);
                    self.index.note_size(&state.runs);
                    drop(state);
                    self.backfilled = (!whole).then_some(backfilled);
                    self.become_idle();
                }
                Ok(Err(error)) => {
                    // The next task is the same one again; the caller stops if the error is fatal.
                    self.become_idle();
                    return Err(TransactionError::Sqlite(error));
                }
                Err(NoResult::NotYet) => return Ok(()),
                Err(NoResult::ThreadPanicked) => {
                    let reason = "the thread that builds the dedup index panicked".into();
                    return Err(TransactionError::Store(StoreError::Poisoned { reason }));
                }
            }
        }
        Ok(())
    }

    /// Whether both memtables are full.
    fn is_full(&self) -> bool {
        let state = self.index.state();
        state.sealed.is_some() && state.memtable.len() >= self.options.memtable as usize
    }

    /// Whether a level has too many runs. Then the slice that is ready has to be written before anything is appended.
    pub(crate) fn is_crowded(&self) -> bool {
        crowded_level(&self.manifest, self.options).is_some()
    }

    /// Writes the slice that is ready, if there is one. Returns the manifest that is valid after the commit.
    pub(crate) fn write(&self, transaction: &Connection) -> rusqlite::Result<Option<Manifest>> {
        let Work::Ready(slice) = &self.work else { return Ok(None) };
        write_slice(transaction, &self.manifest, slice).map(Some)
    }

    /// To be called when the commit has returned, with the entries of the appended rows and the manifest that
    /// [`Self::write`] returned.
    pub(crate) fn committed(&mut self, added: &mut Memtable, next: Option<Manifest>) {
        let appended = added.len() as u64;
        let index = Arc::clone(&self.index);
        let mut state = index.state_mut();
        state.last_offset += appended;
        state.memtable.append(added);
        if let Some(next) = next
            && let Work::Ready(slice) = std::mem::replace(&mut self.work, Work::Idle)
        {
            state.apply(&slice, &next);
            index.note_size(&state.runs);
            self.manifest = next;
        }
        state.seal_if_full(self.options.memtable as usize);
        drop(state);
        // Also while the helper has a task: entries that are appended meanwhile have to be merged, too.
        self.earn(appended);
        if matches!(self.work, Work::Idle) {
            self.schedule();
        }
    }

    /// Adds the credit for so many appended events.
    ///
    /// An entry is merged once for each level except the last. It earns one merge more than that, so merges keep up.
    /// Faster merges would take the processor from appends for a while, and then rest.
    fn earn(&mut self, appended: u64) {
        let levels = self.manifest.runs.iter().map(|run| u64::from(run.level) + 1).max().unwrap_or(0);
        let earned = appended * levels;
        // One append writes the whole slice. So the credit is limited to what is quickly written, or to what large
        // appends need.
        let most = u64::from(self.options.section).max(earned) * MAX_CREDIT;
        self.credit = (self.credit + earned).min(most);
    }

    /// Goes on after a task that leaves nothing to write.
    fn become_idle(&mut self) {
        self.work = Work::Idle;
        self.schedule();
    }

    /// Gives the helper its next task, if there is one.
    fn schedule(&mut self) {
        let Some(task) = self.next() else { return };
        self.was_in_memory = !matches!(task, Task::Write(_));
        if let Task::Write(WriteTask::Merge { run, sections, .. }) = &task {
            let merged = (run.entries >> run.bits) * sections.len() as u64;
            self.credit = self.credit.saturating_sub(merged);
        }
        self.helper.send(task);
        self.work = Work::Building;
    }

    /// The helper's next task. A flush comes first, and so do merges of a crowded level. Otherwise merges and tasks for
    /// memory alone take turns.
    fn next(&self) -> Option<Task> {
        let state = self.index.state();
        let is_urgent = state.sealed.is_some() || self.is_crowded();
        let is_due = is_urgent || self.credit >= u64::from(self.options.section);
        let write = || {
            let write = is_due.then(|| next_task(&state, &self.manifest, self.options, self.credit));
            write.flatten().map(Task::Write)
        };
        let in_memory = || {
            let backfill =
                bloom_backfill::next(&state, &self.manifest, self.options, self.backfilled.as_ref());
            let union = || maplet_union::next(&state.runs, &self.manifest, self.options.fan_out.into());
            backfill.map(Task::Backfill).or_else(|| union().map(Task::MapletUnion))
        };
        if is_urgent || self.was_in_memory { write().or_else(in_memory) } else { in_memory().or_else(write) }
    }
}

/// The lowest level with too many runs.
fn crowded_level(manifest: &Manifest, options: IndexOptions) -> Option<u8> {
    let of_level = |level| manifest.runs.iter().filter(|run| run.level == level).count();
    let levels = manifest.runs.iter().map(|run| run.level);
    levels.filter(|&level| of_level(level) > CROWDED_FAN_OUTS * usize::from(options.fan_out)).min()
}

/// The most urgent task: to flush the sealed memtable, unless a level is crowded; then to merge about `entries` entries
/// of the lowest level that has a merge.
pub(crate) fn next_task(
    state: &IndexState,
    manifest: &Manifest,
    options: IndexOptions,
    entries: u64,
) -> Option<WriteTask> {
    if let Some((sealed, through)) = &state.sealed
        && crowded_level(manifest, options).is_none()
    {
        let run = new_run(manifest, options, 0, sealed.len() as u64);
        let run = RunEntry { written: run.sections(), ..run };
        let bloom = state.current_bloom.for_flush();
        return Some(WriteTask::Flush { run, through: *through, sealed: Arc::clone(sealed), bloom });
    }
    let levels = manifest.runs.iter().map(|run| run.level).max()?;
    let run = (0..=levels).find_map(|level| next_merge(manifest, options, level))?;
    let sections = (entries / (run.entries >> run.bits).max(1)).max(1);
    let end = (u64::from(run.written) + sections).min(u64::from(run.sections()));
    let sections = run.written..u32::try_from(end).expect("there are at most 2^24 sections");
    let inputs = state.runs.runs.iter().filter(|input| run.inputs.contains(&input.id));
    let inputs = InputSection::of(inputs, &fingerprint_range(run.bits, &sections));
    let bloom = state.runs.bloom_of(&run.inputs).filter(|_| run.level <= bloom::HIGHEST_LEVEL);
    Some(WriteTask::Merge { run, sections, inputs, bloom })
}

/// The run that runs of this level are being merged into, or are to be merged into next.
fn next_merge(manifest: &Manifest, options: IndexOptions, level: u8) -> Option<RunEntry> {
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

/// Writes a slice, deletes the sections it replaces, and writes the manifest that says so.
pub(crate) fn write_slice(
    transaction: &Connection,
    manifest: &Manifest,
    slice: &Slice,
) -> rusqlite::Result<Manifest> {
    if slice.run.id > layout::MAX_RUN {
        return Err(damaged("its run numbers are used up"));
    }
    let mut next = manifest.with_run(&slice.run, slice.through);
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
        let from = manifest.live_sections(input).start;
        let until = next.run(input.id).map_or(input.sections(), |input| next.live_sections(input).start);
        heads.execute((layout::section_key(input.id, from), layout::section_key(input.id, until)))?;
        chunks.execute((layout::chunk_key(input.id, from, 0), layout::chunk_key(input.id, until, 0)))?;
    }
    next.write(transaction)?;
    Ok(next)
}

impl Index {
    fn state_mut(&self) -> RwLockWriteGuard<'_, IndexState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IndexState {
    /// Seals the memtable once it has `capacity` entries, if no other one is sealed.
    pub(crate) fn seal_if_full(&mut self, capacity: usize) {
        if self.sealed.is_none() && self.memtable.len() >= capacity {
            // The next memtable reuses the memory of the one that was flushed before, if there is one.
            let flushed = self.flushed.take().map(|(flushed, _)| flushed);
            let mut next = flushed.unwrap_or_else(|| Memtable::with_capacity(capacity));
            next.clear();
            let memtable = std::mem::replace(&mut self.memtable, next);
            self.sealed = Some((Arc::new(memtable), self.last_offset));
        }
    }

    /// Changes the index in memory to what was committed.
    pub(crate) fn apply(&mut self, slice: &Slice, manifest: &Manifest) {
        if slice.through.is_some() {
            let sealed = self.sealed.take().and_then(|(sealed, _)| Arc::into_inner(sealed));
            self.flushed = sealed.map(|sealed| (sealed, self.covered));
            self.current_bloom.record_flush(slice.bloom.clone());
        }
        let id = slice.run.id;
        let runs = Arc::make_mut(&mut self.runs);
        if runs.get(id).is_none() {
            runs.push(
                Run { id, bits: slice.run.bits, answers_from: 0, sections: Vec::new() },
                Vec::new(),
                slice.bloom.clone(),
            );
        }
        let sections = slice.sections.iter().map(|new| (new.section.clone(), new.maplet.clone()));
        runs.extend(id, sections);
        runs.advance(|id| manifest.run(id).map(|run| manifest.answers_from(run.id)));
        self.covered = manifest.covered;
        // Last: if anything above panics, the generation does not match the file, and no reader uses the state.
        self.generation = manifest.generation;
    }
}
