//! An open file: the functions of its table go to the disk's switches first, then to the system's file.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io::Write as _;
use std::ptr::null;
use std::slice;
use std::sync::Arc;

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods};

use crate::disk::{Handle, PowerLoss};

/// What lies in the bytes SQLite reserves for an open file; the system's own file follows it.
#[repr(C)]
pub(super) struct ShimFile {
    /// First, since SQLite takes the pointer for one to this.
    base: sqlite3_file,
    /// Set and owned between `set_open` and `xClose`.
    opened: *mut Opened,
}

pub(super) struct Opened {
    pub(super) disk: Arc<PowerLoss>,
    /// Not there for a temporary file, on which nothing ever fails.
    pub(super) handle: Option<Handle>,
    /// Whether its shared memory takes room on the disk.
    pub(super) shares_a_file: bool,
}

#[expect(clippy::cast_possible_truncation, reason = "it is a few bytes")]
#[expect(clippy::cast_possible_wrap, reason = "it is a few bytes")]
pub(super) const REAL_FILE_AT: c_int = size_of::<ShimFile>() as c_int;

impl ShimFile {
    /// # Safety
    /// `file` is the place that SQLite gave `xOpen`.
    pub(super) unsafe fn set_closed(file: *mut Self) {
        let closed = Self { base: sqlite3_file { pMethods: null() }, opened: std::ptr::null_mut() };
        // SAFETY: the place has room for it. SQLite aligns to 8 bytes, so no alignment is taken for granted.
        unsafe { file.write_unaligned(closed) };
    }

    /// # Safety
    /// `file` is the place that SQLite gave `xOpen`, and the system's file behind it is open.
    pub(super) unsafe fn set_open(file: *mut Self, opened: Opened) {
        let opened = Box::into_raw(Box::new(opened));
        // SAFETY: as above.
        unsafe { file.write_unaligned(Self { base: sqlite3_file { pMethods: &METHODS }, opened }) };
    }

    /// Where the system's file lies.
    ///
    /// # Safety
    /// `file` is the place that SQLite gave `xOpen`, of `szOsFile` bytes.
    pub(super) unsafe fn real_place(file: *mut Self) -> *mut sqlite3_file {
        // SAFETY: `szOsFile` has the shim's size and the system's file's.
        unsafe { file.add(1) }.cast()
    }
}

