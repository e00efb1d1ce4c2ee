//! The backends against the contract, and the SQLite file against the world.
#![expect(clippy::unwrap_used, reason = "this is test code")]

mod backup;
mod bit_rot;
mod checksums;
mod conformance;
mod copied_files;
mod erase;
mod files;
mod forget;
mod gauges;
mod give_back;
mod golden;
mod held;
mod index;
mod journal;
mod kill_records;
mod limits;
mod lookup_hint;
mod lost_log;
mod reads;
mod records;
mod restore;
mod sharded;
mod sqlite;
