//! Rows of events and stubs, each with a checksum; the key of an identity, and the row that holds it.

pub(crate) mod checksum;
pub(crate) mod forgotten;
pub(crate) mod gap;
pub(crate) mod record;
pub(crate) mod stored_identity;

use rusqlite::Row;

use crate::Scope;

/// An identity with its topic resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    pub(crate) topic_id: i64,
    pub(crate) event_id: &'a str,
    /// Empty where the topic's scope leaves the source out.
    pub(crate) source: &'a str,
}

/// The scope of a topic, from a column of its row.
pub(crate) fn scope(row: &Row<'_>, column: usize) -> rusqlite::Result<Scope> {
    match row.get(column)? {
        0 => Ok(Scope::Topic),
        1 => Ok(Scope::Source),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(column, other)),
    }
}
