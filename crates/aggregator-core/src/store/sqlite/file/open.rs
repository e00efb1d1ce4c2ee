//! Opening the file, or refusing it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::claim::{Claim, refuse_orphaned_log};
use super::connector::Connector;
use super::files::{Files, beside, create_empty, discard, draft, sync_directory, unusable};
use super::header::check_header;
use super::log_mark;
use crate::event::SLOTS;
use crate::store::sqlite::catalog::{Catalog, PartitionState};
use crate::store::sqlite::checkpoint::checkpoint;
use crate::store::sqlite::fault::{lacks_shared_memory, store_error, write_error};
use crate::store::sqlite::index::{Index, Manifest};
use crate::store::sqlite::{SqliteOptions, index, schema};
use crate::store::{Ancestor, StoreId};
use crate::{StoreError, Timestamp};

/// How connections that write are opened: one thread at a time uses each.
const WRITES: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX)
    .union(OpenFlags::SQLITE_OPEN_EXRESCODE);

pub(crate) struct Opened {
    pub(crate) id: StoreId,
    pub(crate) ancestors: Vec<Ancestor>,
    pub(crate) connection: Connection,
    pub(crate) index: Index,
    pub(crate) manifest: Manifest,
    /// `None` if it cannot be read: the first who needs it is told why.
    pub(crate) catalog: Option<Catalog>,
    /// For the thread that builds the index.
    pub(crate) index_reader: Connection,
    /// For the thread that copies the log.
    pub(crate) copier: Connection,
    pub(crate) files: Files,
    /// To sync it. Behind the connections, so that it is closed last: SQLite's locks on the file go with any handle.
    pub(crate) file: Arc<File>,
    /// Last: what a failed opening made is cleared away once nobody has it open.
    pub(crate) claim: Claim,
}

pub(crate) fn open(
    path: &Path,
    options: &SqliteOptions,
    connector: &Connector,
) -> Result<Opened, StoreError> {
    let given = path;
    let mut claim = connector.claim(path)?;
    let path = claim.path().to_owned();
    match fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create(&path, connector)?;
            claim.made_store();
        }
        Err(error) => return Err(unusable(&path, error)),
        Ok(_) => check_header(&claim)?,
    }
    let failed = |error| store_error(&format!("opening {}", path.display()), error);
    let (mut connection, id) = connect(&path, options, connector, schema::VERSION).map_err(failed)??;
    let ancestors = ancestors(&connection).map_err(failed)??;
    let recovered = recover_index(&mut connection, options, connector);
    let (index, manifest) = recovered.map_err(failed)?;
    // Readers ask for it as well as the writer.
    let catalog = Catalog::load(&connection).ok();
    let index_reader = index_reader(&path, connector).map_err(failed)?;
    let copier = copier(&path, connector).map_err(failed)??;
    let file = File::open(&path).map_err(|error| unusable(&path, error))?;
    let files = Files::watch(given, &path, &file, claim.lock_file())?;
    Ok(Opened {
        id,
        ancestors,
        connection,
        index,
        manifest,
        catalog,
        index_reader,
        copier,
        files,
        file: Arc::new(file),
        claim,
    })
}

fn recover_index(
    connection: &mut Connection,
    options: &SqliteOptions,
    connector: &Connector,
) -> rusqlite::Result<(Index, Manifest)> {
    // Making the index anew is many commits, and the writer is not there yet.
    connection.pragma_update(None, "wal_autocheckpoint", options.checkpoint_bytes / schema::PAGE_BYTES)?;
    let mark = |connection: &mut Connection| log_mark::ensure(connection, (options.clock)());
    let recovered = index::recover(connection, options.index, connector.fingerprint_bits(), mark)?;
    // From now on it checkpoints by itself, between commits.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(recovered)
}

