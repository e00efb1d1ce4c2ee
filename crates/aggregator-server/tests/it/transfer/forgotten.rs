//! Exports of stores that have forgotten identities, and imports of them.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aggregator_core::{
    Clock, DedupStore, DedupStoreExt as _, Event, MemoryStore, Outcome, Partitions, Scope, SqliteStore,
    StoreError, Timestamp, Topic,
};
use aggregator_server::admin::transfer::{TransferError, export, import};
use aggregator_server::options::{Command, Options};
use clap::Parser as _;
use tempfile::TempDir;

use super::lab::{Contents, append, contents, fail, of_file, run, succeed};
use crate::support::Process;

/// 2026-01-01, in microseconds.
const BEGIN: i64 = 1_767_225_600_000_000;

/// A clock that goes on by a second with each call.
fn clock() -> Clock {
    let now = AtomicI64::new(BEGIN);
    Arc::new(move || Timestamp::from_micros(now.fetch_add(1_000_000, Ordering::SeqCst)))
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn event(topic: &str, n: u32) -> Event {
    let scope = if topic == "by-source" { Scope::Source } else { Scope::Topic };
    let event = Event::new(topic, format!("id-{n}")).unwrap().with_scope(scope).with_source("s").unwrap();
    event.with_timestamp("2025-12-31T23:59:59Z").unwrap().with_payload(&n.to_string()).unwrap()
}

/// Appends 20 events to each of three topics and has purged 15 of each, forgotten 10 and 15 in two of them, and one in between
/// came again.
pub(super) fn fill(store: &dyn DedupStore) {
    for n in 1..=20 {
        for topic in ["a", "b", "by-source"] {
            append(store, &[event(topic, n)]);
        }
    }
    for name in ["a", "b", "by-source"] {
        store.purge(&topic(name), 15).unwrap();
    }
    let late = Timestamp::from_micros(i64::MAX);
    assert_eq!(store.forget_identities(&topic("a"), late, 10).unwrap(), 10);
    assert_eq!(store.forget_identities(&topic("by-source"), late, 100).unwrap(), 15);
    let again = append(store, &[event("a", 3), event("a", 12), event("by-source", 15)]);
    let told: Vec<_> = again.iter().map(|receipt| (receipt.outcome, receipt.seq)).collect();
    let expected = [(Outcome::Stored, Some(21)), (Outcome::Duplicate, Some(12)), (Outcome::Stored, Some(21))];
    assert_eq!(told, expected);
}

pub(super) fn forgetful(partitions: u16) -> MemoryStore {
    let store = MemoryStore::new(Partitions::new(partitions).unwrap()).with_clock(clock());
    fill(&store);
    store
}

fn parsed(arguments: &[&str]) -> Command {
    let arguments = [&["aggregator-server"], arguments].concat();
    Options::parse_from(arguments).into_parts().0.unwrap()
}

fn export_to(store: &dyn DedupStore, path: &Path) -> Result<(), TransferError> {
    let out = path.to_str().unwrap();
    let Command::Export(options) = parsed(&["export", "--out", out, "--checkpoint-rows", "10"]) else {
        panic!("it exports")
    };
    export::export(store, &options)
}

fn import_from(store: &dyn DedupStore, path: &Path, more: &[&str]) -> Result<(), TransferError> {
    let arguments = [&["import", "--in", path.to_str().unwrap()], more].concat();
    let Command::Import(options) = parsed(&arguments) else { panic!("it imports") };
    import::import(store, import::Input::open(&options.input).unwrap(), &options)
}

/// The rows of each topic. Between topics there is no order.
fn by_topic(store: &dyn DedupStore) -> Contents {
    let (mut rows, topics, stats) = contents(store);
    rows.sort_by(|a, b| a.topic.cmp(&b.topic));
    (rows, topics, stats)
}

/// Imports twice, and looks at what is there each time.
pub(super) fn moves_whole(origin: &dyn DedupStore, target: &dyn DedupStore) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("export");
    export_to(origin, &path).unwrap();
    for _ in 0..2 {
        import_from(target, &path, &["--batch-rows", "7"]).unwrap();
        assert_eq!(by_topic(target), by_topic(origin));
        assert_eq!(target.verify().unwrap().faults, [""; 0]);
    }
    // What is forgotten there is so here.
    for store in [origin, target] {
        let again = append(store, &[event("a", 9), event("a", 11), event("b", 1), event("by-source", 14)]);
        let outcomes: Vec<_> = again.iter().map(|receipt| (receipt.outcome, receipt.seq)).collect();
        let expected = [
            (Outcome::Stored, Some(22)),
            (Outcome::Duplicate, Some(11)),
            (Outcome::Duplicate, Some(1)),
            (Outcome::Stored, Some(22)),
        ];
        assert_eq!(outcomes, expected);
    }
    // And it moves on from there.
    let (next, third) = (directory.path().join("next"), MemoryStore::default());
    export_to(target, &next).unwrap();
    import_from(&third, &next, &[]).unwrap();
    assert_eq!(contents(&third).0.len(), contents(origin).0.len());
}

