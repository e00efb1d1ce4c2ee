//! What is left of an erased payload in the files of a store: nothing.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use aggregator_core::{
    DedupStore as _, DedupStoreExt, Event, EventId, Identity, Query, SqliteOptions, SqliteStore, StoreError,
    Topic, TopicQuery, TopicSelector, Topics,
};
use sqlite_power_loss::Random;
use tempfile::TempDir;

use crate::restore::{Load, options, topic};

fn all() -> Query {
    Query::of("*".parse::<Topics>().unwrap())
}

fn token(n: u64) -> String {
    format!("<secret-{n}>")
}

/// Its payload has the token on each page that it goes on in.
fn event(topic: &str, n: u64, bytes: usize) -> Event {
    let token = token(n);
    let text = token.repeat(bytes.div_ceil(token.len()));
    Event::new(topic, n.to_string()).unwrap().with_payload(&format!("{text:?}")).unwrap()
}

fn identity(topic: &str, n: u64) -> Identity {
    Identity {
        topic: Topic::new(topic).unwrap(),
        event_id: EventId::new(n.to_string()).unwrap(),
        source: None,
    }
}

/// Which tokens the files of the directory hold, each as often as it is there.
fn tokens(directory: &Path) -> BTreeMap<u64, usize> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        for at in memchr::memmem::find_iter(&bytes, "<secret-") {
            let rest = &bytes[at + 8..bytes.len().min(at + 30)];
            let digits: Vec<_> = rest.iter().take_while(|byte| byte.is_ascii_digit()).collect();
            // One that a page ends in says nothing.
            if rest.get(digits.len()) == Some(&b'>') {
                let number =
                    digits.into_iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
                *found.entry(number).or_default() += 1;
            }
        }
    }
    found
}

/// Every token of the file that belongs to no event of the stream.
fn traces(store: &SqliteStore, directory: &Path) -> Vec<u64> {
    let mut found = tokens(directory);
    for page in store.pages(Query { limit: 100, ..all() }) {
        for event in page.unwrap().events {
            let there = found.remove(&event.event_id.parse().unwrap());
            let is_kept = event.payload.contains("<secret-");
            assert!(!is_kept || there.is_some(), "{} is not where its payload is", event.event_id);
        }
    }
    found.into_keys().collect()
}

/// Events small and large, in the order of their numbers, among them purges: pages are used again and moved.
fn fill(store: &SqliteStore, random: &mut Random, count: u64) {
    for n in 1..=count {
        let bytes = match random.below(20) {
            0 => 100_000,
            1..=4 => 3_000 + usize::try_from(random.below(9_000)).unwrap(),
            _ => 30 + usize::try_from(random.below(900)).unwrap(),
        };
        let name = format!("t{}", n % 3);
        store.append_one(&event(&name, n, bytes)).unwrap();
        if random.once_in(40) {
            let purged = Topic::new(format!("t{}", random.below(2))).unwrap();
            store.purge(&purged, n / 8).unwrap();
        }
    }
}

#[test]
fn nothing_that_was_erased_or_purged_is_left_in_any_file() {
    for seed in 1..=2 {
        let mut random = Random::new(seed);
        let directory = TempDir::new().unwrap();
        let store = SqliteStore::open_with(directory.path().join("events.db"), options()).unwrap();
        fill(&store, &mut random, 400);
        let before = traces(&store, directory.path()).len();
        assert!(before > 20, "seed {seed}: purges leave nothing to find: {before}");
        // Of the topic that is never purged, and of one that is.
        let erased = [2, 399, 302, 301, 398, 1];
        let ids = erased.map(|n| identity(&format!("t{}", n % 3), n));
        let seqs = store.erase(&ids).unwrap();
        assert!(seqs.iter().all(|erased| erased.seqs.len() == 1), "{seqs:?}");
        assert_eq!(traces(&store, directory.path()), Vec::<u64>::new(), "seed {seed}");
        assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
        // And so it stays.
        fill(&store, &mut random, 500);
        assert!(erased.iter().all(|n| !tokens(directory.path()).contains_key(n)), "seed {seed}");
        drop(store);
        let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
        assert!(erased.iter().all(|n| !tokens(directory.path()).contains_key(n)), "seed {seed}");
        assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
    }
}

