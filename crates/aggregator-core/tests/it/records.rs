//! Records in a SQLite file: files of before there were any, copies, and disks that return something else than they were
//! given.

use std::fs;
use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};

use aggregator_core::{
    DedupStore, DedupStoreExt, Event, Record, RecordOutcome, RecordWrite, Records, SqliteOptions,
    SqliteStore, StoreError,
};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tempfile::TempDir;

const KIND: &str = "lease";

fn records(store: &SqliteStore) -> &dyn Records {
    store.records().unwrap()
}

fn written(store: &SqliteStore, writes: &[RecordWrite]) -> Vec<u64> {
    match records(store).write(writes).unwrap() {
        RecordOutcome::Written(versions) => versions,
        stale @ RecordOutcome::Stale(_) => panic!("{stale:?}"),
    }
}

fn create(name: &str) -> RecordWrite {
    RecordWrite::create(KIND, name, format!("of {name}"))
}

fn names(store: &SqliteStore) -> Vec<String> {
    let listed = records(store).list(KIND, "", None, 1_000).unwrap();
    listed.into_iter().map(|record| record.name).collect()
}

fn assert_sound(store: &SqliteStore) {
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

/// A store that was written before there were records, in a directory of its own.
fn old_store() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-3.db");
    fs::copy(golden, &path).unwrap();
    SqliteStore::upgrade(&path, None, SqliteOptions::default(), &mut |_| Continue(())).unwrap();
    (directory, path)
}

fn append(store: &SqliteStore, id: &str) {
    store.append_one(&Event::new("orders.created", id).unwrap()).unwrap();
}

/// As `cp` of a store in use makes it: without its log.
fn is_refused_without_its_log(path: &Path) -> bool {
    let copy = path.with_file_name("copy-without-log.db");
    fs::copy(path, &copy).unwrap();
    let opened = SqliteStore::open(&copy);
    fs::remove_file(&copy).unwrap();
    matches!(opened, Err(StoreError::Corrupt { .. }))
}

#[test]
fn a_store_of_before_there_were_records_gets_them_with_its_first_write() {
    for writes_records_first in [true, false] {
        let (_directory, path) = old_store();
        let before = fs::read(&path).unwrap();
        let store = SqliteStore::open(&path).unwrap();
        assert_eq!(records(&store).get(KIND, "a").unwrap(), None);
        assert_eq!(names(&store), [""; 0]);
        drop(store);
        assert!(fs::read(&path).unwrap() == before, "who only reads changes nothing");

        let store = SqliteStore::open(&path).unwrap();
        if !writes_records_first {
            append(&store, "new");
            assert_eq!(records(&store).get(KIND, "a").unwrap(), None);
        }
        let [version] = written(&store, &[create("a")])[..] else { panic!("one was written") };
        assert!(is_refused_without_its_log(&path), "the mark still counts");
        assert_sound(&store);
        drop(store);
        let store = SqliteStore::open(&path).unwrap();
        assert_eq!(records(&store).get(KIND, "a").unwrap(), Some(Record::new(KIND, "a", version, "of a")));
        assert_sound(&store);
    }
}

/// As a program of before there were records leaves it when it is killed.
#[test]
fn a_store_that_was_killed_before_there_were_records_gets_them_and_keeps_its_mark() {
    let (directory, path) = old_store();
    let store = SqliteStore::open(&path).unwrap();
    append(&store, "one");
    let killed = directory.path().join("killed.db");
    let [log, copy_of_log] = [&path, &killed].map(|path| PathBuf::from(format!("{}-wal", path.display())));
    fs::rename(&path, &killed).unwrap();
    fs::rename(log, copy_of_log).unwrap();
    drop(store);
    let connection = Connection::open(&killed).unwrap();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    let mark = "SELECT value FROM meta WHERE name = 'log'";
    let mark: String = connection.query_row(mark, [], |row| row.get(0)).unwrap();
    let (cookie, _) = mark.split_once(' ').unwrap();
    let without = format!("BEGIN; DROP TABLE records; PRAGMA schema_version = {cookie}; COMMIT");
    connection.execute_batch(&without).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(())).unwrap();
    drop(connection);
    assert!(is_refused_without_its_log(&killed), "it is marked");

    let store = SqliteStore::open(&killed).unwrap();
    assert_eq!(names(&store), [""; 0]);
    written(&store, &[create("a")]);
    append(&store, "two");
    assert!(is_refused_without_its_log(&killed), "the mark still counts");
    assert_sound(&store);
    drop(store);
    let store = SqliteStore::open(&killed).unwrap();
    assert_eq!(names(&store), ["a"]);
    assert_sound(&store);
}

