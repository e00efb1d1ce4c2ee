//! The statements for records. Sessions prepare them at the first use: most never need them, and some stores do not have
//! the tables.

use tokio_postgres::{Client, Statement};

use crate::fault::Result;

statements! {
    /// The statements of a write of records.
    RecordWrites {
        // In this order, so that writes cannot deadlock.
        lock: "SELECT b.bucket, b.last_version, b.last_attempt = $2,
                      coalesce(current_setting('synchronous_standby_names', true), ''),
                      (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
               FROM (SELECT bucket, last_version, last_attempt FROM record_versions WHERE bucket = ANY($1)
                     ORDER BY bucket FOR UPDATE) AS b",
        current: "SELECT k.at, r.version, r.attempt = $3
                  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k(kind, name, at)
                  CROSS JOIN LATERAL (SELECT o.version, o.attempt FROM records o
                                      WHERE o.kind = k.kind AND o.name = k.name) AS r",
        delete: "DELETE FROM records WHERE kind = $1 AND name = ANY($2)",
        upsert: "INSERT INTO records (kind, name, version, value, attempt)
                 SELECT n.kind, n.name, n.version, n.value, $5
                 FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) AS n(kind, name, version, value)
                 ON CONFLICT (kind, name) DO UPDATE SET version = excluded.version, value = excluded.value,
                     attempt = excluded.attempt",
        // The rows exist, so the insert always updates: see `write` of an append.
        count: "INSERT INTO record_versions (bucket, last_version, last_attempt)
                SELECT n.bucket, n.last_version, $3 FROM unnest($1::integer[], $2::bigint[]) AS n(bucket, last_version)
                ON CONFLICT (bucket) DO UPDATE SET last_version = excluded.last_version,
                    last_attempt = excluded.last_attempt",
        touch: "UPDATE record_versions SET last_version = last_version WHERE bucket = ANY($1)",
    }
}

statements! {
    /// The statements of reads of records.
    RecordReads {
        get: "SELECT version, value FROM records WHERE kind = $1 AND name = $2",
        list: "SELECT name, version, value FROM (
                   SELECT *, sum(octet_length(value)) OVER (ORDER BY name) - octet_length(value) AS before FROM (
                       SELECT name, version, value FROM records
                       WHERE kind = $1 AND name >= $2 AND name > $3 AND ($4::text IS NULL OR name < $4)
                       ORDER BY name LIMIT $5) limited) summed
               WHERE before < $6 ORDER BY name",
        now: "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
    }
}
