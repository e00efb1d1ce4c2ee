//! The operations of the VFS, each asked of the disk first.

use std::ffi::c_int;
use std::io;
use std::path::Path;

use rusqlite::ffi;

use super::{Fault, FileKind, Handle, PowerLoss};
use crate::image::Change;

/// `real` does the operation to the real file.
impl PowerLoss {
    pub(crate) fn open(&self, path: &Path, kind: FileKind, creates: bool) -> io::Result<Handle> {
        let mut state = self.state();
        if state.off {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let image = state.files.open(path)?;
        Ok(Handle {
            image,
            told: state.files.image(image).failures().into(),
            path: path.to_owned(),
            kind,
            sync_directory: (creates && kind != FileKind::Database).into(),
            generation: state.generation,
        })
    }

    /// Whether there is power, for operations that change nothing.
    pub(crate) fn is_on(&self, handle: &Handle) -> bool {
        self.state().is_on(handle)
    }

    /// Whether a read may go on.
    pub(crate) fn read(&self, handle: &Handle) -> bool {
        let mut state = self.state();
        state.done.reads += 1;
        state.is_on(handle) && state.due(handle.kind, &[Fault::ReadFails]).is_none()
    }

    pub(crate) fn write(
        &self,
        handle: &Handle,
        at: usize,
        bytes: &[u8],
        real: impl Fn(&[u8]) -> c_int,
    ) -> c_int {
        let mut state = self.state();
        if !state.is_on(handle) {
            return ffi::SQLITE_IOERR_WRITE;
        }
        state.done.writes += 1;
        if let Some(cut) = state.reached_cut() {
            let part = if state.random.once_in(2) { bytes } else { &bytes[..bytes.len() / 2] };
            if state.random.once_in(2) && real(part) == ffi::SQLITE_OK {
                state.change(handle, Change::Write { at, bytes: part.to_vec() });
            }
            state.go_off(cut.process_only);
            return ffi::SQLITE_IOERR_WRITE;
        }
        if state.full {
            return ffi::SQLITE_FULL;
        }
        let (bytes, code) = match state.due(handle.kind, &[Fault::WriteFails, Fault::ShortWrite]) {
            None => (bytes, ffi::SQLITE_OK),
            // What the system's VFS makes of a write that it could not finish.
            Some(Fault::ShortWrite) => (&bytes[..bytes.len() / 2], ffi::SQLITE_FULL),
            Some(_) => return ffi::SQLITE_IOERR_WRITE,
        };
        match real(bytes) {
            ffi::SQLITE_OK => state.change(handle, Change::Write { at, bytes: bytes.to_vec() }),
            failed => return failed,
        }
        code
    }

    pub(crate) fn truncate(&self, handle: &Handle, length: usize, real: impl Fn() -> c_int) -> c_int {
        let mut state = self.state();
        if !state.is_on(handle) {
            return ffi::SQLITE_IOERR_TRUNCATE;
        }
        state.done.truncates += 1;
        let cut = state.reached_cut();
        if cut.is_some() && state.random.once_in(2) {
            state.go_off(cut.is_some_and(|cut| cut.process_only));
            return ffi::SQLITE_IOERR_TRUNCATE;
        }
        let result = real();
        if result == ffi::SQLITE_OK {
            state.change(handle, Change::Truncate { length });
        }
        if let Some(cut) = cut {
            state.go_off(cut.process_only);
            return ffi::SQLITE_IOERR_TRUNCATE;
        }
        result
    }

    pub(crate) fn sync(&self, handle: &Handle) -> c_int {
        let mut state = self.state();
        if !state.is_on(handle) {
            return ffi::SQLITE_IOERR_FSYNC;
        }
        state.done.syncs += 1;
        if let Some(cut) = state.reached_cut() {
            // Half of the time it got through, and only its caller was never told.
            if state.random.once_in(2) {
                state.sync(handle);
            }
            state.go_off(cut.process_only);
            return ffi::SQLITE_IOERR_FSYNC;
        }
        if state.due(handle.kind, &[Fault::SyncFails]).is_some() {
            state.fail_sync(handle);
            return ffi::SQLITE_IOERR_FSYNC;
        }
        if state.sync(handle) { ffi::SQLITE_OK } else { ffi::SQLITE_IOERR_FSYNC }
    }

    pub(crate) fn delete(&self, path: &Path, sync_directory: bool, real: impl Fn() -> c_int) -> c_int {
        let mut state = self.state();
        if state.off {
            return ffi::SQLITE_IOERR_DELETE;
        }
        state.done.deletes += 1;
        let cut = state.reached_cut();
        if cut.is_some() && state.random.once_in(2) {
            state.go_off(cut.is_some_and(|cut| cut.process_only));
            return ffi::SQLITE_IOERR_DELETE;
        }
        let result = real();
        if result == ffi::SQLITE_OK {
            state.files.deleted(path);
        }
        if let Some(cut) = cut {
            state.go_off(cut.process_only);
            return ffi::SQLITE_IOERR_DELETE;
        }
        if result == ffi::SQLITE_OK && sync_directory && !state.ignore_syncs {
            state.files.sync_directory(path);
        }
        result
    }
}