#[test]
fn a_copy_has_the_records_and_gives_out_no_version_that_the_original_does() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    let empty = directory.path().join("empty.db");
    store.backup(&empty).unwrap();
    written(&store, &[create("a"), create("b")]);
    let full = directory.path().join("full.db");
    store.backup(&full).unwrap();
    let last = (0..100).map(|n| written(&store, &[create(&n.to_string())])[0]).max().unwrap();
    for (copy, has) in [(empty, vec![]), (full, vec!["a", "b"])] {
        let copy = SqliteStore::open(&copy).unwrap();
        assert_eq!(names(&copy), has);
        for name in has {
            assert_eq!(records(&copy).get(KIND, name).unwrap(), records(&store).get(KIND, name).unwrap());
        }
        assert_sound(&copy);
        assert!(written(&copy, &[create("c")])[0] > last);
        assert_sound(&copy);
    }
    // An old store that nothing was ever written to by this program.
    let (directory, path) = old_store();
    let copy = directory.path().join("copy.db");
    SqliteStore::open(&path).unwrap().backup(&copy).unwrap();
    let copy = SqliteStore::open(&copy).unwrap();
    assert_sound(&copy);
    written(&copy, &[create("a")]);
    assert_sound(&copy);
}

/// Whoever holds an older version would otherwise be taken for the holder of the new one.
#[test]
fn a_copy_that_is_put_back_repeats_no_version_however_it_was_made() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let copy = directory.path().join("copy.db");
    let store = SqliteStore::open(&path).unwrap();
    let mut last = written(&store, &[create("a")])[0];
    drop(store);
    fs::copy(&path, &copy).unwrap();
    for restored in 0..3 {
        let store = SqliteStore::open(&path).unwrap();
        for n in 0..20 {
            let version = written(&store, &[create(&format!("{restored}-{n}"))])[0];
            assert!(version > last, "{version} after {last}");
            last = version;
        }
        drop(store);
        fs::copy(&copy, &path).unwrap();
    }
}

/// Fills a page of the index of a closed store so that SQLite cannot even free it.
fn make_unfreeable(path: &Path) {
    let connection = Connection::open(path).unwrap();
    let root: u64 = connection
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'index_manifest'", [], |row| row.get(0))
        .unwrap();
    connection.close().unwrap();
    let mut bytes = fs::read(path).unwrap();
    let page = usize::try_from((root - 1) * 8192).unwrap();
    bytes[page..page + 8192].fill(0xA5);
    fs::write(path, bytes).unwrap();
}

#[test]
fn records_survive_that_the_index_is_made_anew() {
    for unfreeable in [false, true] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let store = SqliteStore::open(&path).unwrap();
        append(&store, "one");
        let last = written(&store, &[create("a"), create("b")])[1];
        drop(store);
        if unfreeable {
            make_unfreeable(&path);
        }
        let store = SqliteStore::rebuild_index(&path, SqliteOptions::default()).unwrap();
        assert_eq!(names(&store), ["a", "b"]);
        assert!(written(&store, &[create("c")])[0] > last);
        assert_sound(&store);
    }
}

#[test]
fn records_that_are_gone_are_noticed() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    written(&store, &[create("a"), create("b"), create("c")]);
    drop(store);
    for (n, damage) in [
        "DELETE FROM records WHERE name = 'b'",
        "DELETE FROM records",
        "DROP TABLE records",
        "INSERT INTO records SELECT kind, 'd', version, value, checksum FROM records WHERE name = 'a'",
    ]
    .into_iter()
    .enumerate()
    {
        // A file of its own: a reader of the store before may close a little later than the store.
        let original = &path;
        let path = directory.path().join(format!("{n}.db"));
        fs::copy(original, &path).unwrap();
        Connection::open(&path).unwrap().execute_batch(damage).unwrap();
        let faults = SqliteStore::verify_file(&path, &SqliteOptions::default()).unwrap().faults;
        assert!(!faults.is_empty(), "{damage}");
        if damage.starts_with("DROP") {
            let store = SqliteStore::open(&path).unwrap();
            // An event is taken, and marks the file; records are not taken for never written because of it.
            append(&store, "one");
            let error = records(&store).get(KIND, "a").unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
            let error = records(&store).write(&[create("a")]).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        }
    }
}

/// The next version would be one that was given out before.
#[test]
fn it_is_noticed_that_the_last_version_is_gone_also_where_no_record_is_left() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    written(&store, &[create("a")]);
    let record = records(&store).get(KIND, "a").unwrap().unwrap();
    written(&store, &[RecordWrite::delete(&record)]);
    drop(store);
    let connection = Connection::open(&path).unwrap();
    assert_eq!(connection.execute("UPDATE meta SET name = 'recordr' WHERE name = 'records'", []).unwrap(), 1);
    connection.close().unwrap();
    let faults = SqliteStore::verify_file(&path, &SqliteOptions::default());
    assert!(faults.is_err() || !faults.unwrap().faults.is_empty());
    let store = SqliteStore::open(&path).unwrap();
    let error = records(&store).write(&[create("a")]).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

