//! The tables, and the version of them that this program makes.
//!
//! Every key begins with the partition, so an append is a transaction on one shard where the tables are distributed
//! by partition. There are no sequences, triggers or foreign keys, because distributed engines do not have them or pay
//! for them.

/// The version of programs that the events need, kept as `schema_version`. A program refuses a store whose number is
/// higher than its own. It stays as it is while older programs can go on using the tables beside newer ones.
pub(crate) const VERSION: u32 = 1;

/// The version of all tables, kept as `tables_version`. Older programs do not know of it. They use no table that it
/// adds, so nodes of two versions can share a store during an upgrade. 2 added the tables of records.
pub(crate) const TABLES_VERSION: u32 = 2;

/// The first of these versions that has the tables of records.
pub(crate) const RECORDS_SINCE: u32 = 2;

/// How topics are hashed to slots; kept with the store, since it can never change in it.
pub(crate) const HASH_VERSION: &str = "xxh3-64";

/// What `tables_version` 1 had. Each statement may have been run already.
pub(crate) const CREATE: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS meta (
        name  text PRIMARY KEY,
        value text NOT NULL
    )",
    // One row per append order. Whoever appends holds its row.
    "CREATE TABLE IF NOT EXISTS partitions (
        partition         integer PRIMARY KEY,
        last_offset       bigint NOT NULL,
        last_processed_at bigint NOT NULL, -- microseconds since 1970
        topics            bigint NOT NULL,
        stored            bigint NOT NULL,
        duplicates        bigint NOT NULL, -- conflicts included
        conflicts         bigint NOT NULL
    ) WITH (fillfactor = 50)",
    "CREATE TABLE IF NOT EXISTS topics (
        partition     integer NOT NULL,
        topic_id      bigint  NOT NULL,
        name          text COLLATE \"C\" NOT NULL,
        slot          integer NOT NULL,
        scope         integer NOT NULL, -- what makes two events the same: 0 the id, 1 the id and the source
        last_seq      bigint  NOT NULL,
        purged_seq    bigint  NOT NULL, -- events up to here have lost their payloads
        purged_offset bigint  NOT NULL,
        duplicates    bigint  NOT NULL,
        conflicts     bigint  NOT NULL,
        PRIMARY KEY (partition, topic_id),
        CONSTRAINT topics_name_key UNIQUE (partition, name)
    ) WITH (fillfactor = 70)",
    "CREATE INDEX IF NOT EXISTS topics_by_name ON topics (name)",
    "CREATE INDEX IF NOT EXISTS topics_purged ON topics (partition, purged_offset) WHERE purged_offset > 0",
    // The log and the truth. A purged event keeps its row, without payload and with a digest of it, so that
    // one constraint guards every identity. An identity that was imported alone has no seq.
    "CREATE TABLE IF NOT EXISTS events (
        partition    integer NOT NULL,
        \"offset\"     bigint  NOT NULL,
        topic_id     bigint  NOT NULL,
        seq          bigint,
        event_id     text COLLATE \"C\" NOT NULL,
        source       text    NOT NULL,
        source_key   text COLLATE \"C\" NOT NULL, -- '' where the topic's scope leaves the source out
        timestamp    text    NOT NULL,          -- as sent
        payload      text,                      -- compact JSON; NULL once it is purged
        digest       bytea,                     -- XXH3-128 of a purged payload
        sequence     bigint,                    -- the publisher's own counter
        content_type text,
        attributes   text,
        processed_at bigint  NOT NULL,          -- microseconds since 1970
        PRIMARY KEY (partition, \"offset\"),
        CONSTRAINT events_identity_key UNIQUE (partition, topic_id, event_id, source_key)
    )",
    // Of an expression, so that nobody takes it for a way to identities: to a planner without statistics it looks as
    // good as their own index, and each one would be looked for among all events of its topic.
    "CREATE INDEX IF NOT EXISTS events_by_topic ON events (partition, (topic_id + 0), \"offset\")",
    // Which events an append stored, for whoever does not know what became of it; kept for a while.
    "CREATE TABLE IF NOT EXISTS appends (
        partition    integer NOT NULL,
        attempt_id   bytea   NOT NULL,
        first_offset bigint  NOT NULL,
        last_offset  bigint  NOT NULL, -- below first_offset if nothing was stored
        at           bigint  NOT NULL, -- microseconds since 1970
        PRIMARY KEY (partition, attempt_id)
    )",
    "CREATE INDEX IF NOT EXISTS appends_by_age ON appends (partition, at)",
];

/// What `tables_version` 2 added. Each statement may have been run already. None of them locks another table.
pub(crate) const CREATE_RECORDS: &[&str] = &[
    // Whoever writes records holds the rows of their buckets. A record is always in the same bucket.
    "CREATE TABLE IF NOT EXISTS record_versions (
        bucket       integer PRIMARY KEY,
        last_version bigint NOT NULL, -- the newest of its records' versions, deleted records included
        last_attempt bytea  NOT NULL  -- which write it was
    ) WITH (fillfactor = 50)",
    "CREATE TABLE IF NOT EXISTS records (
        kind    text COLLATE \"C\" NOT NULL,
        name    text COLLATE \"C\" NOT NULL,
        version bigint NOT NULL,
        value   bytea  NOT NULL,
        attempt bytea  NOT NULL, -- which write made it so
        PRIMARY KEY (kind, name)
    )",
];
