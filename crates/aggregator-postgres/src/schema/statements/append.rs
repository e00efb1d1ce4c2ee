//! The statements of appending sessions.

use tokio_postgres::{Client, Statement};

use crate::fault::Result;

statements! {
    /// The statements of appends, purges, imports, erasures and releases.
    Append {
        // For one partition. Here and below, such a statement names the partition by a parameter, also where it inserts:
        // so an engine with shards sends it to the right one as it is, and one shard commits alone.
        lock: locked!("partition = $1"),
        // The attempt, if it was committed before, and the topics. There is at least one row.
        topics: "SELECT a.partition, a.first_offset, a.last_offset, t.name, t.topic_id, t.scope, t.last_seq
                 FROM (VALUES (1)) AS one
                 LEFT JOIN appends a ON a.partition = $1 AND a.attempt_id = $2
                 LEFT JOIN topics t ON t.partition = $1 AND t.name = ANY($3)",
        originals: originals!(identity, "$1", "", ""),
        // The same for several partitions. Every transaction locks them in this order, so none can deadlock.
        lock_several: locked!("partition = ANY($1) ORDER BY partition"),
        topics_several: concat!("SELECT partition, first_offset, last_offset, NULL, NULL, NULL, NULL
                 FROM appends WHERE partition = ANY($1) AND attempt_id = $2
                 UNION ALL
                 SELECT NULL, NULL, NULL, t.name, t.topic_id, t.scope, t.last_seq
                 FROM unnest($3::integer[], $4::text[]) AS k(partition, topic)
                 CROSS JOIN LATERAL (", topic_named!("k.partition"), ") AS t"),
        originals_several: originals!(identity, "k.partition", "$1::integer[], ", "partition, "),
        // Also what was stored under them before they were released.
        all_originals: originals!(all_of_identity, "$1", "", ""),
        all_originals_several: originals!(all_of_identity, "k.partition", "$1::integer[], ", "partition, "),
        count_topics: "SELECT coalesce(sum(topics), 0)::bigint FROM partitions",
        insert_topics: "INSERT INTO topics (partition, topic_id, name, slot, scope, last_seq, purged_seq,
                            purged_offset, duplicates, conflicts)
                        SELECT p.partition, n.topic_id, n.name, n.slot, n.scope, n.last_seq, 0, 0, n.duplicates,
                               n.conflicts
                        FROM partitions p
                        CROSS JOIN unnest($2::bigint[], $3::text[], $4::integer[], $5::integer[], $6::bigint[],
                                          $7::bigint[], $8::bigint[])
                            AS n(topic_id, name, slot, scope, last_seq, duplicates, conflicts)
                        WHERE p.partition = $1",
        insert_topics_several: "INSERT INTO topics (partition, topic_id, name, slot, scope, last_seq,
                            purged_seq, purged_offset, duplicates, conflicts)
                        SELECT n.partition, n.topic_id, n.name, n.slot, n.scope, n.last_seq, 0, 0, n.duplicates,
                               n.conflicts
                        FROM unnest($1::integer[], $2::bigint[], $3::text[], $4::integer[], $5::integer[],
                                    $6::bigint[], $7::bigint[], $8::bigint[])
                            AS n(partition, topic_id, name, slot, scope, last_seq, duplicates, conflicts)",
        // Writes the new events, the old topics, what the attempt stored, and the counters. It is one statement,
        // because each costs as much as several events. The topics exist, so their insert always updates.
        write: "WITH new_events AS (
                    INSERT INTO events (partition, \"offset\", topic_id, seq, event_id, source, source_key,
                        timestamp, payload, sequence, content_type, attributes, processed_at)
                    SELECT p.partition, n.\"offset\", n.topic_id, n.seq, n.event_id, n.source,
                           CASE WHEN n.by_source THEN n.source ELSE '' END,
                           n.timestamp, n.payload, n.sequence, n.content_type, n.attributes, n.processed_at
                    FROM partitions p
                    CROSS JOIN unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::boolean[],
                                      $8::text[], $9::text[], $10::bigint[], $11::text[], $12::text[], $13::bigint[])
                        AS n(\"offset\", topic_id, seq, event_id, source, by_source, timestamp, payload, sequence,
                             content_type, attributes, processed_at)
                    WHERE p.partition = $1),
                old_topics AS (
                    INSERT INTO topics AS t (partition, topic_id, name, slot, scope, last_seq, purged_seq,
                        purged_offset, duplicates, conflicts)
                    SELECT p.partition, n.topic_id, n.name, n.slot, n.scope, n.last_seq, 0, 0, n.duplicates,
                           n.conflicts
                    FROM partitions p
                    CROSS JOIN unnest($14::bigint[], $15::text[], $16::integer[], $17::integer[], $18::bigint[],
                                      $19::bigint[], $20::bigint[])
                        AS n(topic_id, name, slot, scope, last_seq, duplicates, conflicts)
                    WHERE p.partition = $1
                    ON CONFLICT (partition, topic_id) DO UPDATE SET last_seq = excluded.last_seq,
                        duplicates = t.duplicates + excluded.duplicates,
                        conflicts = t.conflicts + excluded.conflicts),
                attempt AS (
                    INSERT INTO appends (partition, attempt_id, first_offset, last_offset, at)
                    SELECT p.partition, $21::bytea, $22::bigint, $23::bigint, $24::bigint
                    FROM partitions p WHERE p.partition = $1)
                UPDATE partitions SET last_offset = $23::bigint, last_processed_at = $25::bigint,
                    topics = topics + $26::bigint, stored = stored + $27::bigint,
                    duplicates = duplicates + $28::bigint, conflicts = conflicts + $29::bigint
                WHERE partition = $1",
        // The same for several partitions. They exist as well. The planner might turn an UPDATE … FROM into a scan of
        // all of them.
        write_several: "WITH parts AS (
                    SELECT * FROM unnest($22::integer[], $23::bigint[], $24::bigint[], $25::bigint[], $26::bigint[],
                                         $27::bigint[], $28::bigint[], $29::bigint[])
                        AS n(partition, first_offset, last_offset, processed_at, topics, stored, duplicates,
                             conflicts)),
                new_events AS (
                    INSERT INTO events (partition, \"offset\", topic_id, seq, event_id, source, source_key,
                        timestamp, payload, sequence, content_type, attributes, processed_at)
                    SELECT n.partition, n.\"offset\", n.topic_id, n.seq, n.event_id, n.source,
                           CASE WHEN n.by_source THEN n.source ELSE '' END,
                           n.timestamp, n.payload, n.sequence, n.content_type, n.attributes, n.processed_at
                    FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[],
                                $7::boolean[], $8::text[], $9::text[], $10::bigint[], $11::text[], $12::text[],
                                $13::bigint[])
                        AS n(partition, \"offset\", topic_id, seq, event_id, source, by_source, timestamp,
                             payload, sequence, content_type, attributes, processed_at)),
                old_topics AS (
                    INSERT INTO topics AS t (partition, topic_id, name, slot, scope, last_seq, purged_seq,
                        purged_offset, duplicates, conflicts)
                    SELECT n.partition, n.topic_id, n.name, n.slot, n.scope, n.last_seq, 0, 0, n.duplicates,
                           n.conflicts
                    FROM unnest($14::integer[], $15::bigint[], $16::text[], $17::integer[], $18::integer[],
                                $19::bigint[], $20::bigint[], $21::bigint[])
                        AS n(partition, topic_id, name, slot, scope, last_seq, duplicates, conflicts)
                    ON CONFLICT (partition, topic_id) DO UPDATE SET last_seq = excluded.last_seq,
                        duplicates = t.duplicates + excluded.duplicates,
                        conflicts = t.conflicts + excluded.conflicts),
                attempt AS (
                    INSERT INTO appends (partition, attempt_id, first_offset, last_offset, at)
                    SELECT partition, $30, first_offset, last_offset, $31 FROM parts)
                INSERT INTO partitions AS p (partition, last_offset, last_processed_at, topics, stored, duplicates,
                    conflicts)
                SELECT partition, last_offset, processed_at, topics, stored, duplicates, conflicts FROM parts
                ON CONFLICT (partition) DO UPDATE SET last_offset = excluded.last_offset,
                    last_processed_at = excluded.last_processed_at, topics = p.topics + excluded.topics,
                    stored = p.stored + excluded.stored, duplicates = p.duplicates + excluded.duplicates,
                    conflicts = p.conflicts + excluded.conflicts",
        // It writes, so that the commit waits for the disk and the standbys as the first one should have. On
        // PostgreSQL, locking the partition's row is a write already, but other engines do not log locks.
        touch_append: "UPDATE appends SET at = greatest(at, $3) WHERE partition = ANY($1) AND attempt_id = $2",
        prune_appends: "DELETE FROM appends WHERE partition = $1 AND attempt_id = ANY(ARRAY(
                            SELECT attempt_id FROM appends WHERE partition = $1 AND at < $2 ORDER BY at LIMIT $3))",
        purgeable: "SELECT topic_id, last_seq, purged_seq, purged_offset FROM topics WHERE partition = $1 AND name = $2",
        oldest: "SELECT \"offset\", seq, octet_length(payload) FROM events
                 WHERE partition = $1 AND topic_id + 0 = $2 AND \"offset\" > $3 AND seq IS NOT NULL
                 ORDER BY \"offset\" LIMIT $4",
        payloads: concat!("SELECT e.\"offset\", e.payload FROM unnest($2::bigint[]) AS k(at)
                   CROSS JOIN LATERAL (", row_at!(), ") AS e"),
        purge_events: change_rows!("$2::bigint[], $3::bytea[]) AS k(at, digest", "k.digest",
                                   "payload = NULL, digest = excluded.digest"),
        purge_topic: "UPDATE topics SET purged_seq = $3, purged_offset = $4 WHERE partition = $1 AND topic_id = $2",
        update_partition: "UPDATE partitions SET last_offset = $2, last_processed_at = $3, topics = topics + $4,
                               stored = stored + $5, duplicates = duplicates + $6, conflicts = conflicts + $7
                           WHERE partition = $1",
        import_topics: "SELECT name, topic_id, scope, last_seq, purged_seq, purged_offset, duplicates, conflicts
                        FROM topics WHERE partition = $1 AND name = ANY($2)",
        // As in an append, with all columns that have to be the same. Of the released rows, only those that can be the
        // imported one.
        import_originals: concat!("SELECT k.at, e.\"offset\", e.seq, e.processed_at, octet_length(e.payload), e.digest, ",
                                  payload_to_compare!(), ", e.source, e.timestamp, e.sequence, e.content_type,
                                  e.attributes, e.released
                           FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[])
                               WITH ORDINALITY AS k(topic, event_id, source, payload_bytes, seq, at)
                           CROSS JOIN LATERAL (", topic_named!("$1"), ") AS t
                           CROSS JOIN LATERAL ", key_in_topic!(), "
                           CROSS JOIN LATERAL (", all_of_identity!("$1", "t.topic_id", "s.key"), ") AS e
                           WHERE NOT e.released OR e.seq IS NOT DISTINCT FROM k.seq"),
        import_rows: "INSERT INTO events (partition, \"offset\", topic_id, seq, event_id, source, source_key,
                          timestamp, payload, digest, sequence, content_type, attributes, processed_at)
                      SELECT p.partition, n.\"offset\", n.topic_id, n.seq, n.event_id, n.source,
                             CASE WHEN n.by_source THEN n.source ELSE '' END
                                 || CASE WHEN n.released THEN chr(1) || n.\"offset\"::text ELSE '' END,
                             n.timestamp, n.payload, n.digest, n.sequence, n.content_type, n.attributes,
                             n.processed_at
                      FROM partitions p
                      CROSS JOIN unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::boolean[],
                                        $8::text[], $9::text[], $10::bytea[], $11::bigint[], $12::text[],
                                        $13::text[], $14::bigint[], $15::boolean[])
                          AS n(\"offset\", topic_id, seq, event_id, source, by_source, timestamp, payload, digest,
                               sequence, content_type, attributes, processed_at, released)
                      WHERE p.partition = $1",
        import_new_topics: imported_topics!(),
        // The topics exist: see `write`.
        import_old_topics: concat!(imported_topics!(), " ON CONFLICT (partition, topic_id) DO UPDATE SET last_seq = excluded.last_seq,
                                purged_seq = excluded.purged_seq, purged_offset = excluded.purged_offset,
                                duplicates = excluded.duplicates, conflicts = excluded.conflicts"),
        // The rows of identities, released ones, too.
        amendable: concat!("SELECT k.at, e.\"offset\", e.seq, e.processed_at, e.payload IS NULL, e.released
                    FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS k(topic, event_id, source, at)
                    CROSS JOIN LATERAL (", topic_named!("$1"), ") AS t
                    CROSS JOIN LATERAL ", key_in_topic!(), "
                    CROSS JOIN LATERAL (", all_of_identity!("$1", "t.topic_id", "s.key"), ") AS e"),
        erase_rows: change_rows!("$2::bigint[]) AS k(at", "NULL::bytea",
                                 "payload = CASE WHEN events.payload IS NULL THEN NULL ELSE $3::text END,
                                  digest = CASE WHEN events.payload IS NULL THEN $4::bytea END,
                                  content_type = NULL, attributes = NULL"),
        // Rows that are released already stay as they are.
        release_rows: change_rows!("$2::bigint[]) AS k(at", "NULL::bytea",
                                   "source_key = split_part(excluded.source_key, chr(1), 1) || chr(1)
                                        || excluded.\"offset\"::text"),
    }
}
