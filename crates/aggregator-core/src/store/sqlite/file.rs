//! The store's files: how they are claimed, opened, watched, backed up and closed.

pub(crate) mod backup;
pub(crate) mod claim;
pub(crate) mod connector;
pub(crate) mod files;
pub(crate) mod header;
mod mount;
pub(crate) mod open;
pub(crate) mod rebuild;
pub(crate) mod room;
pub(crate) mod wal_mark;

pub(crate) use self::backup::backup;
pub(crate) use self::open::{connect_alone, open};
pub(crate) use self::rebuild::empty_index;
