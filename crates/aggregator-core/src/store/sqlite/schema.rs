//! The schema of the file, and the settings of connections.

use rusqlite::Connection;

use super::catalog::PartitionState;
use super::journal;

/// `PRAGMA application_id`: "ADdp" in ASCII. It distinguishes our files from other SQLite databases.
pub(super) const APPLICATION_ID: u32 = 0x4144_6470;

/// `PRAGMA user_version`. What the versions before it lack:
///
/// * 4: the journal of the topics.
/// * 3: also, nothing in them was forgotten.
/// * 2: also, their dedup index is another one.
pub(super) const VERSION: u32 = 5;

/// Since this version, the dedup index is the same.
pub(super) const SAME_INDEX_SINCE: u32 = 3;

/// Since this version, events and stubs are the same.
pub(super) const SAME_EVENTS_SINCE: u32 = 2;

pub(super) const PAGE_BYTES: u32 = 8192;

/// The hash that gives a topic its slot. It is written into the file, because it can never change there.
pub(super) const HASH_VERSION: &str = "xxh3-64";

pub(super) const CREATE: &str = "
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The stores that this one began as a copy of. Their cursors are good up to the offset.
CREATE TABLE ancestors (
    store_id     TEXT PRIMARY KEY,
    until_offset INTEGER NOT NULL
) STRICT;

-- One row per append order.
CREATE TABLE partitions (
    partition         INTEGER PRIMARY KEY,
    last_offset       INTEGER NOT NULL,
    last_processed_at INTEGER NOT NULL, -- microseconds since 1970
    topics            INTEGER NOT NULL,
    stored            INTEGER NOT NULL,
    duplicates        INTEGER NOT NULL, -- conflicts included
    conflicts         INTEGER NOT NULL,
    checksum          INTEGER NOT NULL, -- XXH3-64 of the row
    journal_first     INTEGER NOT NULL, -- the rows of the journal that there are
    journal_last      INTEGER NOT NULL
) STRICT;

-- As of when the topic was folded last: the journal says what has changed since then.
CREATE TABLE topics (
    topic_id      INTEGER PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    slot          INTEGER NOT NULL,
    scope         INTEGER NOT NULL, -- what makes two events the same: 0 the id, 1 the id and the source
    last_seq      INTEGER NOT NULL,
    last_offset   INTEGER NOT NULL,
    last_span     INTEGER NOT NULL, -- its first offset; 0 if there is none
    purged_seq    INTEGER NOT NULL, -- events up to here are stubs
    purged_offset INTEGER NOT NULL,
    duplicates    INTEGER NOT NULL,
    conflicts     INTEGER NOT NULL,
    checksum      INTEGER NOT NULL  -- XXH3-64 of the row
) STRICT;
CREATE INDEX topics_purged ON topics (purged_offset) WHERE purged_offset > 0;

-- The log and the truth: every event that was not purged.
CREATE TABLE events (
    offset       INTEGER PRIMARY KEY,
    topic_id     INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    event_id     TEXT    NOT NULL,
    timestamp    TEXT    NOT NULL, -- as sent
    source       TEXT    NOT NULL,
    payload      TEXT    NOT NULL, -- compact JSON
    sequence     INTEGER,          -- the publisher's own counter
    content_type TEXT,
    attributes   TEXT,
    processed_at INTEGER NOT NULL, -- microseconds since 1970
    checksum     INTEGER NOT NULL  -- XXH3-64 of the row
) STRICT;

-- At which offsets a topic's events are: all offsets of its spans, and of those that the journal adds, and no others. An
-- append puts the events of a topic next to each other, so it adds at most one span per topic.
CREATE TABLE spans (
    topic_id     INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    last_offset  INTEGER NOT NULL,
    PRIMARY KEY (topic_id, first_offset)
) STRICT, WITHOUT ROWID;

