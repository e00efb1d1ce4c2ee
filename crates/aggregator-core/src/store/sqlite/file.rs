//! The store's files: how they are claimed, opened, watched, backed up and closed.

mod adopt;
pub(crate) mod backup;
pub(crate) mod changed_pages;
pub(crate) mod claim;
mod compact;
pub(crate) mod connector;
mod create;
pub(crate) mod draft_file;
pub(crate) mod files;
pub(crate) mod free_space;
pub(crate) mod header;
mod mount;
pub(crate) mod open;
pub(crate) mod page_set;
pub(crate) mod rebuild;
pub(crate) mod reserve;
mod restore;
pub(crate) mod room;
mod upgrade;
pub(crate) mod wal_mark;

pub(crate) use self::adopt::adopt;
pub(crate) use self::compact::compact;
pub(crate) use self::open::{connect_alone, open};
pub(crate) use self::rebuild::empty_index;
pub(crate) use self::restore::restore;
pub(crate) use self::upgrade::upgrade;