/// It copies the tables there are.
#[test]
fn records_that_are_lost_are_not_taken_for_none_because_the_index_is_made_anew() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    append(&store, "one");
    written(&store, &[create("a")]);
    drop(store);
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("DROP TABLE records").unwrap();
    connection.close().unwrap();
    make_unfreeable(&path);
    let store = SqliteStore::rebuild_index(&path, SqliteOptions::default()).unwrap();
    let error = records(&store).get(KIND, "a").unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    let error = records(&store).write(&[create("a")]).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

/// So many that they lie on pages of three levels.
fn many() -> Vec<Record> {
    (0..400).map(|n| Record::new(KIND, format!("record-{n:03}"), 0, vec![b'v'; 40 + n % 7 * 150])).collect()
}

/// A closed store with these records and a few events, and its bytes.
fn with_many(directory: &Path) -> (Vec<Record>, Vec<u8>) {
    let path = directory.join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    append(&store, "one");
    let mut records = many();
    for part in records.chunks_mut(50) {
        let writes: Vec<_> =
            part.iter().map(|record| RecordWrite::create(KIND, &record.name, record.value.clone())).collect();
        for (record, version) in part.iter_mut().zip(written(&store, &writes)) {
            record.version = version;
        }
    }
    drop(store);
    (records, fs::read(path).unwrap())
}

fn damaged(directory: &Path, original: &[u8], bit: usize) -> Option<SqliteStore> {
    let path = directory.join("damaged.db");
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", path.display()));
    }
    let mut bytes = original.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(&path, bytes).unwrap();
    SqliteStore::open(&path).ok()
}

/// The row stays where it was, and whoever looks for the old name comes by it.
#[test]
fn a_record_whose_name_is_damaged_on_the_disk_is_corrupt_and_not_missing() {
    let directory = TempDir::new().unwrap();
    let (all, original) = with_many(directory.path());
    for (number, record) in all.iter().enumerate().step_by(9).chain([(399, &all[399])]) {
        let needle = format!("{KIND}{}", record.name);
        let places = original.windows(needle.len()).enumerate().filter(|(_, at)| *at == needle.as_bytes());
        // A character of the kind or of the name: one that makes it larger or smaller.
        let mut damaged = places.map(|(at, _)| {
            damaged(directory.path(), &original, (at + number % needle.len()) * 8 + number % 3).unwrap()
        });
        // Where pages were split, old rows are left over that nobody reads.
        let is_damaged = |store: &SqliteStore| !store.verify().unwrap().faults.is_empty();
        let store = damaged.find(is_damaged).expect("one of the places is the record's");
        let is_corrupt = |what: &str, answer: Result<(), StoreError>| {
            assert!(matches!(answer, Err(StoreError::Corrupt { .. })), "{}, {what}: {answer:?}", record.name);
        };
        is_corrupt("get", records(&store).get(KIND, &record.name).map(drop));
        is_corrupt("list", records(&store).list(KIND, &record.name, None, 1).map(drop));
        is_corrupt("list all", records(&store).list(KIND, "", None, 1_000).map(drop));
        let create = RecordWrite::create(KIND, &record.name, "mine");
        is_corrupt("create", records(&store).write(&[create]).map(drop));
    }
}

/// Flips bits all over the file. What is read is what was written, or an error. What a page no longer counts among its
/// rows may be missing, but then `verify` tells it.
#[test]
fn a_flipped_bit_makes_no_record_up() {
    let directory = TempDir::new().unwrap();
    let (all, original) = with_many(directory.path());
    let (mut refused, mut reported, mut harmless) = (0, 0, 0);
    for bit in (0..original.len() * 8).step_by(7_001) {
        let Some(store) = damaged(directory.path(), &original, bit) else {
            refused += 1;
            continue;
        };
        let sound = store.verify().is_ok_and(|report| report.faults.is_empty());
        let mut whole = true;
        for record in all.iter().step_by(3) {
            match records(&store).get(KIND, &record.name) {
                Ok(Some(read)) => assert_eq!(&read, record, "bit {bit}"),
                Ok(None) | Err(_) => whole = false,
            }
        }
        match records(&store).list(KIND, "", None, 1_000) {
            Ok(listed) => {
                assert!(listed.iter().all(|record| all.contains(record)), "bit {bit} made a record up");
                whole &= listed.len() == all.len();
            }
            Err(_) => whole = false,
        }
        assert!(whole || !sound, "bit {bit} took a record away, and nobody noticed");
        if sound {
            harmless += 1;
        } else {
            reported += 1;
        }
    }
    assert!(reported > 50, "refused {refused}, reported {reported}, harmless {harmless}");
}
