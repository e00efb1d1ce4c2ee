//! Test support: an SQLite VFS whose disk fails when a test says so.
//!
//! [`PowerLoss::register`] puts a VFS before the system's own. Everything goes on to real files, so SQLite
//! and the program under test see what they would see anyway. Beside that the shim keeps, for each file,
//! the bytes that were synced apart from the changes since. When the power is cut, the real files become
//! what a disk could hold at that instant: the synced bytes, and of each unsynced change nothing, all or
//! some sectors, in no particular order.
//!
//! What counts as durable is decided here, so the real disk is never asked to sync: thousands of cuts a
//! minute are cheap.
//!
//! What the model assumes of a disk, as SQLite does: a successful sync keeps what was written before it; a
//! lost change harms no byte outside its own range ([power-safe overwrite]); the entry of a new or deleted
//! file is kept by a sync of its directory, which the system's VFS makes at the first sync of a new log or
//! journal. A failed sync keeps some of the changes and *loses the others for good*, although they can
//! still be read: Linux marks the pages clean. Each handle that was open then has one sync that tells so, as on Linux since
//! 4.13; later ones report success.
//!
//! What it does not see: renames and deletions that the program does without SQLite count as durable at
//! once; `-shm` is shared memory and no durable state.
//!
//! Nor are there reads cut short: the system's VFS goes on with them until the file ends, and what lies
//! beyond the end reads as zeros, which is SQLite's contract and not an error.
//!
//! [power-safe overwrite]: https://www.sqlite.org/psow.html

mod disk;
mod files;
mod image;
mod random;
mod vfs;

pub use disk::{Fault, FileKind, Operations, PowerLoss};
pub use random::Random;
