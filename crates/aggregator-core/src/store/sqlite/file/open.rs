//! Opens or creates the store's file, or refuses it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::claim::Claim;
use super::connector::Connector;
use super::create::create;
use super::files::{Files, beside, unusable};
use super::header::check_header;
use super::mount::FileSystem;
use super::wal_mark;
use crate::event::SLOTS;
use crate::store::sqlite::catalog::{Catalog, PartitionState, TopicNames};
use crate::store::sqlite::checkpoint::checkpoint;
use crate::store::sqlite::fault::{lacks_shared_memory, store_error, write_error};
use crate::store::sqlite::index::{Index, Manifest};
use crate::store::sqlite::journal::Replayed;
use crate::store::sqlite::options::SqliteOptions;
use crate::store::sqlite::{index, schema};
use crate::store::{Ancestor, StoreId};
use crate::{StoreError, Timestamp};

/// The flags of connections that write. One thread at a time uses a connection.
pub(super) const WRITER_FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX)
    .union(OpenFlags::SQLITE_OPEN_EXRESCODE);

pub(crate) struct Opened {
    /// About the file system.
    pub(crate) warning: Option<String>,
    pub(crate) id: StoreId,
    pub(crate) ancestors: Vec<Ancestor>,
    pub(crate) connection: Connection,
    pub(crate) index: Index,
    pub(crate) manifest: Manifest,
    /// `None` if it cannot be read: whoever needs it first gets the error.
    pub(crate) catalog: Option<(Catalog, Replayed)>,
    pub(crate) names: Arc<TopicNames>,
    /// For the thread that builds the index.
    pub(crate) index_reader: Connection,
    /// For the thread that copies the log.
    pub(crate) copier: Connection,
    pub(crate) files: Files,
    /// For syncing the file. Declared behind the connections, so that it is closed after them: closing any handle drops
    /// SQLite's locks on the file.
    pub(crate) file: Arc<File>,
    /// Last, so that the files of a failed opening are removed after everything is closed.
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
    let warning = check_file_system(&path, options)?;
    match fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create(&path, connector)?;
            claim.store_created();
        }
        Err(error) => return Err(unusable(&path, error)),
        Ok(_) => check_header(&claim)?,
    }
    let failed = |error| store_error(&format!("opening {}", path.display()), error);
    let (mut connection, id) = connect(&path, options, connector, schema::VERSION).map_err(failed)??;
    let ancestors = ancestors(&connection).map_err(failed)??;
    let names = Arc::default();
    let catalog = Catalog::load(&connection, &names).ok();
    let known = catalog.as_ref().map(|(catalog, _)| catalog);
    let recovered = recover_index(&mut connection, options, connector, known);
    let (index, manifest) = recovered.map_err(failed)?;
    let index_reader = open_index_reader(&path, connector).map_err(failed)?;
    let copier = open_copier(&path, connector).map_err(failed)??;
    let file = File::options().read(true).write(true).open(&path).map_err(|error| unusable(&path, error))?;
    let files = Files::watch(given, &path, &file, claim.lock_file())?;
    Ok(Opened {
        warning,
        id,
        ancestors,
        connection,
        index,
        manifest,
        catalog,
        names,
        index_reader,
        copier,
        files,
        file: Arc::new(file),
        claim,
    })
}

/// What is to be told of the store's file system, if it may hold a store.
fn check_file_system(path: &Path, options: &SqliteOptions) -> Result<Option<String>, StoreError> {
    match FileSystem::of(path) {
        FileSystem::Sound => Ok(None),
        FileSystem::Unsafe(reason) if !options.allow_unsafe_file_system => {
            let way_out = "choose a disk of this machine, or allow it (--allow-unsafe-filesystem)";
            Err(StoreError::invalid("store", format!("{reason}: {way_out}")))
        }
        FileSystem::Unsafe(reason) | FileSystem::Doubtful(reason) => Ok(Some(reason)),
    }
}

