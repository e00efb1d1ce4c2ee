//! A disk that returns something else than it was given: never a silent skip, never a wrong answer.

use std::fs;
use std::path::Path;

use aggregator_core::store::IndexOptions;
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, Identity, Order, Outcome, Query, RowLimit, Seen, SqliteOptions,
    SqliteStore, StoreError, StoredEvent, Timestamp, Topic, TopicQuery, TopicSelector,
};
use tempfile::TempDir;

use crate::index::{with, without_journal};

const TOPICS: [&str; 3] = ["a", "a.b", "c"];

fn events() -> Vec<Event> {
    let event = |n: usize| {
        let payload = format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(n % 90));
        Event::new(TOPICS[n % 3], format!("event-{n}")).unwrap().with_payload(&payload).unwrap()
    };
    (0..300).map(event).collect()
}

type Everything = (Vec<StoredEvent>, Vec<Option<Seen>>);

/// Everything there is to read, and what every identity is known as.
fn everything(store: &dyn DedupStore) -> Result<Everything, StoreError> {
    let mut read = Vec::new();
    for topic in TOPICS {
        for page in store.pages(Query::topic(Topic::new(topic).unwrap())) {
            read.extend(page?.events);
        }
    }
    let identity = |event: &Event| Identity {
        topic: Topic::new(event.view().topic()).unwrap(),
        event_id: aggregator_core::EventId::new(event.view().event_id()).unwrap(),
        source: None,
    };
    Ok((read, store.lookup(&events().iter().map(identity).collect::<Vec<_>>())?))
}

/// With most of the index in the file.
fn options() -> SqliteOptions {
    with(IndexOptions { memtable: 40, section: 30, fan_out: 2 })
}

fn damaged(original: &[u8], path: &Path, damage: impl Fn(&mut [u8])) -> Result<SqliteStore, StoreError> {
    let mut bytes = original.to_vec();
    damage(&mut bytes);
    fs::write(path, bytes).unwrap();
    SqliteStore::open_with(path, options())
}

/// Whatever happened to the disk: a repeat is recognised, or nothing is acknowledged.
fn assert_no_repeat_is_stored(store: &SqliteStore, events: &[Event], damage: &str) {
    for batch in events.chunks(50) {
        let Ok(receipts) = store.append_all(&batch.iter().map(Event::view).collect::<Vec<_>>()) else {
            break;
        };
        let stored = receipts.iter().filter(|receipt| receipt.outcome == Outcome::Stored).count();
        assert!(stored == 0, "{damage}: {stored} repeats were stored");
    }
}

