//! A disk that returns something else than it was given: never a silent skip, never a wrong answer.

use std::fs;
use std::path::Path;

use aggregator_core::{
    DedupStore, DedupStoreExt, Event, Identity, Query, Seen, SqliteStore, StoreError, StoredEvent, Topic,
    TopicSelector,
};
use tempfile::TempDir;

const TOPICS: [&str; 3] = ["a", "a.b", "c"];

fn events() -> Vec<Event> {
    let event = |n: usize| {
        let payload = format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(n % 90));
        Event::new(TOPICS[n % 3], format!("event-{n}")).unwrap().with_payload(&payload).unwrap()
    };
    (0..300).map(event).collect()
}

/// Everything there is to read, and what every identity is known as.
fn everything(store: &dyn DedupStore) -> Result<(Vec<StoredEvent>, Vec<Option<Seen>>), StoreError> {
    let mut read = Vec::new();
    for topic in TOPICS {
        let mut query = Query::of(TopicSelector::Exact(Topic::new(topic).unwrap()));
        loop {
            let page = store.read(&query)?;
            read.extend(page.events);
            if page.caught_up {
                break;
            }
            query.after = Some(page.next);
        }
    }
    let identity = |event: &Event| Identity {
        topic: Topic::new(event.view().topic()).unwrap(),
        event_id: aggregator_core::EventId::new(event.view().event_id()).unwrap(),
        source: None,
    };
    Ok((read, store.lookup(&events().iter().map(identity).collect::<Vec<_>>())?))
}

fn damaged(original: &[u8], path: &Path, bit: usize) -> Result<SqliteStore, StoreError> {
    let mut bytes = original.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
    SqliteStore::open(path)
}

/// Flips single bits all over the file. Whatever does not change what is stored (unused bytes) may
/// stay unseen; everything else is found by `verify`, and what is read meanwhile is right or an error.
#[test]
fn a_flipped_bit_is_found_and_what_is_read_is_right_or_an_error() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    let events = events();
    store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    store.append_all(&events[..50].iter().map(Event::view).collect::<Vec<_>>()).unwrap();
    store.purge(&Topic::new("a").unwrap(), 10).unwrap();
    let whole = everything(&store).unwrap();
    drop(store);
    let original = fs::read(&path).unwrap();

    let (mut refused, mut reported, mut harmless) = (0, 0, 0);
    let copy = directory.path().join("copy.db");
    // A stride without a factor in common with the page size visits every part of every page.
    for bit in (0..original.len() * 8).step_by(997) {
        let Ok(store) = damaged(&original, &copy, bit) else {
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
        drop(store);
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(directory.path().join(format!("copy.db{suffix}")));
        }
    }
    eprintln!("refused {refused}, reported {reported}, harmless {harmless}");
    assert!(reported > refused && reported > 100, "the flips did not hit what is stored");
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
    // And the publisher whose repeat comes by.
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open(&path).unwrap();
    let first = Event::new("t", "1").unwrap();
    store.append_one(&first).unwrap();
    store.append_one(&Event::new("t", "2").unwrap()).unwrap();
    let damage = "UPDATE dedup_index SET offset = 2 WHERE event_id = '1'";
    rusqlite::Connection::open(&path).unwrap().execute_batch(damage).unwrap();
    let error = store.append_one(&first).unwrap_err();
    assert!(error.to_string().contains("offset 2, which holds another identity"), "{error}");
}
