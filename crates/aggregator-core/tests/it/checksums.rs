//! Every column of every row that has a checksum is part of it: whichever is something else than what was written, the
//! row is not believed.

use std::fs;
use std::path::{Path, PathBuf};

use aggregator_core::store::IndexOptions;
use aggregator_core::{
    CheckedRow, DedupStore, DedupStoreExt, Event, Import, Kept, KeptEvent, Partition, Partitions,
    RecordOutcome, RecordWrite, RowLimit, SqliteOptions, SqliteStore, StoreError, StoredRow, Timestamp,
    Topic, TopicQuery,
};
use rusqlite::Connection;
use rusqlite::types::Value;
use tempfile::TempDir;

use crate::index::with;

/// With an index in the file.
fn options() -> SqliteOptions {
    with(IndexOptions { memtable: 10, section: 20, fan_out: 2 })
}

/// A row of another store.
fn imported(event_id: &str, kept: Kept) -> CheckedRow {
    let source = matches!(kept, Kept::Event(_)).then(|| "elsewhere".to_owned());
    let (topic, scope) = ("imported".to_owned(), None);
    let processed_at = Timestamp::from_micros(4_000_000_000_000_000);
    StoredRow { topic, scope, event_id: event_id.to_owned(), source, processed_at, released: false, kept }
        .check()
        .unwrap()
}

