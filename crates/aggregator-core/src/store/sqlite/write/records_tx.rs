//! What happens inside a transaction of record writes.

use rusqlite::{Connection, TransactionBehavior};

use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::fault::TransactionError;
use crate::store::sqlite::row::record::{RecordRow, RecordTotals, find};
use crate::store::sqlite::schema;
use crate::store::{RecordOutcome, RecordWrite, StaleRecord};

/// Does the writes of several callers, each of which sees what those before it have done, and commits once. A caller whose
/// write is stale changes nothing for the others. Versions are above `floor`.
pub(crate) fn write(
    connection: &mut Connection,
    group: &[&[RecordWrite]],
    floor: u64,
) -> Result<Vec<RecordOutcome>, TransactionError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut totals = RecordTotals::read(&transaction)?;
    if !schema::has_records(&transaction)? {
        return Err(RecordTotals::lost_table().into());
    }
    let last_version = totals.last_version;
    let outcomes = group
        .iter()
        .map(|writes| write_all(&transaction, &mut totals, writes, floor))
        .collect::<rusqlite::Result<Vec<_>>>()?;
    if totals.last_version != last_version {
        totals.write(&transaction)?;
        transaction.commit()?;
    }
    Ok(outcomes)
}

/// Does the writes of one caller, or none of them.
fn write_all(
    connection: &Connection,
    totals: &mut RecordTotals,
    writes: &[RecordWrite],
    floor: u64,
) -> rusqlite::Result<RecordOutcome> {
    let mut stale = Vec::new();
    let mut current = Vec::with_capacity(writes.len());
    for (index, write) in writes.iter().enumerate() {
        let found = find(connection, &write.kind, &write.name)?;
        let version = found.as_ref().map(|found| found.version);
        if version > Some(totals.last_version) {
            let what = format!("the record {:?} has a version that was never given out", write.name);
            return Err(Corruption::error(what));
        }
        if version != write.expected_version {
            stale.push(StaleRecord { index, version });
        }
        current.push(found);
    }
    if !stale.is_empty() {
        return Ok(RecordOutcome::Stale(stale));
    }
    let versions = writes.iter().zip(current).map(|(write, current)| {
        if let Some(current) = current {
            totals.remove(&RecordRow::of(&current));
        }
        let version = totals.next_version(floor);
        apply(connection, totals, write)?;
        Ok(version)
    });
    Ok(RecordOutcome::Written(versions.collect::<rusqlite::Result<_>>()?))
}

fn apply(connection: &Connection, totals: &mut RecordTotals, write: &RecordWrite) -> rusqlite::Result<()> {
    let RecordWrite { kind, name, value, .. } = write;
    let Some(value) = value else {
        let mut delete = connection.prepare_cached("DELETE FROM records WHERE kind = ?1 AND name = ?2")?;
        return delete.execute((kind, name)).map(drop);
    };
    let record = RecordRow { kind, name, version: totals.last_version, value };
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO records (kind, name, version, value, checksum) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    insert.execute((kind, name, record.version, value, record.checksum()))?;
    totals.add(&record);
    Ok(())
}
