//! The statements of frequent calls. A session prepares them once.

use tokio_postgres::{Client, Statement};

use aggregator_core::event::ERASED_PAYLOAD;

use crate::connection::session::Role;
use crate::fault::Result;

/// Names statements, and prepares all of them in one round trip.
macro_rules! statements {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $sql:expr,)+ }) => {
        $(#[$doc])*
        pub(crate) struct $name {
            $(pub(crate) $field: Statement,)+
        }

        impl $name {
            pub(crate) async fn prepare(client: &Client) -> Result<Self> {
                // Boxed, because every call that may have to connect would be larger by all of them on its stack.
                let ($($field,)+) = tokio::try_join!($(Box::pin(client.prepare($sql)),)+)?;
                Ok(Self { $($field,)+ })
            }
        }
    };
}

/// The event with an identity. While the table is small or was never analyzed, all indexes that begin with the
/// partition look alike to the planner, and a plan made then can last long. With another index, it would read a whole
/// topic or partition for each identity. Only the index of identities gives this order without a sort.
macro_rules! identity {
    ($partition:literal, $topic_id:literal, $source_key:literal) => {
        concat!(
            "SELECT i.* FROM events i
             WHERE i.partition = ",
            $partition,
            " AND i.topic_id = ",
            $topic_id,
            " AND i.event_id >= k.event_id AND i.event_id <= k.event_id AND i.source_key = ",
            $source_key,
            " ORDER BY i.event_id LIMIT 1"
        )
    };
}

/// The rows that have an identity, or had it before it was released.
///
/// A released row has another `source_key`, so that the unique index lets its identity come again: the key, the
/// character 1, and the row's offset. No source has a control character, so released rows stand right behind the row
/// that has the identity, and in front of all other identities.
macro_rules! all_of_identity {
    ($partition:literal, $topic_id:literal, $source_key:literal) => {
        concat!(
            "SELECT i.*, i.source_key > ",
            $source_key,
            " AS released FROM events i
             WHERE i.partition = ",
            $partition,
            " AND i.topic_id = ",
            $topic_id,
            " AND i.event_id >= k.event_id AND i.event_id <= k.event_id AND i.source_key >= ",
            $source_key,
            " AND i.source_key < ",
            $source_key,
            " || chr(2) ORDER BY i.event_id"
        )
    };
}

/// An identity's key in the topic `t`.
macro_rules! key_in_topic {
    () => {
        "(SELECT CASE t.scope WHEN 0 THEN '' ELSE k.source END) AS s(key)"
    };
}

/// The topic with a name. Only the indexes on names give this order.
macro_rules! topic_named {
    ($partition:literal) => {
        concat!(
            "SELECT o.* FROM topics o WHERE o.partition = ",
            $partition,
            " AND o.name >= k.topic AND o.name <= k.topic ORDER BY o.name LIMIT 1"
        )
    };
}

/// Locks rows of partitions. The outer query reads the clock, so that it is read after the locks are granted.
macro_rules! locked {
    ($which:literal) => {
        concat!(
            "SELECT p.*, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
                    coalesce(current_setting('synchronous_standby_names', true), '')
             FROM (SELECT partition, last_offset, last_processed_at, topics FROM partitions WHERE ",
            $which,
            " FOR UPDATE) AS p"
        )
    };
}

/// A stored payload, if it is as long as the one that was sent or as the one of an erased event. Any other one differs
/// anyway.
macro_rules! payload_to_compare {
    () => {
        "CASE WHEN octet_length(e.payload) IN (k.payload_bytes, 15) THEN e.payload END"
    };
}
const _: () = assert!(ERASED_PAYLOAD.len() == 15, "the statement above says how long it is");

/// What is stored under identities, as `$rows` finds it.
macro_rules! originals {
    ($rows:ident, $partition:literal, $array:literal, $column:literal) => {
        concat!(
            "SELECT k.at, e.\"offset\", e.seq, e.processed_at, e.payload IS NULL, e.digest, ",
            payload_to_compare!(),
            " FROM unnest(",
            $array,
            "$2::bigint[], $3::text[], $4::text[], $5::bigint[]) WITH ORDINALITY AS k(",
            $column,
            "topic_id, event_id, source_key, payload_bytes, at)
             CROSS JOIN LATERAL (",
            $rows!($partition, "k.topic_id", "k.source_key"),
            ") AS e"
        )
    };
}

/// The event at an offset. Of the indexes that begin with the partition, only the one of offsets gives this order.
macro_rules! row_at {
    () => {
        "SELECT i.* FROM events i WHERE i.partition = $1 AND i.\"offset\" >= k.at AND i.\"offset\" <= k.at
         ORDER BY i.\"offset\" LIMIT 1"
    };
}

/// Changes the rows at offsets of one partition. They exist, so the insert always updates. For an UPDATE … FROM, the
/// planner might scan the partition.
macro_rules! change_rows {
    ($arrays:literal, $digest:literal, $set:literal) => {
        concat!(
            "INSERT INTO events (partition, \"offset\", topic_id, event_id, source, source_key, timestamp, processed_at,
                 digest)
             SELECT $1, e.\"offset\", e.topic_id, e.event_id, e.source, e.source_key, e.timestamp, e.processed_at, ",
            $digest,
            " FROM unnest(",
            $arrays,
            ") CROSS JOIN LATERAL (",
            row_at!(),
            ") AS e ON CONFLICT (partition, \"offset\") DO UPDATE SET ",
            $set
        )
    };
}

/// Writes topics in the state in which an import leaves them.
macro_rules! imported_topics {
    () => {
        "INSERT INTO topics (partition, topic_id, name, slot, scope, last_seq, purged_seq, purged_offset, duplicates,
             conflicts)
         SELECT $1, n.topic_id, n.name, n.slot, n.scope, n.last_seq, n.purged_seq, n.purged_offset, n.duplicates,
                n.conflicts
         FROM unnest($2::bigint[], $3::text[], $4::integer[], $5::integer[], $6::bigint[], $7::bigint[], $8::bigint[],
                     $9::bigint[], $10::bigint[])
             AS n(topic_id, name, slot, scope, last_seq, purged_seq, purged_offset, duplicates, conflicts)"
    };
}