/// Closes a system's file whose `xOpen` failed, if that gave it methods.
///
/// # Safety
/// `real` is the place that the failed `xOpen` was given.
pub(super) unsafe fn close_failed(real: *mut sqlite3_file) {
    // SAFETY: every `xOpen` sets the methods, to null if there is nothing to close.
    let methods = unsafe { (*real).pMethods.as_ref() };
    if let Some(close) = methods.and_then(|methods| methods.xClose) {
        // SAFETY: its own close, once.
        unsafe { close(real) };
    }
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Version 2 has shared memory and no memory mapping: what is read goes through `xRead`.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// What the shim knows of an open file.
///
/// # Safety
/// `file` was opened by the shim, and `xClose` has not returned yet.
unsafe fn opened<'a>(file: *mut sqlite3_file) -> &'a Opened {
    // SAFETY: `set_open` put a `ShimFile` there.
    let shim = unsafe { file.cast::<ShimFile>().read_unaligned() };
    // SAFETY: its box lives until `close` and is only ever shared.
    unsafe { &*shim.opened }
}

/// A function of the system's file: `call!(file, xSync, args…)`.
macro_rules! call {
    ($file:expr, $function:ident $(, $argument:expr)*) => {{
        // SAFETY: SQLite calls the functions of our table with an open file of ours.
        let real = unsafe { ShimFile::real_place($file.cast()) };
        // SAFETY: the system's file is open as long as ours is, and so has a table.
        let methods = unsafe { &*(*real).pMethods };
        let function = methods.$function.expect("the system's files have all functions of version 2");
        // SAFETY: SQLite's own arguments, with the file that the function belongs to.
        unsafe { function(real $(, $argument)*) }
    }};
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let result = call!(file, xClose);
    // SAFETY: `set_open` put a `ShimFile` there.
    let shim = unsafe { file.cast::<ShimFile>().read_unaligned() };
    // SAFETY: it came from `Box::into_raw`, and a file is closed once.
    drop(unsafe { Box::from_raw(shim.opened) });
    result
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite calls the functions of our table with an open file of ours.
    let Opened { disk, handle, .. } = unsafe { opened(file) };
    if handle.as_ref().is_some_and(|handle| !disk.read(handle)) {
        return ffi::SQLITE_IOERR_READ;
    }
    call!(file, xRead, buffer, amount, at)
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    buffer: *const c_void,
    amount: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite calls the functions of our table with an open file of ours.
    let Opened { disk, handle, .. } = unsafe { opened(file) };
    let Some(handle) = handle else { return call!(file, xWrite, buffer, amount, at) };
    // SAFETY: SQLite gives a buffer of that many bytes.
    let bytes = unsafe { slice::from_raw_parts(buffer.cast::<u8>(), length(amount)) };
    disk.write(handle, position(at), bytes, |part| {
        let amount = c_int::try_from(part.len()).expect("it is a part of what fitted");
        call!(file, xWrite, part.as_ptr().cast(), amount, at)
    })
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls the functions of our table with an open file of ours.
    let Opened { disk, handle, .. } = unsafe { opened(file) };
    let Some(handle) = handle else { return call!(file, xTruncate, size) };
    disk.truncate(handle, position(size), || call!(file, xTruncate, size))
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: SQLite calls the functions of our table with an open file of ours.
    let Opened { disk, handle, .. } = unsafe { opened(file) };
    // The system's file is not synced: see the crate's documentation.
    handle.as_ref().map_or(ffi::SQLITE_OK, |handle| disk.sync(handle))
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls the functions of our table with an open file of ours.
    let Opened { disk, handle, .. } = unsafe { opened(file) };
    if handle.as_ref().is_some_and(|handle| !disk.is_on(handle)) {
        return ffi::SQLITE_IOERR_FSTAT;
    }
    call!(file, xFileSize, size)
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    call!(file, xLock, level)
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    call!(file, xUnlock, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    call!(file, xCheckReservedLock, out)
}

unsafe extern "C" fn file_control(file: *mut sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    call!(file, xFileControl, op, argument)
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    call!(file, xSectorSize)
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    // Atomic batches go through file controls, past what is recorded here.
    call!(file, xDeviceCharacteristics) & !ffi::SQLITE_IOCAP_BATCH_ATOMIC
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite calls the functions of our table with an open file of ours.
    let Opened { disk, shares_a_file, .. } = unsafe { opened(file) };
    if extend == 0 || !shares_a_file || !disk.has_no_shared_memory() {
        return call!(file, xShmMap, region, size, extend, out);
    }
    // What is there already can be had.
    let result = call!(file, xShmMap, region, size, 0, out);
    // SAFETY: SQLite gives a place for the result, which the system's VFS has filled.
    if result != ffi::SQLITE_OK || !unsafe { *out }.is_null() {
        return result;
    }
    leave_no_space_as_the_last_error();
    ffi::SQLITE_IOERR_SHMSIZE
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    call!(file, xShmLock, offset, count, flags)
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    call!(file, xShmBarrier);
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    call!(file, xShmUnmap, delete)
}

/// Has the system say ENOSPC, as it does where a real file cannot grow: whoever meets the error asks it for the reason.
fn leave_no_space_as_the_last_error() {
    let written = File::options().write(true).open("/dev/full").and_then(|mut full| full.write_all(b"x"));
    assert!(written.is_err(), "nothing can be written to /dev/full");
}

fn length(amount: c_int) -> usize {
    usize::try_from(amount).expect("SQLite's amounts are not negative")
}

fn position(at: sqlite3_int64) -> usize {
    usize::try_from(at).expect("SQLite's positions are not negative")
}
