//! The disk as a test holds it: when it fails and how.

mod operations;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Random;
use crate::files::{Files, ImageId};
use crate::image::Change;
use crate::vfs;

/// What SQLite uses a file for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The database itself.
    Database,
    /// The write-ahead log.
    Log,
    /// A rollback journal.
    Journal,
}

/// What happens instead of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A sync fails with EIO; what it did not write is lost for good, though it can still be read. Whoever else has
    /// the file open is told by their next sync.
    SyncFails,
    /// A write fails with EIO and changes nothing.
    WriteFails,
    /// A write stops half-way, as on a disk that is about to be full.
    ShortWrite,
    /// A read fails with EIO.
    ReadFails,
}

/// Operations since the VFS was registered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Operations {
    pub reads: u64,
    pub writes: u64,
    pub truncates: u64,
    pub syncs: u64,
    pub deletes: u64,
}

impl Operations {
    /// Those that change what a power loss leaves.
    pub fn mutating(&self) -> u64 {
        self.writes + self.truncates + self.syncs + self.deletes
    }
}

/// A disk behind a VFS of its own, and the switches of its failures.
#[derive(Debug)]
pub struct PowerLoss {
    name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    files: Files,
    random: Random,
    off: bool,
    /// Handles of an earlier generation belong to a life before a cut and do nothing any more.
    generation: u64,
    done: Operations,
    cut: Option<Cut>,
    planned: Vec<Planned>,
    full: bool,
    no_shared_memory: bool,
    ignore_syncs: bool,
}

#[derive(Debug, Clone, Copy)]
struct Cut {
    /// At which of the mutating operations.
    at: u64,
    /// Whether only the process dies: what it wrote can be read on.
    process_only: bool,
}

#[derive(Debug, Clone, Copy)]
struct Planned {
    fault: Fault,
    on: FileKind,
    /// How many operations from now; 1 is the next one.
    nth: u64,
}

/// An open file, for the disk.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) image: ImageId,
    pub(crate) path: PathBuf,
    pub(crate) kind: FileKind,
    /// Whether the next sync takes the directory along, as the system's VFS does for new logs and journals.
    sync_directory: Cell<bool>,
    /// How many failed syncs of the file its syncs have told of, or were there when it was opened.
    told: Cell<u64>,
    generation: u64,
}

impl PowerLoss {
    /// A disk behind the new VFS `name`, on which nothing fails yet. The VFS stays registered for the life
    /// of the process, and so does the one named `name-excl`: it is to it what `unix-excl` is to `unix`.
    ///
    /// # Errors
    /// What SQLite says if it cannot register it.
    pub fn register(name: &str) -> rusqlite::Result<Arc<Self>> {
        let state = State {
            files: Files::default(),
            random: Random::new(0),
            off: false,
            generation: 0,
            done: Operations::default(),
            cut: None,
            planned: Vec::new(),
            full: false,
            no_shared_memory: false,
            ignore_syncs: false,
        };
        let disk = Arc::new(Self { name: name.to_owned(), state: Mutex::new(state) });
        vfs::register(name, &disk)?;
        Ok(disk)
    }

    /// The name of the VFS.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Cuts the power at the `nth` mutating operation from now on (1 is the next one). `seed` chooses what
    /// of the unsynced changes, that operation's among them, is found afterwards.
    pub fn cut_at(&self, nth: u64, seed: u64) {
        self.plan_cut(nth, seed, false);
    }

    /// As [`Self::cut_at`], but only the process dies: what was written stays readable and unsynced.
    pub fn kill_at(&self, nth: u64, seed: u64) {
        self.plan_cut(nth, seed, true);
    }

    fn plan_cut(&self, nth: u64, seed: u64, process_only: bool) {
        let mut state = self.state();
        state.random = Random::new(seed);
        state.cut = Some(Cut { at: state.done.mutating() + nth, process_only });
    }

    /// Cuts the power now.
    pub fn cut(&self, seed: u64) {
        let mut state = self.state();
        state.random = Random::new(seed);
        state.go_off(false);
    }