/// Sets the flag when it is dropped, also by a panic.
struct Ends<'f>(&'f AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Each page that is cleared may be one that an append has in memory, or in the log.
#[test]
fn events_are_erased_beside_appends_and_reads() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open_with(directory.path().join("events.db"), options()).unwrap();
    let mut random = Random::new(7);
    fill(&store, &mut random, 300);
    let erased = [2, 101, 200, 299];
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = Ends(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                for page in store.pages(all()).take(20) {
                    // The load is purged in the end.
                    assert!(matches!(page, Ok(_) | Err(StoreError::Expired { .. })), "{page:?}");
                }
            }
        });
        Load::beside(&store, |_| {
            for n in erased {
                store.erase(&[identity("t2", n)]).unwrap();
                assert!(!tokens(directory.path()).contains_key(&n), "{n}");
            }
            store.purge(&topic(), 100).unwrap();
        });
    });
    assert!(erased.iter().all(|n| !tokens(directory.path()).contains_key(n)));
    assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
    drop(store);
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
}

/// A reader from before needs the old pages of the log: they stay until it ends, and so does the erasure.
#[test]
fn an_erasure_waits_for_a_reader_that_began_before_it() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, options()).unwrap();
    fill(&store, &mut Random::new(5), 100);
    let reader = rusqlite::Connection::open(&path).unwrap();
    let first = |reader: &rusqlite::Connection| {
        reader.query_row("SELECT payload FROM processed_events WHERE event_id = '2'", [], |row| row.get(0))
    };
    reader.execute_batch("BEGIN").unwrap();
    let payload: String = first(&reader).unwrap();
    let everything = || {
        let sql = "SELECT count(*), sum(length(payload)), min(payload) FROM processed_events";
        reader.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
    };
    let before: (u64, u64, String) = everything();
    // Its pages are free, but not for the reader.
    store.purge(&Topic::new("t1").unwrap(), 60).unwrap();
    thread::scope(|scope| {
        let erasing = scope.spawn(|| store.erase(&[identity("t2", 2)]));
        let beside = rusqlite::Connection::open(&path).unwrap();
        while first(&beside).unwrap() == payload {
            thread::yield_now();
        }
        for _ in 0..50 {
            assert_eq!(everything(), before);
        }
        assert!(!erasing.is_finished());
        reader.execute_batch("COMMIT").unwrap();
        erasing.join().unwrap().unwrap();
    });
    drop(reader);
    assert_eq!(traces(&store, directory.path()), Vec::<u64>::new());
}

/// Pages become free, are used again and swap their places while the traces are removed.
#[test]
fn events_are_erased_beside_purges_and_large_payloads() {
    for seed in 1..=2 {
        let mut random = Random::new(seed);
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("events.db");
        let store = SqliteStore::open_with(&path, options()).unwrap();
        fill(&store, &mut random, 200);
        let erased = [2, 65, 131, 194];
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ends = Ends(&ended);
            scope.spawn(|| {
                let mut random = Random::new(seed + 10);
                let mut n = 1_000;
                while !ended.load(Ordering::Relaxed) {
                    for _ in 0..10 {
                        n += 1;
                        let bytes = usize::try_from(random.below(60_000)).unwrap();
                        let name = ["t0", "t1", "u"][usize::try_from(random.below(3)).unwrap()];
                        store.append_one(&event(name, n, bytes)).unwrap();
                    }
                    let name = ["t0", "t1", "u"][usize::try_from(random.below(3)).unwrap()];
                    let purged = Topic::new(name).unwrap();
                    let last = store.topics(&TopicQuery::of(TopicSelector::Exact(purged.clone()))).unwrap();
                    let last = last.first().map_or(0, |info| info.last_seq);
                    store.purge(&purged, last.saturating_sub(20)).unwrap();
                }
            });
            for n in erased {
                let seqs = store.erase(&[identity("t2", n)]).unwrap();
                assert_eq!(seqs[0].seqs.len(), 1);
                assert!(!tokens(directory.path()).contains_key(&n), "seed {seed}: {n}");
            }
        });
        assert!(erased.iter().all(|n| !tokens(directory.path()).contains_key(n)), "seed {seed}");
        // Whole, each payload as it was sent.
        for page in store.pages(all()) {
            for event in page.unwrap().events {
                let own = token(event.event_id.parse().unwrap());
                let text = event.payload.trim_matches('"').replace(&own, "");
                assert!(text.is_empty() || event.payload == r#"{"erased":true}"#, "{}", event.event_id);
            }
        }
        assert_eq!(store.verify().unwrap().faults, Vec::<String>::new());
    }
}