// The modules stand after the macros that they use.
mod forget;
mod read;

pub(crate) use self::forget::{DELETE_BY_KEY, DELETE_IN_PLACE, ForgetWrites, ForgottenReads};
pub(crate) use self::read::{Read, RecordReads};

/// The statements that a session has prepared.
pub(crate) enum Statements {
    Append(Box<Append>),
    Read(Box<Read>),
    None,
}

impl Statements {
    pub(crate) async fn prepare(client: &Client, role: Role) -> Result<Self> {
        Ok(match role {
            Role::Append => Self::Append(Box::new(Append::prepare(client).await?)),
            Role::Read => Self::Read(Box::new(Read::prepare(client).await?)),
            Role::Relay | Role::Migrate => Self::None,
        })
    }

    /// The statements of an appending session.
    pub(crate) fn append(&self) -> &Append {
        let Self::Append(statements) = self else { unreachable!("only appending sessions append") };
        statements
    }

    /// The statements of a reading session.
    pub(crate) fn read(&self) -> &Read {
        let Self::Read(statements) = self else { unreachable!("only reading sessions read") };
        statements
    }
}

statements! {
    /// The statements of appends, purges, imports, erasures and releases.
    Append {
        // For one partition, in a form that a sharded engine can send to the right shard.
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
        all_originals: originals!(all_of_identity, "k.partition", "$1::integer[], ", "partition, "),
        count_topics: "SELECT coalesce(sum(topics), 0)::bigint FROM partitions",
        insert_topics: "INSERT INTO topics (partition, topic_id, name, slot, scope, last_seq, purged_seq,
                            purged_offset, duplicates, conflicts)
                        SELECT n.partition, n.topic_id, n.name, n.slot, n.scope, n.last_seq, 0, 0, n.duplicates,
                               n.conflicts
                        FROM unnest($1::integer[], $2::bigint[], $3::text[], $4::integer[], $5::integer[],
                                    $6::bigint[], $7::bigint[], $8::bigint[])
                            AS n(partition, topic_id, name, slot, scope, last_seq, duplicates, conflicts)",
        // Writes the new events, the old topics, what the attempt stored, and the counters. It is one statement,
        // because each costs as much as several events. The topics and partitions exist, so their inserts always
        // update. The planner might turn an UPDATE … FROM into a scan of all of them.
        write: "WITH parts AS (
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
                      SELECT $1, n.\"offset\", n.topic_id, n.seq, n.event_id, n.source,
                             CASE WHEN n.by_source THEN n.source ELSE '' END
                                 || CASE WHEN n.released THEN chr(1) || n.\"offset\"::text ELSE '' END,
                             n.timestamp, n.payload, n.digest, n.sequence, n.content_type, n.attributes,
                             n.processed_at
                      FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::boolean[],
                                  $8::text[], $9::text[], $10::bytea[], $11::bigint[], $12::text[], $13::text[],
                                  $14::bigint[], $15::boolean[])
                          AS n(\"offset\", topic_id, seq, event_id, source, by_source, timestamp, payload, digest,
                               sequence, content_type, attributes, processed_at, released)",
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