/// A file with every kind of row in it, the events that it has to recognise, and what is read from it.
fn stored(path: &Path) -> (Vec<Event>, Everything) {
    let store = SqliteStore::open_with(path, options()).unwrap();
    let events = events();
    for batch in events.chunks(30) {
        store.append_all(&batch.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    }
    store.append_all(&events[..50].iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    store.purge(&Topic::new("a").unwrap(), 10).unwrap();
    let forgotten = store.forget_identities(&Topic::new("a").unwrap(), Timestamp::from_micros(i64::MAX), 4);
    assert_eq!(forgotten.unwrap(), 4);
    let whole = everything(&store).unwrap();
    let known = events.into_iter().zip(&whole.1).filter_map(|(event, seen)| seen.is_some().then_some(event));
    let known: Vec<_> = known.collect();
    assert_eq!(known.len(), 296);
    (known, whole)
}

/// Flips single bits all over the file. Whatever does not change what is stored (unused bytes) may
/// stay unseen; everything else is found by `verify`, what is read meanwhile is right or an error, and no
/// repeat is stored.
#[test]
fn a_flipped_bit_is_found_and_what_is_read_is_right_or_an_error() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let (events, whole) = stored(&path);
    let original = fs::read(&path).unwrap();

    let (mut refused, mut reported, mut harmless) = (0, 0, 0);
    let copy = directory.path().join("copy.db");
    // A stride without a factor in common with the page size visits every part of every page.
    for bit in (0..original.len() * 8).step_by(2_999) {
        let Ok(store) = damaged(&original, &copy, |bytes| bytes[bit / 8] ^= 1 << (bit % 8)) else {
            refused += 1;
            continue;
        };
        let sound = store.verify().is_ok_and(|report| report.faults.is_empty());
        match everything(&store) {
            Ok(read) if sound => {
                assert!(read == whole, "bit {bit} changed what is read, and nobody noticed");
                harmless += 1;
            }
            Ok((events, _)) => {
                // A reader may not notice what `verify` does, but what it is given was stored.
                assert!(events.iter().all(|event| whole.0.contains(event)), "bit {bit} made an event up");
                reported += 1;
            }
            Err(error) => {
                assert!(!sound, "bit {bit} fails a read and not the check: {error}");
                reported += 1;
            }
        }
        assert_no_repeat_is_stored(&store, &events, &format!("bit {bit}"));
        drop(store);
        remove_log(&copy);
    }
    eprintln!("refused {refused}, reported {reported}, harmless {harmless}");
    assert!(refused > 5 && reported > 50, "the flips did not hit what is stored");
}

/// A page that was never written, or that the disk forgot.
#[test]
fn a_page_of_zeros_lets_no_repeat_through() {
    const PAGE: usize = 8192;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let (events, _) = stored(&path);
    let original = fs::read(&path).unwrap();
    let copy = directory.path().join("copy.db");
    for page in 1..original.len() / PAGE {
        let damage = |bytes: &mut [u8]| bytes[page * PAGE..(page + 1) * PAGE].fill(0);
        if let Ok(store) = damaged(&original, &copy, damage) {
            assert_no_repeat_is_stored(&store, &events, &format!("page {page}"));
        }
        remove_log(&copy);
    }
}

/// A topic that is not found where it was would be a new one, with none of its identities.
#[test]
fn a_damaged_topic_lets_no_repeat_through() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let (events, _) = stored(&path);
    let original = fs::read(&path).unwrap();
    let copy = directory.path().join("copy.db");
    for damage in [
        "UPDATE topics SET name = 'other' WHERE name = 'a.b'",
        "UPDATE topics SET topic_id = topic_id + 10",
        "DELETE FROM topics WHERE name = 'c'",
        "UPDATE topics SET scope = 1 - scope",
        "UPDATE topics SET last_seq = last_seq + 1",
        "UPDATE partitions SET topics = topics - 1",
        "UPDATE partitions SET last_offset = last_offset - 1",
        "UPDATE partitions SET last_offset = last_offset + 1",
        "DELETE FROM partitions",
    ] {
        fs::write(&copy, &original).unwrap();
        rusqlite::Connection::open(&copy).unwrap().execute_batch(damage).unwrap();
        if let Ok(store) = SqliteStore::open_with(&copy, options()) {
            let all: Vec<_> = events.iter().map(Event::view).collect();
            let error = store.append_all(&all).expect_err(damage);
            assert!(matches!(error, StoreError::Corrupt { .. }), "{damage}: {error}");
        }
        assert!(!SqliteStore::verify_file(&copy, &options()).unwrap().faults.is_empty(), "{damage}");
        remove_log(&copy);
    }
}

fn remove_log(path: &Path) {
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", path.display()));
    }
}