/// A copy has pages from before: they would come with it.
#[test]
fn nothing_is_erased_while_a_copy_is_made() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open_with(directory.path().join("events.db"), options()).unwrap();
    fill(&store, &mut Random::new(3), 100);
    let ids = [identity("t2", 2)];
    let mut answers = Vec::new();
    store
        .backup_with_progress(&directory.path().join("copy.db"), &mut |_| {
            if answers.is_empty() {
                answers.push(store.erase(&ids));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let Err(StoreError::Unavailable { reason, .. }) = &answers[0] else { panic!("{answers:?}") };
    assert!(reason.contains("a copy of the store is being made"), "{reason}");
    let first = store.pages(Query::topic(Topic::new("t2").unwrap())).next().unwrap().unwrap();
    assert!(first.events[0].payload.contains(&token(2)), "it was refused, and nothing was erased");
    fs::remove_file(directory.path().join("copy.db")).unwrap();
    store
        .erase_with_progress(&ids, &mut |_| {
            let copy = store.backup(&directory.path().join("other.db"));
            assert!(matches!(copy, Err(StoreError::Unavailable { .. })), "{copy:?}");
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(!tokens(directory.path()).contains_key(&2));
}

#[test]
fn what_an_erasure_given_up_leaves_the_next_one_removes() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open_with(directory.path().join("events.db"), options()).unwrap();
    fill(&store, &mut Random::new(9), 300);
    let ids = [identity("t2", 2)];
    let mut told = 0;
    let given_up = store.erase_with_progress(&ids, &mut |_| {
        told += 1;
        ControlFlow::Break(())
    });
    let Err(StoreError::Unavailable { reason, .. }) = given_up else { panic!("{given_up:?}") };
    assert!(reason.contains("erase them again"), "{reason}");
    assert_eq!(told, 1);
    let seen = store.pages(Query::topic(Topic::new("t2").unwrap())).next().unwrap().unwrap();
    assert_eq!(seen.events[0].payload, r#"{"erased":true}"#);
    store.erase(&ids).unwrap();
    assert_eq!(traces(&store, directory.path()), Vec::<u64>::new());
}

#[test]
fn an_export_and_a_backup_made_after_an_erasure_have_nothing_of_it() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, options()).unwrap();
    fill(&store, &mut Random::new(11), 200);
    store.erase(&[identity("t2", 2), identity("t0", 3)]).unwrap();
    let copies = TempDir::new().unwrap();
    store.backup(&copies.path().join("copy.db")).unwrap();
    let found = tokens(copies.path());
    assert!(found.contains_key(&5) && !found.contains_key(&2) && !found.contains_key(&3), "{found:?}");
    let rows = store.rows(aggregator_core::Partition(0), 0, aggregator_core::RowLimit::default()).unwrap();
    let text = format!("{rows:?}");
    assert!(text.contains(&token(5)) && !text.contains(&token(2)) && !text.contains(&token(3)));
}

/// A clean file costs a look at each of its pages and no write.
#[test]
fn a_second_erasure_finds_nothing_to_clear() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let store = SqliteStore::open_with(&path, SqliteOptions::default()).unwrap();
    fill(&store, &mut Random::new(13), 300);
    let ids = [identity("t2", 2)];
    store.erase(&ids).unwrap();
    let first = fs::read(&path).unwrap();
    store.erase(&ids).unwrap();
    let changed =
        first.chunks(8192).zip(fs::read(&path).unwrap().chunks(8192)).filter(|(a, b)| a != b).count();
    assert!(changed <= 6, "{changed} pages changed");
}
