//! A row of `records`, and what the file says of all of them together.

use rusqlite::{Connection, OptionalExtension as _, Row};

use super::checksum::{Checksum, text};
use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::schema;
use crate::store::{MAX_VALUE_BYTES_PER_CALL, Record};

/// Everything a row of `records` says, in the order of [`RECORD_COLUMNS`].
pub(crate) struct RecordRow<'a> {
    pub(crate) kind: &'a str,
    pub(crate) name: &'a str,
    pub(crate) version: u64,
    pub(crate) value: &'a [u8],
}

/// What [`RecordRow::read`] reads.
pub(crate) const RECORD_COLUMNS: &str = "r.kind, r.name, r.version, r.value, r.checksum";

impl<'a> RecordRow<'a> {
    /// Reads a row whose columns are [`RECORD_COLUMNS`], and checks it.
    pub(crate) fn read(row: &'a Row<'_>) -> rusqlite::Result<Self> {
        let value = row.get_ref(3)?.as_blob().map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Blob, Box::new(error))
        })?;
        let record = Self { kind: text(row, 0)?, name: text(row, 1)?, version: row.get(2)?, value };
        if record.checksum() != row.get::<_, i64>(4)? {
            let (kind, name) = (record.kind, record.name);
            return Err(Corruption::error(format!(
                "the record {name:?} of kind {kind:?} does not match its checksum"
            )));
        }
        Ok(record)
    }

    /// The row of a record.
    pub(crate) fn of(record: &'a Record) -> Self {
        let Record { kind, name, version, value } = record;
        Self { kind, name, version: *version, value }
    }

    pub(crate) fn checksum(&self) -> i64 {
        let mut sum = Checksum::default();
        sum.text(Some(self.kind));
        sum.text(Some(self.name));
        sum.number(self.version);
        sum.bytes(self.value);
        sum.finish()
    }

    pub(crate) fn to_record(&self) -> Record {
        Record::new(self.kind, self.name, self.version, self.value)
    }
}

/// The record of this name, if there is one.
///
/// A row whose name is damaged is found under no name. Its page has it where it always was, so whoever looks for the
/// name comes to its place and finds the row as a neighbour. So the neighbours of a name that is not there are checked.
pub(crate) fn find(connection: &Connection, kind: &str, name: &str) -> rusqlite::Result<Option<Record>> {
    let sql = format!("SELECT {RECORD_COLUMNS} FROM records r WHERE kind = ?1 AND name = ?2");
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query((kind, name))?;
    if let Some(row) = rows.next()? {
        return RecordRow::read(row).map(|record| Some(record.to_record()));
    }
    check_before(connection, kind, name)?;
    check_after(connection, kind, name)?;
    Ok(None)
}

