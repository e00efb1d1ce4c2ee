//! Reads the whole file and checks that it does not contradict itself.

mod journal;

use std::sync::Arc;

use rusqlite::{Connection, Row};

use self::journal::check_journal;
use crate::StoreError;
use crate::store::VerifyReport;
use crate::store::sqlite::catalog::{Catalog, PartitionState, TOPIC_COLUMNS, TopicRow};
use crate::store::sqlite::fault::store_error;
use crate::store::sqlite::index;
use crate::store::sqlite::journal::{Delta, Replayed};
use crate::store::sqlite::row::checksum::{EVENT_COLUMNS, EventRow, STUB_COLUMNS, StubRow};
use crate::store::sqlite::row::forgotten::{FORGOTTEN_COLUMNS, Forgotten};
use crate::store::sqlite::row::gap::{GAP_COLUMNS, Gap};
use crate::store::sqlite::row::record::{RECORD_COLUMNS, RecordRow, RecordTotals};
use crate::store::sqlite::schema;

/// The most faults a report lists.
const MAX_FAULTS: usize = 100;

pub(crate) fn verify(connection: &mut Connection, fingerprint_bits: u32) -> Result<VerifyReport, StoreError> {
    let failed = |error| store_error("verifying", error);
    let snapshot = connection.transaction().map_err(failed)?;
    let mut report = VerifyReport::default();
    check_file(&snapshot, &mut report).map_err(failed)?;
    // If SQLite finds the file's structure damaged, the rows cannot be counted.
    if report.faults.is_empty() {
        let replayed = check_journal(&snapshot, &mut report).map_err(failed)?;
        check_counters(&snapshot, &replayed, &mut report).map_err(failed)?;
        check_seqs(&snapshot, &replayed, &mut report).map_err(failed)?;
        check_spans(&snapshot, &replayed, &mut report).map_err(failed)?;
        check_purges(&snapshot, &mut report).map_err(failed)?;
        check_gaps(&snapshot, &mut report).map_err(failed)?;
        check_rows(&snapshot, &mut report).map_err(failed)?;
        check_checksums(&snapshot, &mut report).map_err(failed)?;
        check_records(&snapshot, &mut report).map_err(failed)?;
        // What a start demands beyond that.
        if report.faults.is_empty()
            && let Err(error) = Catalog::load(&snapshot, &Arc::default())
        {
            report.faults.push(store_error("verifying", error).to_string());
        }
        // The index is compared only if no row is missing or damaged.
        if report.faults.is_empty() {
            let fault = &mut |fault| report.faults.push(fault);
            match index::check(&snapshot, fingerprint_bits, fault).map_err(failed) {
                Err(StoreError::Corrupt { what, .. }) => report.faults.push(what),
                checked => checked?,
            }
            report.faults.truncate(MAX_FAULTS);
        }
    }
    Ok(report)
}

fn check_file(connection: &Connection, report: &mut VerifyReport) -> rusqlite::Result<()> {
    let mut check = connection.prepare(&format!("PRAGMA integrity_check({MAX_FAULTS})"))?;
    let lines = check.query_map([], |row| row.get::<_, String>(0))?;
    for line in lines {
        let line = line?;
        if line != "ok" {
            report.faults.push(format!("the file: {line}"));
        }
    }
    Ok(())
}

