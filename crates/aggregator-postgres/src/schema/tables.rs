//! The tables, and the versions of them that this program creates.
//!
//! Every key begins with the partition, so an append is a transaction on one shard where the tables are distributed
//! by partition. There are no sequences, triggers or foreign keys, because distributed engines do not have them or pay
//! for them.

/// The oldest version of programs that can use the tables of events, kept as `schema_version`. A program refuses a
/// store whose number is higher than its own. The number stays the same while older programs can use the tables beside
/// newer ones.
pub(crate) const VERSION: u32 = 1;

/// The version of all tables, kept as `tables_version`. Older programs do not know of it. They use no table that it
/// adds, so nodes of two versions can share a store during an upgrade. 2 added the tables of records, and 3 the table
/// of forgotten identities.
pub(crate) const TABLES_VERSION: u32 = 3;

/// The first of these versions that has the tables of records.
pub(crate) const RECORDS_SINCE: u32 = 2;

/// The first of these versions that has the table of forgotten identities.
pub(crate) const FORGOTTEN_SINCE: u32 = 3;

/// How topics are hashed to slots. It is kept with the store, because it can never change there.
pub(crate) const HASH_VERSION: &str = "xxh3-64";

/// The tables of `tables_version` 1. Each statement may have been run already.
pub(crate) const CREATE: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS meta (
        name  text PRIMARY KEY,
        value text NOT NULL
    )",
    // An append locks the rows of its partitions.
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
    // The log of events. A purged event keeps its row, with a digest in place of the payload, so that one constraint
    // guards every identity. An identity that was imported without its event has no seq. A released row has a key that
    // no identity has.
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
    // The index has an expression, so that the planner does not use it for identities. Without statistics, a plain one
    // would look as good as the index of identities, and each lookup would go through all events of its topic.
    "CREATE INDEX IF NOT EXISTS events_by_topic ON events (partition, (topic_id + 0), \"offset\")",
    // Which events an append stored, for a caller that does not know what became of it. Rows are kept for a while.
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

/// The tables that `tables_version` 2 added. Each statement may have been run already. None of them locks another
/// table.
pub(crate) const CREATE_RECORDS: &[&str] = &[
    // A write of records locks the rows of their buckets. A record is always in the same bucket.
    "CREATE TABLE IF NOT EXISTS record_versions (
        bucket       integer PRIMARY KEY,
        last_version bigint NOT NULL, -- the newest version of its records, deleted ones included
        last_attempt bytea  NOT NULL  -- which write gave out that version
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

/// The table that `tables_version` 3 added. Each statement may have been run already.
pub(crate) const CREATE_FORGOTTEN: &[&str] = &[
    // A mark stands for the forgotten rows of a topic: no row of the topic with a seq is left up to its offset. A topic
    // of which nothing was forgotten has none.
    "CREATE TABLE IF NOT EXISTS forgotten (
        partition    integer NOT NULL,
        topic_id     bigint  NOT NULL,
        \"offset\"     bigint  NOT NULL, -- of the last forgotten row
        seq          bigint  NOT NULL, -- of the last forgotten event; 0 if only identities without seqs were forgotten
        rows         bigint  NOT NULL, -- how many offsets have no row any more
        processed_at bigint  NOT NULL, -- of that event
        PRIMARY KEY (partition, topic_id)
    ) WITH (fillfactor = 50)",
    "CREATE INDEX IF NOT EXISTS forgotten_by_offset ON forgotten (partition, \"offset\")",
];