-- A stub is what stays of a purged event, or an identity that was imported alone (it has no seq).
CREATE TABLE stubs (
    offset       INTEGER PRIMARY KEY,
    topic_id     INTEGER NOT NULL,
    seq          INTEGER,
    event_id     TEXT    NOT NULL,
    source       TEXT    NOT NULL, -- '' where the topic's scope leaves the source out
    digest       BLOB,             -- XXH3-128 of the payload
    processed_at INTEGER NOT NULL,
    checksum     INTEGER NOT NULL  -- XXH3-64 of the row
) STRICT;
CREATE INDEX stubs_topic ON stubs (topic_id);

CREATE VIEW processed_events AS
SELECT t.name AS topic, e.event_id, e.timestamp, e.source, e.payload, e.seq,
       -- Rounded down before 1970, too.
       strftime('%Y-%m-%dT%H:%M:%S', (e.processed_at - (e.processed_at % 1000000 + 1000000) % 1000000) / 1000000,
                'unixepoch')
           || printf('.%06dZ', (e.processed_at % 1000000 + 1000000) % 1000000) AS processed_at
FROM events e JOIN topics t ON t.topic_id = e.topic_id
ORDER BY e.offset;
";

/// Records: small named values. Apart from [`CREATE`], because files from before there were records get the table later.
pub(super) const CREATE_RECORDS: &str = "
CREATE TABLE records (
    kind     TEXT    NOT NULL,
    name     TEXT    NOT NULL,
    version  INTEGER NOT NULL, -- of all records together: see the row 'records' of meta
    value    BLOB    NOT NULL,
    checksum INTEGER NOT NULL, -- XXH3-64 of the row
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
";

/// Whether the file has the table of records.
pub(super) fn has_records(connection: &Connection) -> rusqlite::Result<bool> {
    has_table(connection, "records")
}

/// What stays of identities that were forgotten. Apart from [`CREATE`], because files from before anything could be
/// forgotten get the tables later.
pub(super) const CREATE_FORGOTTEN: &str = "
-- Per topic, the last row that was forgotten.
CREATE TABLE forgotten (
    topic_id     INTEGER PRIMARY KEY,
    offset       INTEGER NOT NULL,
    seq          INTEGER NOT NULL, -- events up to here were forgotten
    processed_at INTEGER NOT NULL, -- of the event of seq
    checksum     INTEGER NOT NULL  -- XXH3-64 of the row
) STRICT;
CREATE INDEX forgotten_offset ON forgotten (offset);

-- The offsets at which there is neither an event nor a stub.
CREATE TABLE gaps (
    first_offset INTEGER PRIMARY KEY,
    last_offset  INTEGER NOT NULL,
    checksum     INTEGER NOT NULL  -- XXH3-64 of the row
) STRICT;
";

/// Whether the file has the tables of what was forgotten.
pub(super) fn has_forgotten(connection: &Connection) -> rusqlite::Result<bool> {
    has_table(connection, "gaps")
}

/// Whether the file has the journal.
pub(super) fn has_journal(connection: &Connection) -> rusqlite::Result<bool> {
    has_table(connection, "journal")
}

/// Adds what files from before there was a journal lack of it.
pub(super) fn add_journal(connection: &Connection) -> rusqlite::Result<()> {
    if has_journal(connection)? {
        return Ok(());
    }
    let partition = PartitionState::read(connection)?;
    connection.execute_batch(
        "ALTER TABLE partitions ADD COLUMN journal_first INTEGER NOT NULL DEFAULT 0;
         ALTER TABLE partitions ADD COLUMN journal_last INTEGER NOT NULL DEFAULT 0;",
    )?;
    connection.execute_batch(journal::CREATE)?;
    partition.with_journal().write(connection)
}

fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1")?
        .query_row([name], |row| row.get(0))
}

/// Without memory mapping, where an I/O error would be a signal instead of an error.
pub(super) const READER_PRAGMAS: &str = "
PRAGMA query_only = ON;
PRAGMA mmap_size = 0;
PRAGMA trusted_schema = OFF;
PRAGMA cache_size = -4096;
";

/// For the connection of the thread that copies the log; it does nothing else.
pub(super) const COPIER_PRAGMAS: &str = "
PRAGMA wal_autocheckpoint = 0;
PRAGMA mmap_size = 0;
PRAGMA trusted_schema = OFF;
";
