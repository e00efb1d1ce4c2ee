//! Backup: copies a store while it is in use.
//!
//! A copy by one long read would keep SQLite from starting its log again, and the log would grow by all that is appended
//! meanwhile. So the copy is made as a running machine is moved to another host: first the whole file, then the pages
//! that have changed meanwhile, then those that have changed meanwhile, and so on, until few are left. These are taken
//! between two commits, and the copy is as of the first of them. No read of it lasts longer than a slice.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

use super::adopt::give_new_id;
use super::changed_pages::TakenPages;
use super::connector::Connector;
use super::draft_file::Draft;
use super::wal_mark;
use crate::StoreError;
use crate::store::BackupProgress;
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::read;
use crate::store::sqlite::schema::PAGE_BYTES;

/// So many bytes of the file are copied before the next pause.
const STEP_BYTES: usize = 1 << 20;

/// So many changed pages are taken at a time, while no append runs: half a MiB.
const SLICE_PAGES: usize = 64;

/// A slice takes at most so many, 64 MiB, however fast pages change. It is in memory, and appends wait for it.
const MAX_SLICE_PAGES: usize = 8192;

/// A copy ends without success once it has copied all that was left so many times in the largest slices, and more than a
/// half of it had changed again.
const MAX_HOPELESS_PASSES: u32 = 20;

/// The check of a copy takes no processor that others want.
const NICENESS: i32 = 10;

/// How often the caller is asked whether to go on while the copy is checked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// After so many bytes, the copy is synced: what the system has gathered to write would make the appends' syncs wait.
const SYNC_BYTES: u64 = 16 << 20;

/// The longest pause after a step.
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// The store that is copied.
pub(crate) struct Original<'a> {
    /// The main file. It was opened with the store, because closing any other handle would drop SQLite's locks.
    pub(crate) main: &'a File,
    pub(crate) pages: u32,
    /// Takes up to so many changed pages, between two commits.
    pub(crate) take: &'a dyn Fn(usize, &mut TakenPages) -> Result<(), StoreError>,
}

type OnProgress<'a> = &'a mut dyn FnMut(BackupProgress) -> ControlFlow<()>;

/// Copies the pages of the store, as of one commit, into a file that is to be at `to`.
pub(crate) fn copy_pages(
    original: &Original<'_>,
    to: &Path,
    on_progress: OnProgress<'_>,
) -> Result<Draft, StoreError> {
    let draft = Draft::create(to)?;
    draft.reserve(u64::from(original.pages) * u64::from(PAGE_BYTES))?;
    let mut copy = Copy { draft: &draft, unsynced: 0, on_progress };
    copy.copy_file(original)?;
    copy.copy_changed_pages(original)?;
    Ok(draft)
}

/// Makes a store of its own of the copied pages, checks it, and gives it its name.
pub(crate) fn complete(
    draft: Draft,
    connector: &Connector,
    on_progress: OnProgress<'_>,
) -> Result<(), StoreError> {
    finish(&draft, connector, on_progress)?;
    draft.take_name()
}

struct Copy<'a> {
    draft: &'a Draft,
    /// How many bytes were written since the last sync.
    unsynced: u64,
    on_progress: OnProgress<'a>,
}