/// Where a list of records begins.
#[derive(Clone, Copy)]
pub(crate) enum Start<'n> {
    /// With this name.
    At(&'n str),
    /// Behind this name.
    After(&'n str),
}

/// Up to `limit` records of the kind in the order of their names, as long as these begin with `prefix`, and up to the
/// one that reaches [`MAX_VALUE_BYTES_PER_CALL`].
///
/// Rows with a damaged name lie among the others or at either end: see [`find`].
pub(crate) fn list(
    connection: &Connection,
    kind: &str,
    from: Start<'_>,
    prefix: &str,
    limit: usize,
) -> rusqlite::Result<Vec<Record>> {
    let (from, above) = match from {
        Start::At(name) => (name, ">="),
        Start::After(name) => (name, ">"),
    };
    check_before(connection, kind, from)?;
    // Each of these conditions is about where to begin and to end. One that SQLite looked at row by row would hide a row
    // that is damaged.
    let sql = format!(
        "SELECT {RECORD_COLUMNS} FROM records r WHERE kind = ?1 AND name {above} ?2 ORDER BY kind, name"
    );
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query((kind, from))?;
    let (mut records, mut bytes) = (Vec::<Record>::new(), 0);
    while let Some(row) = rows.next()? {
        let record = RecordRow::read(row)?;
        if !record.name.starts_with(prefix) || records.len() == limit || bytes >= MAX_VALUE_BYTES_PER_CALL {
            return Ok(records);
        }
        bytes += record.value.len();
        records.push(record.to_record());
    }
    check_after(connection, kind, records.last().map_or(from, |record| &record.name))?;
    Ok(records)
}

fn check_before(connection: &Connection, kind: &str, name: &str) -> rusqlite::Result<()> {
    check_first(connection, "(kind, name) < (?1, ?2) ORDER BY kind DESC, name DESC", kind, name)
}

fn check_after(connection: &Connection, kind: &str, name: &str) -> rusqlite::Result<()> {
    check_first(connection, "(kind, name) > (?1, ?2) ORDER BY kind, name", kind, name)
}

fn check_first(connection: &Connection, condition: &str, kind: &str, name: &str) -> rusqlite::Result<()> {
    let sql = format!("SELECT {RECORD_COLUMNS} FROM records r WHERE {condition} LIMIT 1");
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query((kind, name))?;
    rows.next()?.map_or(Ok(()), |row| RecordRow::read(row).map(drop))
}

/// What is kept of all records together: the row `records` of `meta`.
#[derive(Clone, Copy, Default)]
pub(crate) struct RecordTotals {
    /// The newest version of any record, deleted ones included. Each write takes the next one, so no version comes twice.
    pub(crate) last_version: u64,
    /// How many records there are.
    count: u64,
    /// The sum of their checksums, modulo 2^64: it tells a record that is missing.
    sum: u64,
}

impl RecordTotals {
    const NAME: &str = "records";

    /// Makes the table of records, together with this row: a table without the row has lost it.
    pub(crate) fn create_table(connection: &Connection) -> rusqlite::Result<()> {
        if schema::has_records(connection)? {
            return Ok(());
        }
        connection.execute_batch(schema::CREATE_RECORDS)?;
        Self::default().write(connection)
    }

    /// What the file says. A file of before there were records says nothing.
    pub(crate) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut select = connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
        let row = select.query_row([Self::NAME], |row| Self::parse(text(row, 0)?)).optional()?;
        if row.is_none() && schema::has_records(connection)? {
            let what = "there is a table of records, and nothing says up to which version";
            return Err(Corruption::error(what.into()));
        }
        Ok(row.unwrap_or_default())
    }

    /// Whether the file is one of before there were records. One that has lost them does not get an empty table in their
    /// place.
    pub(crate) fn lacks_table(connection: &Connection) -> rusqlite::Result<bool> {
        Ok(!schema::has_records(connection)? && Self::read(connection)?.last_version == 0)
    }

    /// The error of a file that has lost its records.
    pub(crate) fn lost_table() -> rusqlite::Error {
        Corruption::error("the table of the records is missing".into())
    }

    fn parse(text: &str) -> rusqlite::Result<Self> {
        let numbers: Option<Vec<u64>> = text.split(' ').map(|number| number.parse().ok()).collect();
        if let Some(&[last_version, count, sum, checksum]) = numbers.as_deref() {
            let totals = Self { last_version, count, sum };
            if totals.checksum() == checksum && totals.to_string() == text {
                return Ok(totals);
            }
        }
        Err(Corruption::error("what is said of all records does not match its checksum".into()))
    }

    pub(crate) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
            .execute((Self::NAME, self.to_string()))
            .map(drop)
    }

    /// Gives out the next version: above all earlier ones, and above `floor`.
    pub(crate) fn next_version(&mut self, floor: u64) -> u64 {
        self.last_version = self.last_version.max(floor) + 1;
        self.last_version
    }

    pub(crate) fn add(&mut self, record: &RecordRow<'_>) {
        self.last_version = self.last_version.max(record.version);
        self.count += 1;
        self.sum = self.sum.wrapping_add(record.checksum().cast_unsigned());
    }

    pub(crate) fn remove(&mut self, record: &RecordRow<'_>) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(record.checksum().cast_unsigned());
    }

    /// What it contradicts of the records there are, as they were added up.
    pub(crate) fn contradiction(&self, counted: &Self) -> Option<String> {
        let (says, are) = (self.count, counted.count);
        if says != are {
            return Some(format!("there should be {says} records, and there are {are}"));
        }
        if self.sum != counted.sum {
            return Some("the records do not match the sum of their checksums".into());
        }
        let (last, newest) = (self.last_version, counted.last_version);
        (newest > last)
            .then(|| format!("a record has version {newest}, and the last one given out was {last}"))
    }

    fn checksum(&self) -> u64 {
        let mut sum = Checksum::default();
        [self.last_version, self.count, self.sum].into_iter().for_each(|number| sum.number(number));
        sum.finish().cast_unsigned()
    }
}

impl std::fmt::Display for RecordTotals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {}", self.last_version, self.count, self.sum, self.checksum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_all_records_is_read_only_as_it_is_written() {
        let written = RecordTotals { last_version: 7, count: 2, sum: 9 }.to_string();
        assert_eq!(RecordTotals::parse(&written).unwrap().to_string(), written);
        assert!(RecordTotals::parse(&format!("0{written}")).is_err());
        assert!(RecordTotals::parse(&format!("+{written}")).is_err());
    }
}
