//! Records: small named values with versions, changed by compare-and-set.
//!
//! Every record belongs to one of 256 buckets, by a hash of its kind and name. The bucket's row is the lock of its
//! records, including those that do not exist yet, and has the counter that their versions come from. A write locks its
//! buckets in ascending order, so writes cannot deadlock. It reads the records and draws their versions under the
//! locks. So the versions of a record grow in the order of the commits, and none comes twice.

mod plan;
mod write;

use aggregator_core::Timestamp;
use aggregator_core::store::{MAX_VALUE_BYTES_PER_CALL, Record};

use crate::PostgresOptions;
use crate::columns::{get, get_u64, signed};
use crate::connection::session::Session;
use crate::fault::{Failure, Result, unavailable};

pub(crate) use self::plan::{BUCKETS, bucket};
pub(crate) use self::write::RecordTx;

/// Reads one record.
pub(crate) async fn record(session: &Session, kind: &str, name: &str) -> Result<Option<Record>> {
    let rows = session.query(&session.record_reads().await?.get, &[&kind, &name]).await?;
    let record = |row| Ok::<_, Failure>(Record::new(kind, name, get_u64(row, 0)?, get::<Vec<u8>>(row, 1)?));
    rows.first().map(record).transpose()
}

/// Reads records of a kind in the byte order of their names.
pub(crate) async fn list(
    session: &Session,
    kind: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Record>> {
    // PostgreSQL refuses text with NUL, so none is sent. No name has a control character: no name begins with such a
    // prefix, and the names after `a\0…` are the names after `a`.
    if prefix.contains('\0') {
        return Ok(Vec::new());
    }
    let after = after.unwrap_or_default();
    let after = after.split('\0').next().unwrap_or_default();
    let end = end_of_prefix(prefix);
    let statement = &session.record_reads().await?.list;
    let most = signed(MAX_VALUE_BYTES_PER_CALL as u64);
    let rows =
        session.query(statement, &[&kind, &prefix, &after, &end, &signed(limit as u64), &most]).await?;
    let record =
        |row| Ok(Record::new(kind, get::<String>(row, 0)?, get_u64(row, 1)?, get::<Vec<u8>>(row, 2)?));
    rows.iter().map(record).collect()
}

/// Reads the clock that all nodes share.
pub(crate) async fn now(session: &Session, options: &PostgresOptions) -> Result<Timestamp> {
    if let Some(clock) = &options.clock {
        return Ok(clock());
    }
    let rows = session.query(&session.record_reads().await?.now, &[]).await?;
    let row = rows.first().ok_or_else(|| unavailable("the server does not tell the time"))?;
    Ok(Timestamp::from_micros(get(row, 0)?))
}

/// The first text after all texts that begin with `prefix`; `None` if there is none. Texts are in the same order by the
/// bytes of UTF-8 as by their characters.
fn end_of_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // A range of `char` skips the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_text_of_its_length() {
        assert_eq!(end_of_prefix(""), None);
        assert_eq!(end_of_prefix("ab").as_deref(), Some("ac"));
        assert_eq!(end_of_prefix("a\u{7f}").as_deref(), Some("a\u{80}"));
        assert_eq!(end_of_prefix("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(end_of_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(end_of_prefix("\u{10ffff}"), None);
    }
}