impl Copy<'_> {
    /// Copies the main file as it is. Whatever changes meanwhile is copied once more afterwards.
    fn copy_file(&mut self, original: &Original<'_>) -> Result<(), StoreError> {
        let length = u64::from(original.pages) * u64::from(PAGE_BYTES);
        let mut buffer = vec![0; STEP_BYTES];
        let mut at = 0;
        while at < length {
            let begun = Instant::now();
            let wanted = usize::try_from(length - at).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
            let read = original.main.read_at(&mut buffer[..wanted], at);
            let read = read.map_err(|error| self.draft.failed(error))?;
            if read == 0 {
                // The rest of the file is in the log so far.
                break;
            }
            self.write(&buffer[..read], at)?;
            at += read as u64;
            self.report(BackupProgress::Copying { bytes: at, total: length })?;
            self.pause(begun);
        }
        Ok(())
    }

    /// Copies what has changed until nothing is left to copy.
    fn copy_changed_pages(&mut self, original: &Original<'_>) -> Result<(), StoreError> {
        let mut taken = TakenPages::default();
        let (mut limit, mut hopeless) = (SLICE_PAGES, 0);
        (original.take)(0, &mut taken)?;
        // In one pass, as many pages are copied as there were to copy when it began.
        let (mut pass, mut copied) = (taken.left, 0);
        loop {
            let begun = Instant::now();
            (original.take)(limit, &mut taken)?;
            let content = taken.bytes.chunks_exact(PAGE_BYTES as usize);
            for (&page, content) in taken.numbers.iter().zip(content) {
                self.write(content, u64::from(page - 1) * u64::from(PAGE_BYTES))?;
            }
            let total = u64::from(taken.total) * u64::from(PAGE_BYTES);
            if taken.left == 0 {
                return self.draft.file().set_len(total).map_err(|error| self.draft.failed(error));
            }
            let missing = taken.left * u64::from(PAGE_BYTES);
            self.report(BackupProgress::Copying { bytes: total.saturating_sub(missing), total })?;
            copied += taken.numbers.len() as u64;
            if copied >= pass {
                // Appends change pages about as fast as they are copied.
                if taken.left > pass / 2 {
                    limit = (limit * 2).min(MAX_SLICE_PAGES);
                    hopeless += u32::from(limit == MAX_SLICE_PAGES);
                }
                if hopeless > MAX_HOPELESS_PASSES {
                    let reason = "the store changes faster than it can be copied: copy to a faster disk, or at another time";
                    return Err(StoreError::unavailable(reason));
                }
                (pass, copied) = (taken.left, 0);
            }
            self.pause(begun);
        }
    }

    fn write(&mut self, bytes: &[u8], at: u64) -> Result<(), StoreError> {
        let file = self.draft.file();
        let written = file.write_all_at(bytes, at).and_then(|()| {
            self.unsynced += bytes.len() as u64;
            if self.unsynced < SYNC_BYTES {
                return Ok(());
            }
            self.unsynced = 0;
            file.sync_data()
        });
        written.map_err(|error| self.draft.failed(error))
    }

    fn report(&mut self, progress: BackupProgress) -> Result<(), StoreError> {
        match (self.on_progress)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(given_up()),
        }
    }

    /// Leaves the disk and the processor to the appends for as long as the step has taken.
    fn pause(&self, begun: Instant) {
        thread::sleep(begun.elapsed().min(MAX_PAUSE));
    }
}

/// Makes a store of the copied pages, and checks it.
fn finish(draft: &Draft, connector: &Connector, on_progress: OnProgress<'_>) -> Result<(), StoreError> {
    let failed = |error| store_error(&format!("completing the copy {}", draft.to.display()), error);
    let mut connection = draft.connect(connector).map_err(failed)?;
    let write = |connection: &mut Connection| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        give_new_id(&transaction)?;
        wal_mark::forget(&transaction)?;
        transaction.commit()
    };
    write(&mut connection).map_err(failed)?;
    check(&mut connection, &draft.to, connector, on_progress)?;
    draft.close(connection)
}

/// Reads all of a copy and checks it against itself, until `on_progress` breaks.
pub(super) fn check(
    connection: &mut Connection,
    to: &Path,
    connector: &Connector,
    on_progress: OnProgress<'_>,
) -> Result<(), StoreError> {
    let interrupt = connection.get_interrupt_handle();
    let mut is_given_up = false;
    let report = thread::scope(|scope| {
        let checking = scope.spawn(|| {
            // It reads all of the copy and holds nothing that others wait for. On Linux this is about the thread alone.
            let _ = rustix::process::nice(NICENESS);
            read::verify(connection, connector.fingerprint_bits())
        });
        // It is told at least once. What is done already is not given up any more.
        loop {
            let is_done = checking.is_finished();
            let wants_no_more = on_progress(BackupProgress::Checking).is_break();
            if is_done {
                break;
            }
            is_given_up |= wants_no_more;
            if is_given_up {
                interrupt.interrupt();
            }
            thread::sleep(LOOK_EVERY);
        }
        checking.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    if is_given_up {
        return Err(given_up());
    }
    match report?.faults.as_slice() {
        [] => Ok(()),
        [first, rest @ ..] => {
            let (to, more) = (to.display(), rest.len());
            let what =
                format!("the copy {to} is not sound, and was not kept: {first} (and {more} other faults)");
            Err(StoreError::corrupt(what))
        }
    }
}

fn given_up() -> StoreError {
    StoreError::unavailable("the copy was given up by its caller")
}