/// Runs a query that returns a row for each fault; `describe` puts the fault into words. `{marks}` and `{gaps}` in it
/// stand for the tables of what was forgotten, which are not in every file.
fn faults(
    connection: &Connection,
    report: &mut VerifyReport,
    sql: &str,
    describe: impl Fn(&Row<'_>) -> rusqlite::Result<String>,
) -> rusqlite::Result<()> {
    faults_of_some(connection, report, sql, |row| describe(row).map(Some))
}

/// The same, where not each row is a fault.
fn faults_of_some(
    connection: &Connection,
    report: &mut VerifyReport,
    sql: &str,
    mut describe: impl FnMut(&Row<'_>) -> rusqlite::Result<Option<String>>,
) -> rusqlite::Result<()> {
    let [marks, gaps] = match schema::has_forgotten(connection)? {
        true => ["forgotten", "gaps"],
        false => [
            "(SELECT 0 AS topic_id, 0 AS offset, 0 AS seq WHERE false)",
            "(SELECT 0 AS first_offset, 0 AS last_offset WHERE false)",
        ],
    };
    let mut select = connection.prepare(&sql.replace("{marks}", marks).replace("{gaps}", gaps))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        if report.faults.len() >= MAX_FAULTS {
            break;
        }
        report.faults.extend(describe(row)?);
    }
    Ok(())
}

fn check_counters(
    connection: &Connection,
    replayed: &Replayed,
    report: &mut VerifyReport,
) -> rusqlite::Result<()> {
    (report.events, report.stubs) = connection.query_row(
        "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM stubs)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let sum = |count: fn(&Delta) -> u64| replayed.deltas.iter().map(count).fold(0, u64::wrapping_add);
    let sums = [
        ("{stored}", sum(Delta::stored)),
        ("{duplicates}", sum(|delta| delta.duplicates)),
        ("{conflicts}", sum(|delta| delta.conflicts)),
    ];
    let sql =
        sums.into_iter().fold(COUNTERS.to_owned(), |sql, (name, sum)| sql.replace(name, &sum.to_string()));
    faults(connection, report, &sql, |row| {
        let (what, counted, rows): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(format!("the counter {what} says {counted}, the rows say {rows}"))
    })
}

/// The counters that the rows contradict. `{stored}`, `{duplicates}` and `{conflicts}` stand for what the journal adds.
const COUNTERS: &str = "SELECT p.what, p.counted, p.rows FROM (
             SELECT 'stored' AS what, stored AS counted,
                    (SELECT count(*) FROM events) + (SELECT count(*) FROM stubs WHERE seq IS NOT NULL)
                        + (SELECT coalesce(sum(seq), 0) FROM {marks}) AS rows
             FROM partitions
             UNION ALL SELECT 'last_offset', last_offset,
                    (SELECT count(*) FROM events) + (SELECT count(*) FROM stubs)
                        + (SELECT coalesce(sum(last_offset - first_offset + 1), 0) FROM {gaps})
             FROM partitions
             UNION ALL SELECT 'stored', stored, (SELECT coalesce(sum(last_seq), 0) + {stored} FROM topics)
             FROM partitions
             UNION ALL SELECT 'duplicates', duplicates,
                    (SELECT coalesce(sum(duplicates), 0) + {duplicates} FROM topics)
             FROM partitions
             UNION ALL SELECT 'conflicts', conflicts, (SELECT coalesce(sum(conflicts), 0) + {conflicts} FROM topics)
             FROM partitions
             UNION ALL SELECT 'topics', topics, (SELECT count(*) FROM topics) FROM partitions
             UNION ALL SELECT 'last_offset', last_offset, max(
                 (SELECT coalesce(max(offset), 0) FROM events), (SELECT coalesce(max(offset), 0) FROM stubs),
                 (SELECT coalesce(max(last_offset), 0) FROM {gaps}))
             FROM partitions
         ) p WHERE p.counted <> p.rows";

/// Behind what it has forgotten, each topic has stubs up to `purged_seq`, then events up to `last_seq`, without gaps, in the
/// order of their offsets.
fn check_seqs(
    connection: &Connection,
    replayed: &Replayed,
    report: &mut VerifyReport,
) -> rusqlite::Result<()> {
    faults(
        connection,
        report,
        "SELECT t.name, r.seq, r.expected FROM (
             SELECT r.topic_id, r.seq, coalesce(m.seq, 0)
                    + row_number() OVER (PARTITION BY r.topic_id ORDER BY r.offset) AS expected
             FROM (SELECT topic_id, seq, offset FROM events
                   UNION ALL SELECT topic_id, seq, offset FROM stubs WHERE seq IS NOT NULL) r
             LEFT JOIN {marks} m ON m.topic_id = r.topic_id
         ) r JOIN topics t ON t.topic_id = r.topic_id WHERE r.seq <> r.expected",
        |row| {
            let (topic, seq, expected): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(format!("topic {topic} has seq {seq} where {expected} belongs"))
        },
    )?;
    faults_of_some(
        connection,
        report,
        "SELECT t.name, t.last_seq, coalesce(r.rows, 0), coalesce(m.seq, 0), t.topic_id FROM topics t LEFT JOIN (
             SELECT topic_id, count(*) AS rows
             FROM (SELECT topic_id FROM events UNION ALL SELECT topic_id FROM stubs WHERE seq IS NOT NULL)
             GROUP BY topic_id
         ) r ON r.topic_id = t.topic_id LEFT JOIN {marks} m ON m.topic_id = t.topic_id
         WHERE t.last_seq <> coalesce(r.rows, 0) + coalesce(m.seq, 0)",
        |row| {
            let (topic, folded, rows): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let mark: i64 = row.get(3)?;
            let unfolded = replayed.of(row.get(4)?).map_or(0, Delta::stored).cast_signed();
            let last_seq = folded.saturating_add(unfolded);
            if last_seq == rows + mark {
                return Ok(None);
            }
            let behind = match mark {
                0 => String::new(),
                seq => format!(" behind seq {seq}, up to which it has forgotten them"),
            };
            Ok(Some(format!("topic {topic} ends at seq {last_seq} and has {rows} rows{behind}")))
        },
    )
}