/// The places that a reader comes by, hit on purpose.
#[test]
fn a_reader_names_what_is_corrupt() {
    for (damage, found) in [
        (
            "UPDATE events SET payload = replace(payload, '7', '8') WHERE seq = 3",
            "the event at offset 3 does not match",
        ),
        (
            "UPDATE events SET event_id = 'other' WHERE seq = 2",
            "the event at offset 2 does not match its checksum",
        ),
        (
            "UPDATE events SET processed_at = processed_at + 1 WHERE seq = 2",
            "the event at offset 2 does not match",
        ),
        ("DELETE FROM events WHERE seq = 2", "events are missing next to offset 3 (seq 3)"),
    ] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let store = SqliteStore::open(&path).unwrap();
        let events: Vec<_> =
            (0..4).map(|n| Event::new("t", n.to_string()).unwrap().with_payload("[7]").unwrap()).collect();
        store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        rusqlite::Connection::open(&path).unwrap().execute_batch(damage).unwrap();
        let error = store.read(&Query::topic(Topic::new("t").unwrap())).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }) && error.to_string().contains(found), "{error}");
        assert!(store.verify().unwrap().faults.iter().any(|fault| !fault.is_empty()));
    }
}

#[test]
fn a_list_of_topics_names_what_is_missing() {
    for (damage, found) in [
        ("DELETE FROM topics WHERE name = 't'", "the topic t is missing"),
        ("DELETE FROM spans", "the spans of topic t are missing"),
        ("UPDATE spans SET first_offset = 3", "event 2 of topic t is missing at offset 3"),
        ("DELETE FROM events WHERE seq = 2", "event 2 of topic t is missing at offset 2"),
        ("DELETE FROM events WHERE seq = 4", "event 4 of topic t is missing at offset 4"),
    ] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let store = SqliteStore::open(&path).unwrap();
        let events: Vec<_> = (0..4).map(|n| Event::new("t", n.to_string()).unwrap()).collect();
        store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        let topic = Topic::new("t").unwrap();
        store.purge(&topic, 1).unwrap();
        rusqlite::Connection::open(&path).unwrap().execute_batch(damage).unwrap();
        let query = TopicQuery { times: true, ..TopicQuery::of(TopicSelector::Exact(topic)) };
        let error = store.topics(&query).expect_err(damage);
        assert!(matches!(error, StoreError::Corrupt { .. }) && error.to_string().contains(found), "{error}");
    }
}

/// Everything in the topic, or in all of them, in pages of this size.
fn read_paged(store: &SqliteStore, query: Query) -> Result<Vec<u64>, StoreError> {
    let mut offsets = Vec::new();
    for page in store.pages(query) {
        offsets.extend(page?.events.iter().map(|event| event.offset));
    }
    Ok(offsets)
}

/// Rows that are gone, which no checksum tells: a reader is given everything or an error, and the check finds it.
#[test]
fn a_reader_is_given_everything_or_an_error() {
    for damage in [
        "UPDATE partitions SET last_offset = last_offset - 5",
        "UPDATE topics SET scope = 1 - scope",
        "UPDATE topics SET name = 'other' WHERE name = 't'",
        "DELETE FROM topics WHERE name = 't'",
        "DELETE FROM spans",
        "DELETE FROM spans WHERE first_offset = (SELECT max(first_offset) FROM spans WHERE topic_id = 1)",
        "UPDATE spans SET last_offset = last_offset - 1 WHERE last_offset > first_offset",
        "DELETE FROM events WHERE seq = 1 AND topic_id = 1",
        "DELETE FROM events WHERE seq = 20 AND topic_id = 1",
        "DELETE FROM events WHERE seq = 11 AND topic_id = 1",
        "DELETE FROM events WHERE topic_id = 1",
        "DELETE FROM index_chunks",
    ] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let store = SqliteStore::open_with(&path, without_journal(options())).unwrap();
        let event = |topic: &str, n: u32| Event::new(topic, n.to_string()).unwrap();
        for n in 0..10 {
            let batch = [event("t", 2 * n), event("t", 2 * n + 1), event("u", n)];
            store.append_all(&batch.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        }
        let topic = Topic::new("t").unwrap();
        let mut whole = 0;
        let mut refused = 0;
        rusqlite::Connection::open(&path).unwrap().execute_batch(damage).unwrap();
        let mut judge = |what: &str, complete: Result<bool, StoreError>| match complete {
            Ok(complete) => {
                assert!(complete, "{damage}: {what}");
                whole += 1;
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Corrupt { .. }), "{damage}: {what}: {error}");
                refused += 1;
            }
        };
        for (order, limit) in [(Order::Ascending, 1), (Order::Ascending, 7), (Order::Descending, 100)] {
            let of_topic = Query { order, limit, ..Query::topic(topic.clone()) };
            judge("the topic", read_paged(&store, of_topic).map(|offsets| offsets.len() == 20));
            let all = Query { order, limit, ..Query::of(TopicSelector::All) };
            judge("all", read_paged(&store, all).map(|offsets| offsets.len() == 30));
        }
        let id = |n: u32| Identity {
            topic: topic.clone(),
            event_id: aggregator_core::EventId::new(n.to_string()).unwrap(),
            source: None,
        };
        let seen = store.lookup(&(0..20).map(id).collect::<Vec<_>>());
        judge("lookup", seen.map(|seen| seen.iter().all(Option::is_some)));
        // All of the index is in memory yet.
        if !damage.contains("index_chunks") {
            assert!(refused > 0, "{damage}: nobody noticed");
            assert_ne!(store.verify().unwrap().faults, [""; 0], "{damage}: the check did not notice");
        }
    }
}

