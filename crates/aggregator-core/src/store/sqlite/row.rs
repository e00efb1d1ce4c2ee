//! Rows of events and stubs, each with a checksum, and the row that holds an identity.

pub(crate) mod checksum;
pub(crate) mod record;
pub(crate) mod stored_identity;

use rusqlite::Row;

use crate::Scope;

/// The scope of a topic, from a column of its row.
pub(crate) fn scope(row: &Row<'_>, column: usize) -> rusqlite::Result<Scope> {
    match row.get(column)? {
        0 => Ok(Scope::Topic),
        1 => Ok(Scope::Source),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(column, other)),
    }
}