/// The spans of the table and of the journal hold each event once, under its topic, and each topic knows its last one in
/// the table.
fn check_spans(
    connection: &Connection,
    replayed: &Replayed,
    report: &mut VerifyReport,
) -> rusqlite::Result<()> {
    let journal_has = |topic_id, offset| {
        let spans = replayed.of(topic_id).map_or(&[][..], |delta| &delta.spans);
        let behind = spans.partition_point(|span| span.first <= offset);
        behind > 0 && spans[behind - 1].last >= offset
    };
    faults_of_some(
        connection,
        report,
        "SELECT e.offset, e.topic_id FROM events e WHERE NOT EXISTS (
             SELECT 1 FROM (SELECT last_offset FROM spans
                            WHERE topic_id = e.topic_id AND first_offset <= e.offset
                            ORDER BY first_offset DESC LIMIT 1) s
             WHERE s.last_offset >= e.offset)",
        |row| {
            let offset: u64 = row.get(0)?;
            let is_missing = !journal_has(row.get(1)?, offset);
            Ok(is_missing.then(|| format!("no span of its topic holds the event at offset {offset}")))
        },
    )?;
    let spanned: u64 = connection.query_row(
        "SELECT coalesce(sum(last_offset - first_offset + 1), 0) FROM spans",
        [],
        |row| row.get(0),
    )?;
    let spanned = spanned + replayed.deltas.iter().map(Delta::stored).sum::<u64>();
    if spanned != report.events {
        report.faults.push(format!("the spans hold {spanned} offsets, there are {} events", report.events));
    }
    faults(
        connection,
        report,
        "SELECT t.name, t.last_span FROM topics t LEFT JOIN (
             SELECT topic_id, max(first_offset) AS first_offset, max(last_offset) AS last_offset
             FROM spans GROUP BY topic_id
         ) s ON s.topic_id = t.topic_id
         WHERE t.last_span <> coalesce(s.first_offset, 0)
             OR t.last_offset <> coalesce(s.last_offset, t.purged_offset)",
        |row| {
            let (topic, says): (String, i64) = (row.get(0)?, row.get(1)?);
            Ok(format!(
                "topic {topic} says its last span begins at offset {says}, and the spans say otherwise"
            ))
        },
    )
}

/// In each topic, rows up to `purged_seq` are stubs, and later rows are events.
fn check_purges(connection: &Connection, report: &mut VerifyReport) -> rusqlite::Result<()> {
    faults(
        connection,
        report,
        "SELECT t.name, r.seq, r.stub FROM (
             SELECT topic_id, seq, 0 AS stub FROM events
             UNION ALL SELECT topic_id, seq, 1 FROM stubs WHERE seq IS NOT NULL
         ) r JOIN topics t ON t.topic_id = r.topic_id WHERE (r.seq <= t.purged_seq) <> r.stub",
        |row| {
            let (topic, seq, stub): (String, i64, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (is, should) = if stub { ("a stub", "an event") } else { ("an event", "a stub") };
            Ok(format!("topic {topic} has {is} at seq {seq} where {should} belongs"))
        },
    )?;
    faults(
        connection,
        report,
        // Where all that was purged was forgotten, the mark is there or behind it.
        "SELECT name, purged_offset, last FROM (
             SELECT t.name, t.purged_offset, (SELECT max(offset) FROM stubs s
                    WHERE s.topic_id = t.topic_id AND s.seq IS NOT NULL) AS last,
                 coalesce(m.seq = t.purged_seq AND m.offset >= t.purged_offset, false) AS forgotten
             FROM topics t LEFT JOIN {marks} m ON m.topic_id = t.topic_id)
         WHERE purged_offset <> coalesce(last, 0) AND NOT (last IS NULL AND forgotten)",
        |row| {
            let (topic, says, last): (String, i64, Option<i64>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let last = last.unwrap_or(0);
            Ok(format!("topic {topic} says it is purged to offset {says}, its last stub is at {last}"))
        },
    )
}

