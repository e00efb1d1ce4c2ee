//! Columns that are read in the same way by several calls.

use aggregator_core::KeptEvent;
use aggregator_core::event::Details;
use tokio_postgres::Row;

use crate::fault::{Failure, Result, get, get_u64};

/// What is left of a purged payload; nothing of an identity that was imported alone.
pub(crate) fn digest_of(row: &Row, column: usize) -> Result<Option<[u8; 16]>> {
    let digest: Option<&[u8]> = get(row, column)?;
    let digest =
        digest.map(|digest| digest.try_into().map_err(|_| Failure::corrupt("a digest has not 16 bytes")));
    digest.transpose()
}

/// A stored event's source, timestamp, sequence, content type and attributes, in the columns from `first` on.
pub(crate) fn details<'r>(row: &'r Row, first: usize, payload: &'r str) -> Result<Details<'r>> {
    Ok(Details {
        source: get(row, first)?,
        timestamp: get(row, first + 1)?,
        payload,
        sequence: sequence(row, first + 2)?,
        content_type: get(row, first + 3)?,
        attributes: get(row, first + 4)?,
    })
}

/// The same of an event that is imported.
pub(crate) fn details_of<'a>(event: &'a KeptEvent, source: &'a str) -> Details<'a> {
    Details {
        source,
        timestamp: &event.timestamp,
        payload: &event.payload,
        sequence: event.sequence,
        content_type: event.content_type.as_deref(),
        attributes: event.attributes.as_deref(),
    }
}

/// A count, or nothing.
pub(crate) fn sequence(row: &Row, column: usize) -> Result<Option<u64>> {
    get::<Option<i64>>(row, column)?.map(|_| get_u64(row, column)).transpose()
}
