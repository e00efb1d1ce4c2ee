//! Converts columns of rows into the core's types, and back.

use aggregator_core::event::Details;
use aggregator_core::{KeptEvent, Partition, Scope};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::fault::{Failure, Result};

/// A column's value.
pub(crate) fn get<'r, T: FromSql<'r>>(row: &'r Row, column: usize) -> Result<T> {
    Ok(row.try_get(column)?)
}

/// A column that counts something.
pub(crate) fn get_u64(row: &Row, column: usize) -> Result<u64> {
    let number: i64 = get(row, column)?;
    u64::try_from(number).map_err(|_| {
        let name = row.columns()[column].name();
        Failure::corrupt(format!("the column {name} holds {number}, which is not a count"))
    })
}

/// A count as a `bigint`, or the largest `bigint` if it does not fit.
pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The digest that a purge left of a payload. An identity that was imported without its event has none.
pub(crate) fn digest_of(row: &Row, column: usize) -> Result<Option<[u8; 16]>> {
    let digest: Option<&[u8]> = get(row, column)?;
    let digest =
        digest.map(|digest| digest.try_into().map_err(|_| Failure::corrupt("a digest is not 16 bytes long")));
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

/// The same details of an event that is imported.
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

/// A count that may be NULL.
pub(crate) fn sequence(row: &Row, column: usize) -> Result<Option<u64>> {
    get::<Option<i64>>(row, column)?.map(|_| get_u64(row, column)).transpose()
}

/// The value of the column `partition`.
pub(crate) fn partition_number(partition: Partition) -> i32 {
    i32::from(partition.0)
}

/// The reverse of [`partition_number`].
pub(crate) fn partition(row: &Row, column: usize) -> Result<Partition> {
    let number: i32 = get(row, column)?;
    let number = u16::try_from(number).map_err(|_| Failure::corrupt(format!("{number} is no partition")))?;
    Ok(Partition(number))
}

/// The value of the column `scope`.
pub(crate) fn scope_number(scope: Scope) -> i32 {
    match scope {
        Scope::Topic => 0,
        Scope::Source => 1,
    }
}

/// The reverse of [`scope_number`].
pub(crate) fn scope(number: i32) -> Result<Scope> {
    match number {
        0 => Ok(Scope::Topic),
        1 => Ok(Scope::Source),
        other => Err(Failure::corrupt(format!("a topic has the unknown scope {other}"))),
    }
}