/// No gap has a row in it, or is next to another one, and each mark is in one. How many offsets they have was counted.
fn check_gaps(connection: &Connection, report: &mut VerifyReport) -> rusqlite::Result<()> {
    let gap_before = "(SELECT last_offset FROM {gaps} WHERE first_offset <= r.offset
                       ORDER BY first_offset DESC LIMIT 1)";
    let describe =
        |row: &Row<'_>| Ok(format!("offset {} has a row and was forgotten", row.get::<_, i64>(0)?));
    for table in ["events", "stubs"] {
        let sql = format!("SELECT r.offset FROM {table} r WHERE {gap_before} >= r.offset");
        faults(connection, report, &sql, describe)?;
    }
    let sql = format!("SELECT r.offset FROM {{marks}} r WHERE coalesce({gap_before}, 0) < r.offset");
    faults(connection, report, &sql, |row| {
        Ok(format!("the row at offset {} was not forgotten, and a mark says so", row.get::<_, i64>(0)?))
    })?;
    faults(
        connection,
        report,
        "SELECT first_offset FROM (SELECT first_offset, lag(last_offset) OVER (ORDER BY first_offset) AS before
                                   FROM {gaps}) WHERE before >= first_offset - 1",
        |row| Ok(format!("the gap from offset {} on begins in another one", row.get::<_, i64>(0)?)),
    )
}

/// Payloads are JSON, and time does not go back.
fn check_rows(connection: &Connection, report: &mut VerifyReport) -> rusqlite::Result<()> {
    faults(connection, report, "SELECT offset FROM events WHERE NOT json_valid(payload)", |row| {
        Ok(format!("the payload at offset {} is not JSON", row.get::<_, i64>(0)?))
    })?;
    faults(
        connection,
        report,
        "SELECT offset FROM (
             SELECT offset, processed_at, lag(processed_at) OVER (ORDER BY offset) AS before
             FROM (SELECT offset, processed_at FROM events
                   UNION ALL SELECT offset, processed_at FROM stubs WHERE seq IS NOT NULL
                   UNION ALL SELECT last_offset + 1, last_processed_at FROM partitions WHERE last_offset > 0)
         ) WHERE processed_at < before",
        |row| Ok(format!("processed_at goes back before offset {}", row.get::<_, i64>(0)?)),
    )
}

/// Every row matches its checksum, and every topic has the slot that it is hashed to.
fn check_checksums(connection: &Connection, report: &mut VerifyReport) -> rusqlite::Result<()> {
    let mut check = |sql: &str, read: fn(&Row<'_>) -> rusqlite::Result<()>| {
        let mut select = connection.prepare(sql)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            if report.faults.len() >= MAX_FAULTS {
                break;
            }
            if let Err(error) = read(row) {
                report.faults.push(match store_error("verifying", error) {
                    StoreError::Corrupt { what, .. } => what,
                    other => other.to_string(),
                });
            }
        }
        Ok::<_, rusqlite::Error>(())
    };
    check(&format!("SELECT {EVENT_COLUMNS} FROM events e"), |row| EventRow::read(row).map(drop))?;
    check(&format!("SELECT {STUB_COLUMNS} FROM stubs s"), |row| StubRow::read(row).map(drop))?;
    check(&format!("SELECT {TOPIC_COLUMNS} FROM topics t"), |row| TopicRow::read(row).map(drop))?;
    if schema::has_forgotten(connection)? {
        check(&format!("SELECT {FORGOTTEN_COLUMNS} FROM forgotten f"), |row| Forgotten::read(row).map(drop))?;
        check(&format!("SELECT {GAP_COLUMNS} FROM gaps g"), |row| Gap::read(row).map(drop))?;
    }
    if let Err(error) = PartitionState::read(connection) {
        report.faults.push(store_error("verifying", error).to_string());
    }
    Ok(())
}

/// Every record is what was written, and none is missing or too many.
fn check_records(connection: &Connection, report: &mut VerifyReport) -> rusqlite::Result<()> {
    let mut counted = RecordTotals::default();
    if schema::has_records(connection)? {
        let mut select = connection.prepare(&format!("SELECT {RECORD_COLUMNS} FROM records r"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            match RecordRow::read(row) {
                Ok(record) => counted.add(&record),
                Err(error) => report.faults.push(store_error("verifying", error).to_string()),
            }
            if report.faults.len() >= MAX_FAULTS {
                return Ok(());
            }
        }
    }
    match RecordTotals::read(connection) {
        Ok(totals) => report.faults.extend(totals.contradiction(&counted)),
        Err(error) => report.faults.push(store_error("verifying", error).to_string()),
    }
    Ok(())
}