/// A file with every kind of row in it: an event that has all there is to have at offset 1, an identity alone at 2, events
/// from 3 on of which the first ones are purged, and three of these forgotten.
fn written(directory: &Path) -> PathBuf {
    let path = directory.join("events.db");
    let store = SqliteStore::open_with(&path, options()).unwrap();
    let all = Kept::Event(KeptEvent {
        seq: 1,
        timestamp: "2026-01-01T00:00:00Z".into(),
        payload: "[7]".into(),
        sequence: Some(5),
        content_type: Some("text/plain".into()),
        attributes: Some(r#"{"a":"b"}"#.into()),
    });
    let rows = [imported("all", all), imported("alone", Kept::Identity)];
    store.import(Partition(0), Import::rows(&rows)).unwrap();
    let events: Vec<_> = (0..60).map(|n| Event::new("t", format!("event-{n}")).unwrap()).collect();
    for batch in events.chunks(7) {
        // Each of them twice, so that no counter is 0.
        for _ in 0..2 {
            store.append_all(&batch.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        }
    }
    store.append_one(&events[40].clone().with_payload("[1]").unwrap()).unwrap();
    store.purge(&Topic::new("t").unwrap(), 9).unwrap();
    let forgotten = store.forget_identities(&Topic::new("t").unwrap(), Timestamp::from_micros(i64::MAX), 3);
    assert_eq!(forgotten.unwrap(), 3);
    let names = ["a", "b", "c"].map(|name| RecordWrite::create("lease", name, format!("of {name}")));
    assert!(matches!(store.records().unwrap().write(&names), Ok(RecordOutcome::Written(_))));
    path
}

/// Values of the same kind that are not `value`, as a disk might return them, and what is there where there was nothing.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => {
            vec![Value::Integer(0), Value::Integer(1), text(""), text("x"), Value::Blob(vec![0; 16])]
        }
        Value::Integer(number) => {
            [0, 1, 20, 40].iter().map(|bit| Value::Integer(number ^ (1 << bit))).collect()
        }
        Value::Real(_) => unreachable!("nothing is written so"),
        Value::Text(was) if was.is_empty() => vec![text("x")],
        Value::Text(was) => {
            let mut first = was.clone().into_bytes();
            first[0] ^= 1;
            vec![text(std::str::from_utf8(&first).unwrap()), text(&format!("{was}x")), text(&was[1..])]
        }
        Value::Blob(bytes) => (0..bytes.len())
            .map(|at| {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << (at % 8);
                Value::Blob(bytes)
            })
            .collect(),
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// The file with something else in one place. `None` where the table cannot hold that at all.
struct Damaged {
    path: PathBuf,
    what: String,
}

impl Damaged {
    fn new(original: &[u8], directory: &Path, damage: &str, value: &Value) -> Option<Self> {
        let path = directory.join("damaged.db");
        // What the store before it left beside it: one that is corrupt keeps its log.
        for left in fs::read_dir(directory).unwrap() {
            fs::remove_file(left.unwrap().path()).unwrap();
        }
        fs::write(&path, original).unwrap();
        let changed = Connection::open(&path).unwrap().execute(damage, [value]);
        let what = format!("{damage} with {value:?}");
        // A column of another type, or that is never without a value.
        (changed.ok()? == 1).then_some(Self { path, what })
    }

    fn is_noticed_by_the_check(&self) {
        let faults = SqliteStore::verify_file(&self.path, &options()).unwrap().faults;
        let told = |fault: &String| fault.contains("match") || fault.contains("verifying");
        assert!(faults.iter().any(told), "{}: {faults:?}", self.what);
    }

    fn is_corrupt<T>(&self, done: impl FnOnce() -> Result<T, StoreError>) {
        match done() {
            Err(StoreError::Corrupt { .. }) => {}
            Err(error) => panic!("{}: {error:?}", self.what),
            Ok(_) => panic!("{}: nobody noticed", self.what),
        }
    }

    fn open(&self) -> Result<SqliteStore, StoreError> {
        SqliteStore::open_with(&self.path, options())
    }
}

/// Has `validate_row` look at every change of every column of these rows; how many there were.
fn each_change(row: &str, table: &str, judge: impl Fn(&Damaged)) -> u32 {
    let directory = TempDir::new().unwrap();
    let path = written(directory.path());
    let connection = Connection::open(&path).unwrap();
    let mut changes = 0;
    let original = fs::read(&path).unwrap();
    let mut select = connection.prepare(&format!("SELECT * FROM {table} WHERE {row}")).unwrap();
    let columns: Vec<_> = select.column_names().into_iter().map(str::to_owned).collect();
    for (at, column) in columns.iter().enumerate() {
        let value: Value = select.query_row([], |row| row.get(at)).unwrap();
        let mut seen = 0;
        for other in others(&value).into_iter().chain([Value::Null]) {
            let damage = format!("UPDATE {table} SET {column} = ?1 WHERE {row}");
            if other != value
                && let Some(damaged) = Damaged::new(&original, directory.path(), &damage, &other)
            {
                judge(&damaged);
                seen += 1;
            }
        }
        // Of the manifest there is one row, whose number cannot be another.
        assert!(seen > 0 || column == "id", "{table}.{column}");
        changes += seen;
    }
    changes
}

fn all_rows(store: &SqliteStore) -> Result<(), StoreError> {
    let mut after = 0;
    while let Some((last, _)) = store.rows(Partition(0), after, RowLimit::default())?.last() {
        after = *last;
    }
    Ok(())
}

#[test]
fn each_column_of_an_event_is_part_of_its_checksum() {
    for row in ["offset = 1", "offset = 30"] {
        let changes = each_change(row, "events", |damaged| {
            damaged.is_noticed_by_the_check();
            damaged.is_corrupt(|| all_rows(&damaged.open()?));
        });
        assert!(changes > 25, "{changes}");
    }
}

#[test]
fn each_column_of_a_stub_is_part_of_its_checksum() {
    for row in ["offset = 2", "offset = 7"] {
        let changes = each_change(row, "stubs", |damaged| {
            damaged.is_noticed_by_the_check();
            damaged.is_corrupt(|| all_rows(&damaged.open()?));
            // Whoever repeats it is not told what the row no longer says.
            damaged.is_corrupt(|| {
                let store = damaged.open()?;
                store.append_one(&Event::new("t", "event-4").unwrap())?;
                store.append_one(&Event::new("imported", "alone").unwrap())
            });
        });
        assert!(changes > 20, "{changes}");
    }
}

#[test]
fn each_column_of_what_stays_of_forgotten_rows_is_part_of_its_checksum() {
    let changes = each_change("seq = 3", "forgotten", |damaged| {
        damaged.is_noticed_by_the_check();
        // An export may miss a mark that is elsewhere. Then its import tells that rows are missing.
        if !damaged.what.contains("SET offset") {
            damaged.is_corrupt(|| all_rows(&damaged.open()?));
        }
    });
    assert!(changes > 12, "{changes}");
    let changes = each_change("first_offset = 3", "gaps", |damaged| {
        damaged.is_noticed_by_the_check();
        damaged.is_corrupt(|| all_rows(&damaged.open()?));
        // Nobody believes it that a row is missing because it was forgotten.
        damaged.is_corrupt(|| damaged.open()?.append_one(&Event::new("t", "event-0").unwrap()));
    });
    assert!(changes > 6, "{changes}");
}

#[test]
fn each_column_of_a_topic_is_part_of_its_checksum() {
    let changes = each_change("name = 't'", "topics", |damaged| {
        damaged.is_noticed_by_the_check();
        damaged.is_corrupt(|| damaged.open()?.append_one(&Event::new("u", "1").unwrap()));
        damaged.is_corrupt(|| damaged.open()?.topics(&TopicQuery::default()));
    });
    assert!(changes > 30, "{changes}");
}

#[test]
fn each_column_of_a_record_is_part_of_its_checksum() {
    let changes = each_change("name = 'b'", "records", |damaged| {
        damaged.is_noticed_by_the_check();
        // SQLite moves what gets another name or kind to another place, where nobody looks for it.
        if damaged.what.contains("SET kind") {
            return;
        }
        damaged.is_corrupt(|| damaged.open()?.records().unwrap().list("lease", "", None, 10));
        if !damaged.what.contains("SET name") {
            damaged.is_corrupt(|| damaged.open()?.records().unwrap().get("lease", "b"));
            let write = RecordWrite::create("lease", "b", "mine");
            damaged.is_corrupt(|| damaged.open()?.records().unwrap().write(&[write]));
        }
    });
    assert!(changes > 14, "{changes}");
}

/// The versions that were given out, and how many records there are.
#[test]
fn each_character_of_what_is_said_of_all_records_is_part_of_its_checksum() {
    let directory = TempDir::new().unwrap();
    let path = written(directory.path());
    let original = fs::read(&path).unwrap();
    let connection = Connection::open(&path).unwrap();
    let row = "SELECT value FROM meta WHERE name = 'records'";
    let says: String = connection.query_row(row, [], |row| row.get(0)).unwrap();
    drop(connection);
    for at in 0..says.len() {
        let mut bytes = says.clone().into_bytes();
        bytes[at] ^= 1;
        let value = Value::Text(String::from_utf8(bytes).unwrap());
        let damage = "UPDATE meta SET value = ?1 WHERE name = 'records'";
        let damaged = Damaged::new(&original, directory.path(), damage, &value).unwrap();
        damaged.is_noticed_by_the_check();
        let write = RecordWrite::create("lease", "new", "1");
        damaged.is_corrupt(|| damaged.open()?.records().unwrap().write(&[write]));
    }
    let damage = "DELETE FROM meta WHERE name = 'records' AND ?1 = 1";
    let damaged = Damaged::new(&original, directory.path(), damage, &Value::Integer(1)).unwrap();
    assert!(!SqliteStore::verify_file(&damaged.path, &options()).unwrap().faults.is_empty());
    let write = RecordWrite::create("lease", "new", "1");
    damaged.is_corrupt(|| damaged.open()?.records().unwrap().write(&[write]));
}

/// Its slot, which is in the row as well, tells most other names.
#[test]
fn a_topic_is_not_taken_for_another_of_its_slot() {
    let slots = Partitions::new(1024).unwrap();
    let other = (0..).map(|n| format!("t{n}")).find(|name| slots.of(name) == slots.of("t")).unwrap();
    let directory = TempDir::new().unwrap();
    let original = fs::read(written(directory.path())).unwrap();
    let damage = "UPDATE topics SET name = ?1 WHERE name = 't'";
    let damaged = Damaged::new(&original, directory.path(), damage, &Value::Text(other)).unwrap();
    damaged.is_noticed_by_the_check();
    damaged.is_corrupt(|| damaged.open()?.append_one(&Event::new("u", "1").unwrap()));
}

#[test]
fn each_column_of_the_partition_is_part_of_its_checksum() {
    let changes = each_change("partition = 0", "partitions", |damaged| {
        damaged.is_noticed_by_the_check();
        damaged.is_corrupt(|| damaged.open());
    });
    assert!(changes > 20, "{changes}");
}

/// Texts that are neighbours are told apart, though all of their characters are there.
#[test]
fn no_character_can_move_from_a_text_to_the_next() {
    let directory = TempDir::new().unwrap();
    let original = fs::read(written(directory.path())).unwrap();
    for (table, offset, first, next) in [
        ("events", 1, "event_id", "timestamp"),
        ("events", 1, "timestamp", "source"),
        ("events", 1, "source", "payload"),
        ("events", 1, "content_type", "attributes"),
        ("stubs", 7, "event_id", "source"),
    ] {
        for moved in [
            format!(
                "{first} = substr({first}, 1, length({first}) - 1), {next} = substr({first}, -1) || {next}"
            ),
            format!("{first} = {first} || substr({next}, 1, 1), {next} = substr({next}, 2)"),
        ] {
            let damage = format!("UPDATE {table} SET {moved} WHERE offset = ?1");
            let damaged =
                Damaged::new(&original, directory.path(), &damage, &Value::Integer(offset)).unwrap();
            // Where the second one is empty nothing can move to the first.
            if table == "stubs" && moved.contains("substr(source, 2)") {
                continue;
            }
            damaged.is_noticed_by_the_check();
            damaged.is_corrupt(|| all_rows(&damaged.open()?));
        }
    }
}

/// Chunks, heads and the manifest: each of their bytes, and the keys they lie under.
#[test]
fn each_byte_of_the_index_is_part_of_a_checksum() {
    let at_start =
        each_change("section = (SELECT min(section) FROM index_sections)", "index_sections", |damaged| {
            assert!(
                !SqliteStore::verify_file(&damaged.path, &options()).unwrap().faults.is_empty(),
                "{}",
                damaged.what
            );
            damaged.is_corrupt(|| damaged.open());
        });
    assert!(at_start > 60, "{at_start}");
    let of_chunk = each_change("chunk = (SELECT min(chunk) FROM index_chunks)", "index_chunks", |damaged| {
        assert!(
            !SqliteStore::verify_file(&damaged.path, &options()).unwrap().faults.is_empty(),
            "{}",
            damaged.what
        );
        let events: Vec<_> = (0..60).map(|n| Event::new("t", format!("event-{n}")).unwrap()).collect();
        let views: Vec<_> = events.iter().map(Event::view).collect();
        damaged.is_corrupt(|| damaged.open()?.append_all(&views));
    });
    assert!(of_chunk > 60, "{of_chunk}");
    each_change("id = 0", "index_manifest", |damaged| {
        damaged.is_corrupt(|| damaged.open());
        assert!(
            SqliteStore::verify_file(&damaged.path, &options()).is_ok_and(|report| !report.faults.is_empty())
        );
    });
}

/// The manifest is a text, of which each character counts.
#[test]
fn each_character_of_the_manifest_is_part_of_its_checksum() {
    let directory = TempDir::new().unwrap();
    let path = written(directory.path());
    let original = fs::read(&path).unwrap();
    let manifest: String = Connection::open(&path)
        .unwrap()
        .query_row("SELECT manifest FROM index_manifest", [], |row| row.get(0))
        .unwrap();
    for at in 0..manifest.len() {
        let mut bytes = manifest.clone().into_bytes();
        bytes[at] ^= 1;
        let value = Value::Text(String::from_utf8(bytes).unwrap());
        let damage = "UPDATE index_manifest SET manifest = ?1";
        let damaged = Damaged::new(&original, directory.path(), damage, &value).unwrap();
        damaged.is_corrupt(|| damaged.open());
    }
}