fn recover_index(
    connection: &mut Connection,
    options: &SqliteOptions,
    connector: &Connector,
    catalog: Option<&Catalog>,
) -> rusqlite::Result<(Index, Manifest)> {
    // Building the index again takes many commits, and the writer, which makes checkpoints, does not exist yet.
    connection.pragma_update(None, "wal_autocheckpoint", options.checkpoint_bytes / schema::PAGE_BYTES)?;
    let mark = |connection: &mut Connection| wal_mark::ensure(connection, (options.clock)());
    let (bits, progress) = (connector.fingerprint_bits(), &*options.on_progress);
    let recovered = index::recover(connection, options.index, bits, progress, mark, catalog)?;
    // From now on the writer makes checkpoints between its commits.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(recovered)
}

fn open_index_reader(path: &Path, connector: &Connector) -> rusqlite::Result<Connection> {
    let connection =
        connector.open(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.execute_batch(schema::READER_PRAGMAS)?;
    Ok(connection)
}

fn open_copier(path: &Path, connector: &Connector) -> rusqlite::Result<Result<Connection, StoreError>> {
    let connection = connector.open(path, WRITER_FLAGS)?;
    connection.execute_batch(schema::COPIER_PRAGMAS)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(make_durable(&connection, path, connector)?.map(|()| connection))
}

/// Turns on the write-ahead log and a sync at each commit, and reads both settings back.
fn make_durable(
    connection: &Connection,
    path: &Path,
    connector: &Connector,
) -> rusqlite::Result<Result<(), StoreError>> {
    // FULL comes first, because the switch to WAL is a write, too.
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

/// A connection to the store at `path`, before its events and index are read, and the claim that keeps other processes
/// away. Drop the claim last. The store may have any format from `oldest` on that this program knows.
pub(crate) fn connect_alone(
    path: &Path,
    options: &SqliteOptions,
    connector: &Connector,
    oldest: u32,
) -> Result<(Claim, Connection), StoreError> {
    let claim = Claim::of_existing(path)?;
    check_header(&claim)?;
    let connection = connect_claimed(&claim, options, connector, oldest)?;
    Ok((claim, connection))
}

/// The same, for whoever has the claim.
pub(crate) fn connect_claimed(
    claim: &Claim,
    options: &SqliteOptions,
    connector: &Connector,
    oldest: u32,
) -> Result<Connection, StoreError> {
    let path = claim.path();
    let connected = connect(path, options, connector, oldest);
    let (connection, _) =
        connected.map_err(|error| store_error(&format!("opening {}", path.display()), error))??;
    Ok(connection)
}

type Connected = Result<(Connection, StoreId), StoreError>;

fn connect(
    path: &Path,
    options: &SqliteOptions,
    connector: &Connector,
    oldest: u32,
) -> rusqlite::Result<Connected> {
    let has_wal = wal_mark::has_wal(path);
    let (connection, application) = first_connection(path, options, connector)?;
    // A log that exists stays, even if the opening fails. Only an orderly close removes it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_wal)?;
    if let Err(error) = check_format(&connection, path, application, oldest)? {
        return Ok(Err(error));
    }
    if !has_wal
        && !options.accept_lost_log
        && let Some(mark) = wal_mark::read(&connection)?
    {
        return Ok(Err(wal_mark::refusal(path, &mark.since, newest_event_time(&connection))));
    }
    if has_wal
        && !options.accept_copied_files
        && let Some(mark) = wal_mark::read(&connection)?
        && mark.is_of_other_files(path)
    {
        return Ok(Err(wal_mark::refusal_of_copies(path)));
    }
    if has_wal && wal_mark::has_log_of_another(&connection, path)? {
        return Ok(Err(wal_mark::refusal_of_log(path)));
    }
    if let Err(error) = make_durable(&connection, path, connector)? {
        return Ok(Err(error));
    }
    configure(&connection, options)?;
    if let Err(error) = rewrite_log(&connection, path, options, connector)? {
        return Ok(Err(error));
    }
    Ok(read_id(&connection, path)?.map(|id| (connection, id)))
}

/// Refuses the files of other programs, and formats that this program does not know or that are older than `oldest`.
fn check_format(
    connection: &Connection,
    path: &Path,
    application: u32,
    oldest: u32,
) -> rusqlite::Result<Result<(), StoreError>> {
    if application != schema::APPLICATION_ID {
        let reason =
            format!("{} is an SQLite database of another program: name another file", path.display());
        return Ok(Err(StoreError::invalid("store", reason)));
    }
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if (oldest..=schema::VERSION).contains(&version) {
        return Ok(Ok(()));
    }
    let way_out = match version {
        schema::SAME_EVENTS_SINCE..schema::VERSION => "bring it up with aggregator-server upgrade",
        ..schema::VERSION => "use the program that wrote it",
        _ => "use the newer program that wrote it",
    };
    let store = path.display().to_string();
    Ok(Err(StoreError::Format { store, found: version, known: schema::VERSION, way_out }))
}

fn configure(connection: &Connection, options: &SqliteOptions) -> rusqlite::Result<()> {
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.pragma_update(None, "cache_size", -i64::from(options.cache_bytes / 1024))?;
    // If readers made the log long, SQLite cuts it when it starts the log again.
    connection.pragma_update(None, "journal_size_limit", u64::from(options.checkpoint_bytes) * 4)?;
    connection.busy_timeout(wal_mark::BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Writes and syncs the log of an earlier process again, before anything of it is read: its last fsync may have failed or
/// never come. The log comes first and then the file, because a power loss during the copy must leave a whole log.
fn rewrite_log(
    connection: &Connection,
    path: &Path,
    options: &SqliteOptions,
    connector: &Connector,
) -> rusqlite::Result<Result<(), StoreError>> {
    // The transaction keeps other programs from writing into the log.
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let wal = beside(path, "-wal");
    if let Err(error) = connector.write_anew(&wal) {
        return Ok(Err(unusable(&wal, error)));
    }
    connection.execute_batch("ROLLBACK")?;
    // The log is not cut, because a marked file has no empty log.
    if let Err(error) = checkpoint(connection, "FULL") {
        // The log is on the disk, so what is read from it is as safe as in the file. The copy can wait for room.
        let error = write_error("copying the log into the file", error);
        if !matches!(error, StoreError::NoSpace { .. }) {
            return Ok(Err(error));
        }
        (options.on_warning)(&format!("the log is not copied into the file until there is room: {error}"));
    }
    Ok(Ok(()))
}

fn read_id(connection: &Connection, path: &Path) -> rusqlite::Result<Result<StoreId, StoreError>> {
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
    Ok(store_id(&meta("store_id")?))
}

/// When the newest event was stored. `None` if there is none, or if the file contradicts itself because it has lost its log.
fn newest_event_time(connection: &Connection) -> Option<Timestamp> {
    let partition = PartitionState::read(connection).ok().filter(|partition| partition.last_offset > 0)?;
    Some(Timestamp::from_micros(partition.last_processed_at))
}

/// Opens a connection and reads the file's application id. This is SQLite's first look at the log, for which it needs the
/// file `-shm`.
fn first_connection(
    path: &Path,
    options: &SqliteOptions,
    connector: &Connector,
) -> rusqlite::Result<(Connection, u32)> {
    let connect = || {
        let connection = connector.open(path, WRITER_FLAGS)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_the_bounds_of_the_options() {
        let connection = Connection::open_in_memory().unwrap();
        let options =
            SqliteOptions { cache_bytes: 1_000 << 10, checkpoint_bytes: 3 << 20, ..SqliteOptions::default() };
        configure(&connection, &options).unwrap();
        let is = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(is("cache_size"), -1_000, "SQLite takes this for so many KiB");
        assert_eq!(is("journal_size_limit"), 12 << 20);
        assert_eq!(is("trusted_schema"), 0);
    }

    #[test]
    fn a_file_without_a_log_is_not_durable_whatever_it_syncs() {
        let connection = Connection::open_in_memory().unwrap();
        let connector = Connector::new(&SqliteOptions::default());
        let answer = make_durable(&connection, Path::new("m.db"), &connector).unwrap();
        assert!(answer.unwrap_err().to_string().contains("journal_mode is memory and synchronous 2"));
    }
}