    /// Whether the power was cut, or the process killed, so that every operation fails.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Ends an outage, and calls off a cut that has not come yet. What is in the files after a power cut
    /// counts as synced; after a kill it stays as it is.
    ///
    /// Close the connections from before the outage first: those of one process share what they know of a
    /// log, and the old ones would pass on what is no longer so.
    pub fn restore_power(&self) {
        let mut state = self.state();
        state.off = false;
        state.cut = None;
    }

    /// Ends an outage, and forgets all files: what is in them counts as synced from now on. Handles that are
    /// still open do nothing any more.
    pub fn settle(&self) {
        let mut state = self.state();
        state.files = Files::default();
        state.generation += 1;
        (state.off, state.cut) = (false, None);
    }

    /// The program itself, and not SQLite, synced the file at `path`: what is in it is on the disk.
    ///
    /// # Panics
    /// If the file cannot be read.
    pub fn synced(&self, path: &Path) {
        self.state().files.synced(path).expect("a file that was just synced can be read");
    }

    /// Lets the `nth` operation that `fault` can befall, on a file of this kind, suffer it.
    pub fn fail_nth(&self, nth: u64, on: FileKind, fault: Fault) {
        self.state().planned.push(Planned { fault, on, nth });
    }

    /// Whether a planned fault has not come yet.
    pub fn has_faults(&self) -> bool {
        !self.state().planned.is_empty()
    }

    /// Forgets the faults that have not come yet; says whether there were any.
    pub fn clear_faults(&self) -> bool {
        !std::mem::take(&mut self.state().planned).is_empty()
    }

    /// Fills the disk, so that every write fails, or makes room again.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// As [`Self::set_full`], but for the shared memory of databases (`-shm`) alone: what is there stays, and none is added.
    pub fn set_shared_memory_full(&self, full: bool) {
        self.state().no_shared_memory = full;
    }

    pub(crate) fn has_no_shared_memory(&self) -> bool {
        let state = self.state();
        state.full || state.no_shared_memory
    }

    /// Makes syncs do nothing and report success.
    pub fn ignore_syncs(&self, ignore: bool) {
        self.state().ignore_syncs = ignore;
    }

    /// Operations so far.
    pub fn operations(&self) -> Operations {
        self.state().done
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_on(&self, handle: &Handle) -> bool {
        !self.off && handle.generation == self.generation
    }

    /// The planned cut, if it is the operation counted last.
    fn reached_cut(&mut self) -> Option<Cut> {
        self.cut.take_if(|cut| cut.at == self.done.mutating())
    }

    fn change(&mut self, handle: &Handle, change: Change) {
        self.files.image(handle.image).change(change);
    }

    /// Whether nothing is lost that was written before.
    fn sync(&mut self, handle: &Handle) -> bool {
        if self.ignore_syncs {
            return true;
        }
        let image = self.files.image(handle.image);
        image.sync();
        let failures = image.failures();
        if handle.sync_directory.replace(false) {
            self.files.sync_directory(&handle.path);
        }
        handle.told.replace(failures) == failures
    }

    fn fail_sync(&mut self, handle: &Handle) {
        let Self { files, random, .. } = self;
        let image = files.image(handle.image);
        image.fail_sync(random);
        handle.told.set(image.failures());
    }

    /// The fault that befalls the next operation on a file of this kind, if it is one of these.
    fn due(&mut self, kind: FileKind, faults: &[Fault]) -> Option<Fault> {
        let fits = |planned: &Planned| planned.on == kind && faults.contains(&planned.fault);
        self.planned.iter_mut().filter(|planned| fits(planned)).for_each(|planned| {
            // Two can be due at once; the second one befalls the operation after.
            planned.nth = planned.nth.saturating_sub(1);
        });
        let at = self.planned.iter().position(|planned| fits(planned) && planned.nth == 0)?;
        Some(self.planned.swap_remove(at).fault)
    }

    fn go_off(&mut self, process_only: bool) {
        self.off = true;
        self.cut = None;
        self.generation += 1;
        if !process_only {
            let Self { files, random, .. } = self;
            files.cut(random).expect("the real files can be written");
        }
    }
}