#[test]
fn a_store_that_has_forgotten_identities_moves_from_memory_to_memory() {
    for partitions in [1, 3] {
        moves_whole(&forgetful(partitions), &MemoryStore::default());
    }
}

#[test]
fn a_store_that_has_forgotten_identities_moves_from_memory_to_a_file_and_back() {
    let directory = TempDir::new().unwrap();
    let file = SqliteStore::open(directory.path().join("events.db")).unwrap();
    moves_whole(&forgetful(2), &file);
    let own = SqliteStore::open(directory.path().join("own.db")).unwrap();
    fill(&own);
    moves_whole(&own, &MemoryStore::default());
}

#[test]
fn the_export_counts_what_is_forgotten_and_says_so_at_its_end() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("export");
    export_to(&forgetful(1), &path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let marks: Vec<_> = text.lines().filter(|line| line.contains("forgotten_seq")).collect();
    assert_eq!(marks.len(), 2, "{text}");
    assert!(marks[0].starts_with(r#"{"topic":"a","forgotten_seq":10,"processed_at":"2026-"#), "{}", marks[0]);
    assert!(
        marks[1].starts_with(r#"{"topic":"by-source","scope":"source","forgotten_seq":15,"processed_at":"#),
        "{}",
        marks[1]
    );
    let end = text.lines().last().unwrap();
    let counts = r#"{"end":{"events":17,"stubs":20,"identities":0,"forgotten":25,"topics":3},"sum":"#;
    assert!(end.starts_with(counts), "{end}");
    assert!(text.contains(r#""identities":0,"forgotten":10,"topics":0},"purged":45,"#), "{text}");
}

#[test]
fn a_mark_that_is_missing_is_noticed() {
    let directory = TempDir::new().unwrap();
    let (whole, cut) = (directory.path().join("whole"), directory.path().join("cut"));
    let store = forgetful(1);
    append(&store, &[event("gone", 1), event("last", 1)]);
    store.purge(&topic("gone"), 1).unwrap();
    let forgotten = store.forget_identities(&topic("gone"), Timestamp::from_micros(i64::MAX), 9);
    assert_eq!(forgotten.unwrap(), 1);
    export_to(&store, &whole).unwrap();
    let text = fs::read_to_string(&whole).unwrap();
    for (missing, says) in [
        (
            "\"by-source\",\"scope\":\"source\",\"forgotten_seq",
            "the next seq here is 1: rows are missing before this one",
        ),
        // No row comes behind it.
        ("\"gone\",\"forgotten_seq", "lines are missing"),
    ] {
        let kept: String = text.split_inclusive('\n').filter(|line| !line.contains(missing)).collect();
        assert!(kept.len() < text.len());
        fs::write(&cut, kept).unwrap();
        let refused = import_from(&MemoryStore::default(), &cut, &[]).unwrap_err().to_string();
        assert!(refused.contains(says), "{missing}: {refused}");
    }
}

/// A list of identities has none.
#[test]
fn a_list_of_identities_with_a_mark_is_refused() {
    let directory = TempDir::new().unwrap();
    let list = directory.path().join("ids");
    let mark = r#"{"topic":"t","forgotten_seq":4,"processed_at":"2026-01-01T00:00:00Z"}"#;
    fs::write(&list, format!("{mark}\n")).unwrap();
    let refused = import_from(&MemoryStore::default(), &list, &["--ids-only"]).unwrap_err().to_string();
    assert!(refused.contains("line 1: is not an identity: unknown field `forgotten_seq`"), "{refused}");
}

#[test]
fn a_store_with_events_of_its_own_refuses_the_mark() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("export");
    export_to(&forgetful(1), &path).unwrap();
    let store = MemoryStore::default();
    append(&store, &[event("a", 99)]);
    let before = contents(&store);
    let refused = import_from(&store, &path, &["--raise-times"]).unwrap_err();
    let TransferError::Line { reason, .. } = &refused else { panic!("{refused}") };
    assert!(reason.contains("has forgotten the topic's events up to seq 10"), "{reason}");
    assert!(reason.contains("Import into an empty store"), "{reason}");
    assert_eq!(contents(&store), before);
    // As a program: the same exit code as other refusals.
    let file = directory.path().join("own.db");
    append(&SqliteStore::open(&file).unwrap(), &[event("a", 99)]);
    let (store, input) = (format!("sqlite:{}", file.display()), path.to_str().unwrap());
    let told = fail(Process::command(&["import", "--store", &store, "--in", input, "--raise-times"]));
    assert!(told.contains("line ") && told.contains("has forgotten"), "{told}");
    assert_eq!(of_file(&file).0.len(), 1);
}

#[test]
fn the_program_takes_a_file_with_marks() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("export");
    export_to(&forgetful(1), &path).unwrap();
    let arguments = ["import", "--store", "memory:", "--in", path.to_str().unwrap()];
    let told = succeed(Process::command(&arguments));
    assert!(told.contains("imported 39 rows, 0 were there already"), "{told}");
}

/// What was written as a stub before an interruption must not be followed by the mark that stands for it.
#[test]
fn an_export_that_was_begun_before_identities_were_forgotten_is_not_continued() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("export");
    let store = MemoryStore::default().with_clock(clock());
    for n in 1..=40 {
        append(&store, &[event("a", n)]);
    }
    store.purge(&topic("a"), 30).unwrap();
    export_to(&store, &path).unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    // Behind the checkpoint at the 20th row.
    let cut = whole.match_indices("{\"checkpoint\"").nth(2).unwrap().0 - 10;
    fs::write(&path, &whole[..cut]).unwrap();
    let late = Timestamp::from_micros(i64::MAX);
    assert_eq!(store.forget_identities(&topic("a"), late, 25).unwrap(), 25);
    for _ in 0..2 {
        let refused = export_to(&store, &path).unwrap_err();
        assert!(matches!(refused, TransferError::Refused(_)), "{refused}");
        let refused = refused.to_string();
        assert!(refused.contains("identities were forgotten since the export began"), "{refused}");
        assert!(refused.contains("remove the file, and export anew"), "{refused}");
    }
    fs::remove_file(&path).unwrap();
    export_to(&store, &path).unwrap();
    let target = MemoryStore::default();
    import_from(&target, &path, &[]).unwrap();
    assert_eq!(contents(&target).0, contents(&store).0);
}

/// Those that were imported alone have no seqs, so nothing is missing, and older programs take the file.
#[test]
fn forgotten_identities_without_seqs_leave_nothing_in_an_export() {
    let directory = TempDir::new().unwrap();
    let (list, path) = (directory.path().join("ids"), directory.path().join("export"));
    let ids = (0..3).map(|n| format!("{{\"topic\":\"a\",\"event_id\":\"alone-{n}\"}}\n"));
    fs::write(&list, ids.collect::<String>()).unwrap();
    let store = MemoryStore::default();
    import_from(&store, &list, &["--ids-only"]).unwrap();
    append(&store, &[event("a", 1)]);
    let forgotten = store.forget_identities(&topic("a"), Timestamp::from_micros(i64::MAX), 2);
    assert_eq!(forgotten.unwrap(), 2);
    export_to(&store, &path).unwrap();
    assert!(!fs::read_to_string(&path).unwrap().contains("forgotten"));
    let target = MemoryStore::default();
    import_from(&target, &path, &[]).unwrap();
    assert_eq!(contents(&target).0.len(), 2);
}

#[test]
fn an_export_with_marks_is_imported_for_ever() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/export-1-forgotten.ndjson");
    let target = MemoryStore::default();
    import_from(&target, &golden, &[]).unwrap();
    assert_eq!(contents(&target), contents(&forgetful(1)));
    let again: Result<_, StoreError> =
        target.forget_identities(&topic("a"), Timestamp::from_micros(i64::MAX), 9);
    assert_eq!(again.unwrap(), 5);
}

#[test]
fn an_export_with_marks_is_imported_into_a_file_for_ever() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/export-1-forgotten.ndjson");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = format!("sqlite:{}", path.display());
    let arguments = ["import", "--store", &store, "--in", golden.to_str().unwrap()];
    assert!(succeed(Process::command(&arguments)).contains("imported 39 rows, 0 were there already"));
    assert!(succeed(Process::command(&arguments)).contains("imported 0 rows, 39 were there already"));
    let (code, told) = run(Process::command(&["check", "--store", &store]));
    assert_eq!(code, 0, "{told}");
    assert_eq!(of_file(&path), contents(&forgetful(1)));
}
