//! Checks whether the whole store is consistent, in one snapshot.

use std::collections::HashMap;

use aggregator_core::event::slot;
use aggregator_core::store::{StoreInfo, VerifyReport};
use tokio_postgres::Row;

use crate::columns::{get, get_u64};
use crate::connection::session::Session;
use crate::fault::Result;
use crate::records::{BUCKETS, bucket};

/// The most faults a report lists.
const MAX_FAULTS: usize = 100;

/// The marks of forgotten rows, as the queries know them.
const MARKS: &str = "WITH marks AS (SELECT * FROM forgotten)";
/// In a store without the table.
const NO_MARKS: &str = "WITH marks AS (
     SELECT 0 AS partition, 0::bigint AS topic_id, 0::bigint AS \"offset\", 0::bigint AS seq, 0::bigint AS rows,
            0::bigint AS processed_at WHERE false)";

/// Each query returns a sentence for each fault it finds.
const CHECKS: [&str; 13] = [
    // Counters of a partition against its topics, its rows, and the marks that stand for forgotten ones.
    "SELECT format('the counter %s of partition %s says %s, the rows say %s', what, partition, counted, rows)
     FROM (
         SELECT p.partition, c.* FROM partitions p
         LEFT JOIN (SELECT partition, count(*) AS topics, sum(last_seq) AS stored, sum(duplicates) AS duplicates,
                           sum(conflicts) AS conflicts FROM topics GROUP BY partition) t USING (partition)
         LEFT JOIN (SELECT partition, max(\"offset\") AS last_offset, count(seq) AS stored
                    FROM events GROUP BY partition) e USING (partition)
         LEFT JOIN (SELECT partition, max(\"offset\") AS last_offset, sum(seq)::bigint AS stored
                    FROM marks GROUP BY partition) m USING (partition)
         CROSS JOIN LATERAL (VALUES
             ('stored', p.stored, coalesce(e.stored, 0) + coalesce(m.stored, 0)),
             ('stored', p.stored, coalesce(t.stored, 0)::bigint),
             ('duplicates', p.duplicates, coalesce(t.duplicates, 0)::bigint),
             ('conflicts', p.conflicts, coalesce(t.conflicts, 0)::bigint),
             ('topics', p.topics, coalesce(t.topics, 0)),
             ('last_offset', p.last_offset, greatest(e.last_offset, m.last_offset, 0))
         ) AS c(what, counted, rows)
     ) r WHERE counted <> rows",
    // Offsets have no gaps but those of forgotten rows.
    "SELECT format('partition %s has %s rows up to offset %s, and %s forgotten ones', partition, rows, last, forgotten)
     FROM (
         SELECT partition, sum(rows) AS rows, sum(forgotten) AS forgotten, max(last) AS last FROM (
             SELECT partition, count(*) AS rows, 0 AS forgotten, max(\"offset\") AS last FROM events GROUP BY partition
             UNION ALL SELECT partition, 0, rows, \"offset\" FROM marks) a
         GROUP BY partition
     ) r WHERE rows + forgotten <> last",
    // Behind the last mark there are none.
    "SELECT format('partition %s has %s rows behind offset %s, up to which rows were forgotten, and not %s',
                   m.partition, e.rows, m.last, p.last_offset - m.last)
     FROM (SELECT partition, max(\"offset\") AS last FROM marks GROUP BY partition) m JOIN partitions p USING (partition)
     CROSS JOIN LATERAL (SELECT count(*) AS rows FROM events i
                         WHERE i.partition = m.partition AND i.\"offset\" > m.last) AS e
     WHERE e.rows <> p.last_offset - m.last",
    // Per topic, seqs 1, 2, 3, … in the order of the offsets. Those of forgotten events are left out at the beginning.
    "SELECT format('topic %s has seq %s where %s belongs', t.name, r.seq, coalesce(m.seq, 0) + r.at) FROM (
         SELECT partition, topic_id, seq,
                row_number() OVER (PARTITION BY partition, topic_id ORDER BY \"offset\") AS at
         FROM events WHERE seq IS NOT NULL
     ) r JOIN topics t USING (partition, topic_id) LEFT JOIN marks m USING (partition, topic_id)
     WHERE r.seq <> coalesce(m.seq, 0) + r.at",
    "SELECT format('topic %s ends at seq %s and has %s rows, and %s forgotten events',
                   t.name, t.last_seq, coalesce(r.rows, 0), coalesce(m.seq, 0))
     FROM topics t LEFT JOIN marks m USING (partition, topic_id) LEFT JOIN (
         SELECT partition, topic_id, count(seq) AS rows FROM events GROUP BY partition, topic_id
     ) r USING (partition, topic_id) WHERE t.last_seq <> coalesce(r.rows, 0) + coalesce(m.seq, 0)",
    // A mark and its topic. Only purged events are forgotten.
    "SELECT format('partition %s has a mark of forgotten rows at offset %s that is impossible for %s: seq %s, %s rows, '
                   'processed_at %s', m.partition, m.\"offset\", coalesce('topic ' || t.name, 'no topic'), m.seq, m.rows,
                   m.processed_at)
     FROM marks m LEFT JOIN topics t USING (partition, topic_id) LEFT JOIN partitions p USING (partition)
     WHERE t.name IS NULL OR m.seq < 0 OR m.seq > t.purged_seq OR m.rows < 1 OR m.rows > m.\"offset\"
         OR m.\"offset\" > p.last_offset OR (m.seq > 0 AND m.processed_at > p.last_processed_at)",
    // Of a topic's rows up to its mark, only identities alone may be left.
    "SELECT format('topic %s has a row at offset %s, and its rows up to offset %s were forgotten',
                   t.name, e.\"offset\", m.\"offset\")
     FROM events e JOIN marks m USING (partition, topic_id) JOIN topics t USING (partition, topic_id)
     WHERE (e.seq IS NOT NULL AND e.\"offset\" <= m.\"offset\")",
    // A purged event has a digest and no payload. Any other event has a payload and no digest.
    "SELECT format('topic %s has %s at seq %s', t.name,
                   CASE WHEN e.payload IS NULL THEN 'no payload' ELSE 'a payload' END, e.seq)
     FROM events e JOIN topics t USING (partition, topic_id)
     WHERE e.seq IS NOT NULL AND ((e.payload IS NULL) <> (e.seq <= t.purged_seq)
         OR (e.payload IS NULL) <> (e.digest IS NOT NULL) OR octet_length(e.digest) <> 16)",
    "SELECT format('topic %s has an identity alone with a payload or a digest at offset %s', t.name, e.\"offset\")
     FROM events e JOIN topics t USING (partition, topic_id)
     WHERE e.seq IS NULL AND (e.payload IS NOT NULL OR e.digest IS NOT NULL)",
    // A row is found by its identity, or it is released and is not found by any.
    "SELECT format('topic %s has a row at offset %s whose key is neither that of its identity nor a released one',
                   t.name, e.\"offset\")
     FROM events e JOIN topics t USING (partition, topic_id)
     CROSS JOIN LATERAL (SELECT CASE t.scope WHEN 0 THEN '' ELSE e.source END) AS s(key)
     WHERE e.source_key NOT IN (s.key, s.key || chr(1) || e.\"offset\"::text)",
    "SELECT format('topic %s says it is purged to offset %s, which is not that of seq %s',
                   t.name, t.purged_offset, t.purged_seq)
     FROM topics t LEFT JOIN marks m USING (partition, topic_id) LEFT JOIN events e
         ON e.partition = t.partition AND e.\"offset\" = t.purged_offset
     WHERE (t.purged_seq = 0 AND t.purged_offset <> 0) OR (t.purged_seq > 0 AND CASE
         WHEN m.seq = t.purged_seq
             THEN e.\"offset\" IS NOT NULL OR t.purged_offset NOT BETWEEN 1 AND m.\"offset\"
         ELSE e.seq IS DISTINCT FROM t.purged_seq OR e.topic_id <> t.topic_id END)",
    // Events of no topic; time that goes back.
    "SELECT format('the event at offset %s of partition %s has no topic', e.\"offset\", e.partition)
     FROM events e LEFT JOIN topics t USING (partition, topic_id) WHERE t.name IS NULL",
    "SELECT format('processed_at goes back before offset %s of partition %s', \"offset\", partition) FROM (
         SELECT partition, \"offset\", processed_at,
                lag(processed_at) OVER (PARTITION BY partition ORDER BY \"offset\") AS before
         FROM (SELECT partition, \"offset\", processed_at FROM events WHERE seq IS NOT NULL
               UNION ALL SELECT partition, last_offset + 1, last_processed_at FROM partitions WHERE last_offset > 0) a
     ) r WHERE processed_at < before",
];

/// Finds identities that are stored twice. Only a broken unique index lets that happen, so the query must not use it.
const DOUBLED: &str =
    "SELECT format('the identity %s of topic %s is stored %s times', event_id, topic_id, count(*))
     FROM events GROUP BY partition, topic_id, event_id, source_key HAVING count(*) > 1";

/// Verifies the store. After an error the session is inside a transaction.
pub(crate) async fn verify(
    session: &Session,
    info: &StoreInfo,
    has_records: bool,
    has_forgotten: bool,
) -> Result<VerifyReport> {
    tokio::try_join!(biased; session.begin_snapshot(), session.allow_idle())?;
    session.run("SET LOCAL statement_timeout = 0").await?;
    // Read the tables themselves: an index may be damaged.
    session
        .run(
            "SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off;
                 SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off",
        )
        .await?;
    let mut report = VerifyReport::default();
    let row =
        session.client.query_one("SELECT count(payload), count(*) - count(payload) FROM events", &[]).await?;
    (report.events, report.stubs) = (get_u64(&row, 0)?, get_u64(&row, 1)?);
    let marks = if has_forgotten { MARKS } else { NO_MARKS };
    for check in CHECKS.into_iter().chain([DOUBLED]) {
        let rows = session.client.query(&format!("{marks} {check} LIMIT {MAX_FAULTS}"), &[]).await?;
        for row in &rows {
            report.faults.push(get(row, 0)?);
        }
    }
    let topics = session.client.query("SELECT name, slot, partition FROM topics", &[]).await?;
    for row in &topics {
        report.faults.extend(misplaced(row, info)?);
    }
    if has_records {
        check_records(session, &mut report).await?;
    }
    check_index(session, &mut report).await?;
    report.faults.truncate(MAX_FAULTS);
    session.run("COMMIT").await?;
    Ok(report)
}

fn misplaced(row: &Row, info: &StoreInfo) -> Result<Option<String>> {
    let (name, at, partition): (&str, i32, i32) = (get(row, 0)?, get(row, 1)?, get(row, 2)?);
    let belongs = (i32::from(slot(name)), i32::from(info.partitions.of(name).0));
    let fault =
        format!("topic {name} has slot {at} and partition {partition}, not {} and {}", belongs.0, belongs.1);
    Ok((belongs != (at, partition)).then_some(fault))
}

/// Checks that the bucket of each record has given out the record's version.
async fn check_records(session: &Session, report: &mut VerifyReport) -> Result<()> {
    let mut last_versions = HashMap::new();
    for row in session.client.query("SELECT bucket, last_version FROM record_versions", &[]).await? {
        last_versions.insert(get::<i32>(&row, 0)?, get::<i64>(&row, 1)?);
    }
    if let Some(bucket) = (0..BUCKETS).find(|bucket| !last_versions.contains_key(bucket)) {
        report.faults.push(format!("the bucket {bucket} of records has no row"));
    }
    for row in session.client.query("SELECT kind, name, version FROM records", &[]).await? {
        let (kind, name, version): (&str, &str, i64) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
        let last = last_versions.get(&bucket(kind, name)).copied().unwrap_or(0);
        if !(1..=last).contains(&version) {
            report.faults.push(format!(
                "the record {name} of kind {kind} has version {version}, and the last one given is {last}"
            ));
        }
    }
    Ok(())
}

/// Checks that each index leads to all rows.
async fn check_index(session: &Session, report: &mut VerifyReport) -> Result<()> {
    session
        .run(
            "SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = on;
                 SET LOCAL enable_indexonlyscan = on",
        )
        .await?;
    let indexes = [
        (
            "identities",
            "SELECT count(*) FROM (SELECT 1 FROM events ORDER BY partition, topic_id, event_id, source_key) r",
        ),
        (
            "topics",
            "SELECT count(*) FROM (SELECT 1 FROM events ORDER BY partition, topic_id + 0, \"offset\") r",
        ),
        ("offsets", "SELECT count(*) FROM (SELECT 1 FROM events ORDER BY partition, \"offset\") r"),
    ];
    for (of, count) in indexes {
        let row = session.client.query_one(count, &[]).await?;
        let (found, rows) = (get_u64(&row, 0)?, report.events + report.stubs);
        if found != rows {
            report.faults.push(format!("the index of {of} leads to {found} events, but there are {rows}"));
        }
    }
    Ok(())
}