fn index_reader(path: &Path, connector: &Connector) -> rusqlite::Result<Connection> {
    let connection =
        connector.open(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.execute_batch(schema::READER_PRAGMAS)?;
    Ok(connection)
}

fn copier(path: &Path, connector: &Connector) -> rusqlite::Result<Result<Connection, StoreError>> {
    let connection = connector.open(path, WRITES)?;
    connection.execute_batch(schema::COPIER_PRAGMAS)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(make_durable(&connection, path, connector)?.map(|()| connection))
}

/// Switches to a log that is synced at each commit, and reads both back.
fn make_durable(
    connection: &Connection,
    path: &Path,
    connector: &Connector,
) -> rusqlite::Result<Result<(), StoreError>> {
    // FULL first: the switch to WAL is a write, too.
    let (level, read_back) = connector.synchronous();
    connection.pragma_update(None, "synchronous", level)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    let synchronous: u32 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    if mode == "wal" && synchronous == read_back {
        return Ok(Ok(()));
    }
    Ok(Err(StoreError::unavailable(format!(
        "{} cannot be written durably: journal_mode is {mode} and synchronous {synchronous}, not wal and {read_back}",
        path.display()
    ))))
}

/// A connection to the store at `path`, of which nothing was read yet, and the claim that keeps others away, to be dropped
/// last. The store may be of this format or a later one that this program knows.
pub(crate) fn connect_alone(
    path: &Path,
    options: &SqliteOptions,
    connector: &Connector,
    oldest: u32,
) -> Result<(Claim, Connection), StoreError> {
    let claim = Claim::of_existing(path)?;
    check_header(&claim)?;
    let connected = connect(claim.path(), options, connector, oldest);
    let (connection, _) =
        connected.map_err(|error| store_error(&format!("opening {}", path.display()), error))??;
    Ok((claim, connection))
}

/// Makes the store under another name first, so that a crash meanwhile leaves no half-made file in
/// its place: whatever is empty or cut short there was damaged by something else.
fn create(path: &Path, connector: &Connector) -> Result<(), StoreError> {
    refuse_orphaned_log(path)?;
    remove_drafts(path).map_err(|error| unusable(path, error))?;
    let new = draft(path, "new");
    create_empty(&new).map_err(|error| unusable(path, error))?;
    let written = write_schema(&new, connector)
        .map_err(|error| store_error(&format!("creating {}", path.display()), error));
    let renamed = written.and_then(|()| fs::rename(&new, path).map_err(|error| unusable(path, error)));
    if renamed.is_err() {
        discard(&new);
    }
    renamed?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    sync_directory(directory).map_err(|error| unusable(directory, error))
}

/// Removes what earlier attempts to make this store left, whoever holds its lock having come to an end.
fn remove_drafts(path: &Path) -> std::io::Result<()> {
    let prefix = format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy());
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new("/")))? {
        let entry = entry?;
        let name = entry.file_name();
        let of_draft = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        let id =
            of_draft.and_then(|rest| rest.strip_suffix(".new").or_else(|| rest.strip_suffix(".new-journal")));
        if id.is_some_and(|id| id.parse::<ulid::Ulid>().is_ok()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes an empty store into the empty file at `path`.
pub(crate) fn write_schema(path: &Path, connector: &Connector) -> rusqlite::Result<()> {
    let mut connection = connector.open(path, WRITES)?;
    connection.pragma_update(None, "page_size", schema::PAGE_BYTES)?;
    connection.pragma_update(None, "synchronous", "EXTRA")?;
    let transaction = connection.transaction()?;
    transaction.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", schema::VERSION)?;
    transaction.execute_batch(schema::CREATE)?;
    schema::create_records(&transaction)?;
    index::reset(&transaction)?;
    let mut meta = transaction.prepare("INSERT INTO meta (name, value) VALUES (?1, ?2)")?;
    meta.execute(("store_id", StoreId::new().to_string()))?;
    meta.execute(("partitions", "1"))?;
    meta.execute(("slots", SLOTS.to_string()))?;
    meta.execute(("hash", schema::HASH_VERSION))?;
    meta.execute(("created_at", Timestamp::now().to_string()))?;
    meta.execute(("created_by", concat!("aggregator-core ", env!("CARGO_PKG_VERSION"))))?;
    drop(meta);
    PartitionState::create(&transaction)?;
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}

type Connected = Result<(Connection, StoreId), StoreError>;

fn connect(
    path: &Path,
    options: &SqliteOptions,
    connector: &Connector,
    oldest: u32,
) -> rusqlite::Result<Connected> {
    let has_log = log_mark::has_log(path);
    let (connection, application) = first_connection(path, options, connector)?;
    // A log that was there stays, also where the opening fails: it goes only when the store is closed in order.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log)?;
    if application != schema::APPLICATION_ID {
        let reason =
            format!("{} is an SQLite database of another program: name another file", path.display());
        return Ok(Err(StoreError::invalid("store", reason)));
    }
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if !(oldest..=schema::VERSION).contains(&version) {
        let way_out = if (schema::SAME_EVENTS_SINCE..schema::VERSION).contains(&version) {
            "make its dedup index anew with aggregator-server check --rebuild-index"
        } else {
            "use the program that wrote it"
        };
        let (path, known) = (path.display(), schema::VERSION);
        let reason = format!("{path} has format {version}, this program knows format {known}: {way_out}");
        return Ok(Err(StoreError::invalid("store", reason)));
    }
    if !has_log
        && !options.accept_lost_log
        && let Some(since) = log_mark::read(&connection)?
    {
        return Ok(Err(log_mark::refusal(path, &since, newest(&connection))));
    }
    if let Err(error) = make_durable(&connection, path, connector)? {
        return Ok(Err(error));
    }
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.pragma_update(None, "cache_size", -i64::from(options.cache_bytes / 1024))?;
    // A log that readers made long is cut back once it is written over.
    connection.pragma_update(None, "journal_size_limit", u64::from(options.checkpoint_bytes) * 4)?;
    connection.busy_timeout(log_mark::BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);

    // What an earlier process left in the log may never have reached the disk: its last fsync can have
    // failed, or not have come. Before anything of it is read or told, it is written and synced anew: first
    // the log, since a power loss while it is copied must find there what the copy began from, then the
    // file. The transaction keeps other programs from writing into the log meanwhile.
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let wal = beside(path, "-wal");
    if let Err(error) = connector.write_anew(&wal) {
        return Ok(Err(unusable(&wal, error)));
    }
    connection.execute_batch("ROLLBACK")?;
    // Not cut: the log of a file that is marked is never empty.
    if let Err(error) = checkpoint(&connection, "FULL") {
        // The log is on the disk, and what is read of it is as safe as in the file: the copy can wait for room.
        let error = write_error("copying the log into the file", error);
        if !matches!(error, StoreError::NoSpace { .. }) {
            return Ok(Err(error));
        }
        (options.on_warning)(&format!("the log is not copied into the file until there is room: {error}"));
    }

    let meta = |name: &str| -> rusqlite::Result<String> {
        connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
    };
    let written = (meta("partitions")?, meta("slots")?, meta("hash")?);
    if written != ("1".into(), SLOTS.to_string(), schema::HASH_VERSION.into()) {
        return Ok(Err(StoreError::invalid(
            "store",
            format!("{} is laid out as {written:?}, which this program does not know", path.display()),
        )));
    }
    let id = meta("store_id")?;
    Ok(store_id(&id).map(|id| (connection, id)))
}

/// When the newest event was stored. What has lost its log may contradict itself: then nobody knows.
fn newest(connection: &Connection) -> Option<Timestamp> {
    let partition = PartitionState::read(connection).ok().filter(|partition| partition.last_offset > 0)?;
    Some(Timestamp::from_micros(partition.last_processed_at))
}

/// A connection, and whose the file is. This is where SQLite looks at the log for the first time, and so where it
/// needs the file `-shm`.
fn first_connection(
    path: &Path,
    options: &SqliteOptions,
    connector: &Connector,
) -> rusqlite::Result<(Connection, u32)> {
    let connect = || {
        let connection = connector.open(path, WRITES)?;
        let application = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        Ok((connection, application))
    };
    match connect() {
        Err(error) if lacks_shared_memory(&error) => {
            (options.on_warning)(&format!(
                "there is no room for {}: until it is opened anew, no other process can read the store",
                beside(path, "-shm").display()
            ));
            connector.do_without_shared_memory();
            connect()
        }
        connected => connected,
    }
}

fn store_id(text: &str) -> Result<StoreId, StoreError> {
    let id = text.parse::<ulid::Ulid>().map_err(|_| StoreError::corrupt(format!("the store id {text:?}")))?;
    Ok(StoreId::from_u128(id.0))
}

fn ancestors(connection: &Connection) -> rusqlite::Result<Result<Vec<Ancestor>, StoreError>> {
    let mut select = connection.prepare("SELECT store_id, until_offset FROM ancestors ORDER BY rowid")?;
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let ancestor = |(id, until_offset): (String, u64)| Ok(Ancestor { id: store_id(&id)?, until_offset });
    Ok(rows.into_iter().map(ancestor).collect())
}