/// The header says that there are free pages, which SQLite would use next.
#[test]
fn the_check_reads_what_belongs_to_no_row() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    drop(SqliteStore::open_with(&path, options()).unwrap());
    let original = fs::read(&path).unwrap();
    let store = damaged(&original, &path, |bytes| bytes[39] += 7).unwrap();
    let faults = store.verify().unwrap().faults;
    assert!(matches!(&faults[..], [fault] if fault.starts_with("the file: ")), "{faults:?}");
}

/// What an export leaves out, the next store never knows of.
#[test]
fn rows_are_given_out_whole_or_not_at_all() {
    for damage in [
        "DELETE FROM events WHERE offset = 30",
        "DELETE FROM events WHERE offset = 300",
        "DELETE FROM stubs WHERE offset = 1",
        "UPDATE stubs SET digest = NULL WHERE offset = 2",
        "UPDATE events SET payload = '{}' WHERE offset = 30",
        "DELETE FROM topics WHERE name = 'c'",
    ] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let store = SqliteStore::open(&path).unwrap();
        let all = events();
        store.append_all(&all.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        store.purge(&Topic::new("a").unwrap(), 5).unwrap();
        // A store that is damaged so may be refused when it is opened: so it is damaged behind its back.
        assert_eq!(rusqlite::Connection::open(&path).unwrap().execute(damage, []).unwrap(), 1, "{damage}");
        for limit in [RowLimit::default(), RowLimit { rows: 10_000, payload_bytes: 1 }] {
            let mut after = 0;
            let end = loop {
                match store.rows(aggregator_core::Partition(0), after, limit) {
                    Ok(rows) if rows.is_empty() => break Ok(()),
                    Ok(rows) => after = rows.last().unwrap().0,
                    Err(error) => break Err(error),
                }
            };
            assert!(matches!(end, Err(StoreError::Corrupt { .. })), "{damage}: {end:?}");
            assert!(after < 30 || !damage.ends_with("= 30"), "{damage}: {after}");
        }
    }
}

/// A topic that says it has more events than there are.
#[test]
fn a_purge_that_finds_too_few_events_leaves_those_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    let events: Vec<_> = (0..10).map(|n| Event::new("t", n.to_string()).unwrap()).collect();
    store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute_batch("DELETE FROM events WHERE seq > 5").unwrap();
    let error = store.purge(&Topic::new("t").unwrap(), 10).unwrap_err();
    assert!(error.to_string().contains("events are missing after seq 5"), "{error}");
    let left: u64 = file.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 5);
}
