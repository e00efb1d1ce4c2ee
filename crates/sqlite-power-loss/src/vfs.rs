//! The VFS as SQLite sees it: a table of C functions around the system's own.

mod file;

use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;

use rusqlite::ffi::{self, sqlite3_file, sqlite3_vfs};

use self::file::{Opened, ShimFile};
use crate::disk::{FileKind, PowerLoss};

/// What a VFS of ours carries in `pAppData`. Never freed, since SQLite may use a VFS at any time.
struct Shared {
    disk: Arc<PowerLoss>,
    real: *mut sqlite3_vfs,
    /// Whether the shared memory of a file is a file beside it, and not in this process.
    shares_a_file: bool,
}

/// Registers two VFSes for `disk`: under `name` one around the system's `unix`, and with `-excl` behind it one around its
/// `unix-excl`.
pub(crate) fn register(name: &str, disk: &Arc<PowerLoss>) -> rusqlite::Result<()> {
    register_around("unix", name, Arc::clone(disk), true)?;
    register_around("unix-excl", &format!("{name}-excl"), Arc::clone(disk), false)
}

fn register_around(
    real: &str,
    name: &str,
    disk: Arc<PowerLoss>,
    shares_a_file: bool,
) -> rusqlite::Result<()> {
    let (name, real) = (CString::new(name)?, CString::new(real)?);
    // SAFETY: the name is a C string; the call initialises SQLite if need be.
    let real = unsafe { ffi::sqlite3_vfs_find(real.as_ptr()) };
    assert!(!real.is_null(), "SQLite is built with the VFSes of a Unix system");
    // SAFETY: SQLite keeps registered VFSes where they are and never changes one it has registered, apart
    // from `pNext`, which is not read here.
    let (size, path_length) = unsafe { ((*real).szOsFile, (*real).mxPathname) };
    let shared = Box::leak(Box::new(Shared { disk, real, shares_a_file }));
    let vfs = Box::leak(Box::new(sqlite3_vfs {
        iVersion: 2,
        szOsFile: size + file::REAL_FILE_AT,
        mxPathname: path_length,
        pNext: null_mut(),
        zName: name.into_raw(),
        pAppData: std::ptr::from_mut(shared).cast(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        // Extensions are not loaded in tests.
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: Some(last_error),
        xCurrentTimeInt64: Some(current_time_int64),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }));
    // SAFETY: the table and all it points to live for ever, and its functions keep the contract of a VFS.
    match unsafe { ffi::sqlite3_vfs_register(vfs, 0) } {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// The disk and the system's VFS behind one of ours.
///
/// # Safety
/// `vfs` is one that [`register`] made.
unsafe fn shared<'a>(vfs: *mut sqlite3_vfs) -> &'a Shared {
    // SAFETY: `register` leaked the table and put a leaked `Shared` into it, which nothing ever changes.
    unsafe { &*(*vfs).pAppData.cast::<Shared>() }
}

/// A function of the system's VFS: `call!(shared, xSleep, args…)`.
macro_rules! call {
    ($shared:expr, $function:ident $(, $argument:expr)*) => {{
        let real = $shared.real;
        // SAFETY: the system's VFS is registered for good and is never changed.
        let function = unsafe { (*real).$function }.expect("the system's VFS has all functions of version 2");
        // SAFETY: SQLite's own arguments, kept as they are, with the VFS that the function belongs to.
        unsafe { function(real $(, $argument)*) }
    }};
}

/// The path that SQLite names a file by.
///
/// # Safety
/// `name` is a C string that outlives the result.
unsafe fn path<'a>(name: *const c_char) -> &'a Path {
    // SAFETY: passed on to the caller.
    let name = unsafe { CStr::from_ptr(name) };
    Path::new(OsStr::from_bytes(name.to_bytes()))
}

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite calls the functions of our table with our table.
    let shared = unsafe { shared(vfs) };
    let file = file.cast::<ShimFile>();
    // SAFETY: SQLite gives `szOsFile` bytes for the file. Without methods it is not open: SQLite calls
    // nothing of it, not even `xClose`.
    unsafe { ShimFile::set_closed(file) };
    // A file without a name is temporary and gone with its handle, so no cut can show it.
    let handle = match kind(flags).filter(|_| !name.is_null()) {
        None => None,
        Some(kind) => {
            // SAFETY: SQLite's file names are C strings, and are kept for as long as the file is open.
            let path = unsafe { path(name) };
            match shared.disk.open(path, kind, flags & ffi::SQLITE_OPEN_CREATE != 0) {
                Ok(handle) => Some(handle),
                Err(_) => return ffi::SQLITE_CANTOPEN,
            }
        }
    };
    // SAFETY: the bytes from there on are the system's VFS's to fill, as many as it asks for.
    let real = unsafe { ShimFile::real_place(file) };
    let result = call!(shared, xOpen, name, real, flags, out_flags);
    if result == ffi::SQLITE_OK {
        let opened = Opened { disk: Arc::clone(&shared.disk), handle, shares_a_file: shared.shares_a_file };
        // SAFETY: the place is ours, and the system's file in it was opened just now.
        unsafe { ShimFile::set_open(file, opened) };
    } else {
        // SAFETY: a system's file that was given methods wants to be closed even so.
        unsafe { file::close_failed(real) };
    }
    result
}

/// What the file is for, if it is one that outlives its handle.
fn kind(flags: c_int) -> Option<FileKind> {
    const JOURNALS: c_int = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL;
    if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        Some(FileKind::Database)
    } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
        Some(FileKind::Log)
    } else if flags & JOURNALS != 0 {
        Some(FileKind::Journal)
    } else {
        None
    }
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync_directory: c_int) -> c_int {
    // SAFETY: SQLite calls the functions of our table with our table.
    let shared = unsafe { shared(vfs) };
    // SAFETY: SQLite gives a C string, good for this call.
    let path = unsafe { path(name) };
    shared.disk.delete(path, sync_directory != 0, || call!(shared, xDelete, name, 0))
}

unsafe extern "C" fn access(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite calls the functions of our table with our table.
    let shared = unsafe { shared(vfs) };
    if shared.disk.is_off() {
        return ffi::SQLITE_IOERR_ACCESS;
    }
    call!(shared, xAccess, name, flags, out)
}

unsafe extern "C" fn full_pathname(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    length: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite calls the functions of our table with our table.
    let shared = unsafe { shared(vfs) };
    call!(shared, xFullPathname, name, length, out)
}

unsafe extern "C" fn randomness(vfs: *mut sqlite3_vfs, length: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite calls the functions of our table with our table.
    let shared = unsafe { shared(vfs) };
    call!(shared, xRandomness, length, out)
}

unsafe extern "C" fn sleep(vfs: *mut sqlite3_vfs, micros: c_int) -> c_int {
    // SAFETY: SQLite calls the functions of our table with our table.
    let shared = unsafe { shared(vfs) };
    call!(shared, xSleep, micros)
}

unsafe extern "C" fn current_time(vfs: *mut sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite calls the functions of our table with our table.
    let shared = unsafe { shared(vfs) };
    call!(shared, xCurrentTime, out)
}

unsafe extern "C" fn last_error(vfs: *mut sqlite3_vfs, length: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite calls the functions of our table with our table.
    let shared = unsafe { shared(vfs) };
    call!(shared, xGetLastError, length, out)
}

unsafe extern "C" fn current_time_int64(vfs: *mut sqlite3_vfs, out: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls the functions of our table with our table.
    let shared = unsafe { shared(vfs) };
    call!(shared, xCurrentTimeInt64, out)
}
