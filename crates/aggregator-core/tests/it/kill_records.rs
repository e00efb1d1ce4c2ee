//! A process that writes records is killed again and again, and no acknowledged write is lost.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aggregator_core::{DedupStore, DedupStoreExt, Record, RecordOutcome, RecordWrite, Records, SqliteStore};
use tempfile::TempDir;

/// Tells a process of this test binary where to write.
const DIRECTORY: &str = "KILL_RECORDS_IN";

const KILLS: u64 = 10;
const THREADS: u64 = 4;
const KIND: &str = "lease";

/// Each thread writes two records in one write, `pair`, and one that it makes and deletes in turn.
fn name(thread: u64, which: &str) -> String {
    format!("{thread}-{which}")
}

const PAIR: [&str; 2] = ["left", "right"];
const FLEETING: &str = "fleeting";

fn log(directory: &Path, thread: u64) -> PathBuf {
    directory.join(format!("acknowledged-{thread}"))
}

/// Not a test: what is killed. It writes records and, once a write is acknowledged, a line about each of them: its name, its
/// version and its value.
#[test]
#[ignore = "is started by another test, to be killed"]
fn write_records_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let store = SqliteStore::open(directory.join("events.db")).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (store, directory) = (&store, &directory);
            scope.spawn(move || {
                let log = File::options().append(true).create(true).open(log(directory, number)).unwrap();
                let mut turn = 0;
                while Instant::now() < until {
                    write_once(store.records().unwrap(), &log, number, turn);
                    turn += 1;
                }
            });
        }
    });
}

fn write_once(records: &dyn Records, mut log: &File, thread: u64, turn: u64) {
    let get = |which: &str| records.get(KIND, &name(thread, which)).unwrap();
    let writes: Vec<RecordWrite> = if turn % 3 == 2 {
        vec![match get(FLEETING) {
            Some(record) => RecordWrite::delete(&record),
            None => RecordWrite::create(KIND, name(thread, FLEETING), "0"),
        }]
    } else {
        let write = |which: &&str| match get(which) {
            Some(record) => RecordWrite::update(&record, (value(&record) + 1).to_string()),
            None => RecordWrite::create(KIND, name(thread, which), "1"),
        };
        PAIR.iter().map(write).collect()
    };
    let RecordOutcome::Written(versions) = records.write(&writes).unwrap() else {
        panic!("nobody else writes what is this thread's");
    };
    // One line is one write to the file: it is there or not.
    for (write, version) in writes.iter().zip(versions) {
        let value = write.value.as_deref().map_or("-", |value| std::str::from_utf8(value).unwrap());
        log.write_all(format!("{} {version} {value}\n", write.name).as_bytes()).unwrap();
    }
}

fn value(record: &Record) -> u64 {
    std::str::from_utf8(&record.value).unwrap().parse().unwrap()
}

/// Killed when it is let go, at the latest.
struct Writer(Child);

impl Writer {
    fn start(directory: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill_records::write_records_until_killed", "--ignored", "--nocapture"])
            .env_clear()
            .env(DIRECTORY, directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The newest line about each record: its version and its value, `None` if it was deleted. In the order they were written,
/// versions grow.
fn acknowledged(directory: &Path) -> Known {
    let mut newest = Known::new();
    for thread in 0..THREADS {
        for line in fs::read_to_string(log(directory, thread)).unwrap_or_default().lines() {
            let [name, version, value] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line:?} is no line");
            };
            let version: u64 = version.parse().unwrap();
            let before = newest.insert(name.to_owned(), (version, value.parse().ok()));
            assert!(before.is_none_or(|(before, _)| before < version), "{line} after {before:?}");
        }
    }
    newest
}

fn lines(directory: &Path) -> usize {
    let length = |thread| fs::metadata(log(directory, thread)).map_or(0, |log| log.len());
    usize::try_from((0..THREADS).map(length).sum::<u64>()).unwrap() / 12
}

/// What is known of each record: its newest version and value, `None` if it was deleted.
type Known = BTreeMap<String, (u64, Option<u64>)>;

/// What was acknowledged is there, or what was on its way then in its place. `known` is what was there after the last kill:
/// a life that ended before its first acknowledgement has begun there.
fn check(directory: &Path, known: &mut Known) {
    let store = SqliteStore::open(directory.join("events.db")).unwrap();
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
    let records = store.records().unwrap();
    for (name, acknowledged) in acknowledged(directory) {
        // With the same version, what was found after the last kill is newer: its deletion may have been on its way.
        let entry = known.entry(name).or_insert(acknowledged);
        if acknowledged.0 > entry.0 {
            *entry = acknowledged;
        }
    }
    for (name, (version, value)) in &mut *known {
        let Some(record) = records.get(KIND, name).unwrap() else {
            assert!(name.ends_with(FLEETING), "{name} was acknowledged and is lost");
            // It was deleted, or it was there and its deletion was on its way.
            *value = None;
            continue;
        };
        let found = Some(self::value(&record));
        if record.version == *version {
            assert_eq!(found, *value, "{name}");
        } else {
            assert!(record.version > *version, "{record:?} after version {version}");
            let next = value.map_or(0, |value| value + 1);
            assert_eq!(found, Some(next), "{name}");
        }
        (*version, *value) = (record.version, found);
    }
    for thread in 0..THREADS {
        let [left, right] = PAIR.map(|which| records.get(KIND, &name(thread, which)).unwrap());
        assert_eq!(left.as_ref().map(value), right.as_ref().map(value), "a write is whole");
    }
}

#[test]
fn an_acknowledged_record_survives_kill_9() {
    let directory = TempDir::new().unwrap();
    let mut known = Known::new();
    for kill in 0..KILLS {
        let writer = Writer::start(directory.path());
        // From the first write of its life on, at any number of them.
        let until = lines(directory.path()) + usize::try_from(1 + kill * 618 % 300).unwrap();
        let started = Instant::now();
        while lines(directory.path()) < until {
            assert!(started.elapsed() < Duration::from_secs(60), "it writes nothing");
            thread::sleep(Duration::from_micros(200 + kill * 37));
        }
        drop(writer);
        check(directory.path(), &mut known);
    }
    assert_eq!(known.len() as u64, 3 * THREADS);
}
