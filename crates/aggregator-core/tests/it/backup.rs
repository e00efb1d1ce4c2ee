//! Copies of a store that is in use.

use std::fs;

use aggregator_core::{
    Cursor, DedupStore, DedupStoreExt, Event, Order, Outcome, Query, SqliteStore, StoreError, Topic,
    TopicSelector, WrongCursor,
};
use tempfile::TempDir;

fn event(id: &str) -> Event {
    Event::new("t", id).unwrap()
}

#[test]
fn a_backup_is_a_store_of_its_own_and_overwrites_nothing() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    store.append_all(&[event("1").view(), event("2").view()]).unwrap();
    let copy = directory.path().join("copy.db");
    store.backup(&copy).unwrap();
    store.append_one(&event("3")).unwrap();
    assert!(matches!(store.backup(&copy), Err(StoreError::Invalid(_))));
    let copied = SqliteStore::open(&copy).unwrap();
    assert!(copied.verify().unwrap().faults.is_empty());
    assert_eq!(copied.append_one(&event("2")).unwrap().outcome, Outcome::Duplicate);
    assert_eq!(copied.append_one(&event("3")).unwrap().seq, Some(3));
    let names = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().ends_with(".copy")));
}

#[test]
fn cursors_outlive_a_restore_as_far_as_they_mean_the_same() {
    let directory = TempDir::new().unwrap();
    let (path, copy) = (directory.path().join("events.db"), directory.path().join("copy.db"));
    let store = SqliteStore::open(&path).unwrap();
    let append = |store: &SqliteStore, ids: std::ops::RangeInclusive<u32>| {
        for id in ids {
            store.append_one(&event(&id.to_string())).unwrap();
        }
    };
    let all = Query::topic(Topic::new("t").unwrap());
    append(&store, 1..=5);
    let early = store.read(&Query { limit: 3, ..all.clone() }).unwrap().next;
    let at_copy = store.read(&all).unwrap().next;
    let down = Query { order: Order::Descending, limit: 2, ..all.clone() };
    let early_down = store.read(&down).unwrap().next;
    append(&store, 6..=10);
    store.backup(&copy).unwrap();
    append(&store, 11..=15);
    let late = store.read(&all).unwrap().next;
    drop(store);

    // The copy takes the original's place, and goes its own way.
    let store = SqliteStore::open(&copy).unwrap();
    append(&store, 21..=30);
    let seqs = |after: &Cursor| {
        let page = store.read(&Query { after: Some(after.clone()), ..all.clone() })?;
        Ok::<_, StoreError>(page.events.iter().map(|event| event.seq).collect::<Vec<_>>())
    };
    assert!(seqs(&early).unwrap().into_iter().eq(4..=20));
    assert!(seqs(&at_copy).unwrap().into_iter().eq(6..=20));
    let page = store.read(&Query { after: Some(early_down), limit: 9, ..down }).unwrap();
    assert!(page.events.iter().map(|event| event.seq).eq([3, 2, 1]));
    let error = seqs(&late).unwrap_err();
    assert!(error.to_string().contains("after the copy was made"), "{error}");

    // A copy of the copy knows both.
    let second = directory.path().join("second.db");
    let of_copy = store.read(&all).unwrap().next;
    store.backup(&second).unwrap();
    drop(store);
    let store = SqliteStore::open(&second).unwrap();
    assert_eq!(store.info().ancestors.len(), 2);
    let read = |after: Cursor| store.read(&Query { after: Some(after), ..all.clone() });
    assert_eq!(read(early).unwrap().events.len(), 17);
    assert!(read(of_copy).unwrap().events.is_empty());
    assert!(read(late).is_err());
}

/// Of a copy with a name of its own, and of the store itself put back to an older state.
#[test]
fn cursors_are_good_up_to_the_last_event_of_a_copy_and_not_one_further() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let append = |store: &SqliteStore, ids: std::ops::RangeInclusive<u32>| {
        ids.for_each(|id| {
            assert_eq!(store.append_one(&event(&id.to_string())).unwrap().seq, Some(id.into()));
        });
    };
    let up = Query::topic(Topic::new("t").unwrap());
    let down = Query { order: Order::Descending, ..up.clone() };
    let none = Query { order: Order::Descending, ..Query::topic(Topic::new("none").unwrap()) };
    let cursor = |store: &SqliteStore, query: &Query, limit| {
        (store.read(&Query { limit, ..query.clone() }).unwrap().next, query.clone())
    };
    let store = SqliteStore::open(path("events.db")).unwrap();
    append(&store, 1..=5);
    drop(store);
    fs::copy(path("events.db"), path("older.db")).unwrap();
    let store = SqliteStore::open(path("events.db")).unwrap();
    store.backup(&path("backup.db")).unwrap();

    // What comes after each of them is in a copy of the first five: all of it, or not.
    let good = [cursor(&store, &up, 4), cursor(&store, &up, 5), cursor(&store, &none, 1)];
    append(&store, 6..=6);
    // It has read 6, which no copy of the first five has.
    let mut bad = vec![cursor(&store, &down, 1), cursor(&store, &up, 6), cursor(&store, &none, 1)];
    append(&store, 7..=7);
    bad.push(cursor(&store, &down, 1));
    drop(store);

    let older = SqliteStore::open(path("older.db")).unwrap();
    let backup = SqliteStore::open(path("backup.db")).unwrap();
    append(&backup, 6..=9);
    for (store, why) in [(older, "put back to an older state"), (backup, "after the copy was made")] {
        let read = |(after, query): &(Cursor, Query)| {
            let page = store.read(&Query { after: Some(after.clone()), ..query.clone() })?;
            Ok::<_, StoreError>(page.events.iter().map(|event| event.seq).collect::<Vec<_>>())
        };
        let last = store.stats().unwrap().stored;
        assert!(read(&good[0]).unwrap().into_iter().eq(5..=last));
        assert!(read(&good[1]).unwrap().into_iter().eq(6..=last));
        assert_eq!(read(&good[2]).unwrap(), [0; 0]);
        for bad in &bad {
            let error = read(bad).unwrap_err();
            assert!(error.to_string().contains(why), "{error}: {bad:?}");
        }
    }
}

/// A copy by `cp` keeps the name of the store, and gives the offsets of what it lost to other events.
#[test]
fn a_cursor_of_a_lost_future_is_refused_even_when_the_copy_has_outgrown_it() {
    let directory = TempDir::new().unwrap();
    let (path, copy) = (directory.path().join("events.db"), directory.path().join("copy.db"));
    let append = |store: &SqliteStore, name: &str, numbers: std::ops::RangeInclusive<u32>| {
        for n in numbers {
            let event = Event::new(["t", "u"][n as usize % 2], format!("{name}-{n}")).unwrap();
            store.append_one(&event).unwrap();
        }
    };
    let all = || "*".parse::<TopicSelector>().unwrap();
    let up = |limit| Query { limit, ..Query::of(all()) };
    let down = |limit| Query { order: Order::Descending, ..up(limit) };
    let of_t = |limit| Query { limit, ..Query::topic(Topic::new("t").unwrap()) };
    let rest = |store: &SqliteStore, query: &Query, after: &Cursor| {
        let page = store.read(&Query { after: Some(after.clone()), limit: 1_000, ..query.clone() })?;
        Ok::<_, StoreError>(page.events.iter().map(|event| event.event_id.clone()).collect::<Vec<_>>())
    };
    let store = SqliteStore::open(&path).unwrap();
    append(&store, "first", 1..=10);
    // Up to the last row that the copy has; a descending walk may begin there.
    let good: Vec<_> = [up(4), up(10), down(1), down(4), of_t(2), of_t(5)]
        .map(|query| (store.read(&query).unwrap().next, query))
        .into_iter()
        .collect();
    let kept: Vec<_> = good.iter().map(|(after, query)| rest(&store, query, after).unwrap()).collect();
    drop(store);
    fs::copy(&path, &copy).unwrap();
    let store = SqliteStore::open(&path).unwrap();
    append(&store, "lost", 11..=20);
    let lost = [up(11), up(20), down(1), down(4), of_t(6), of_t(100)];
    let lost = lost.map(|query| (store.read(&query).unwrap(), query));
    drop(store);

    let store = SqliteStore::open(&copy).unwrap();
    for (name, numbers) in [("short", 11..=12), ("long", 13..=40)] {
        append(&store, name, numbers);
        store.purge(&Topic::new("t").unwrap(), 1).unwrap();
        for ((after, query), kept) in good.iter().zip(&kept) {
            let rest = rest(&store, query, after).unwrap();
            let old = |id: &&String| id.starts_with("first") && *id != "first-2";
            assert!(rest.iter().filter(old).eq(kept.iter().filter(old)), "{query:?}: {rest:?}");
        }
        for (page, query) in &lost {
            for after in page.cursors().filter(|_| query.order == Order::Ascending).skip(10) {
                assert!(matches!(rest(&store, query, &after), Err(StoreError::WrongCursor(_))), "{query:?}");
            }
            let Err(StoreError::WrongCursor(why)) = rest(&store, query, &page.next) else {
                panic!("a lost future was gone on with: {query:?}")
            };
            let (WrongCursor::AheadOfStore { oldest } | WrongCursor::OtherHistory { oldest }) = why else {
                panic!("{why}: {query:?}")
            };
            let anew = store.read(&Query { limit: 1_000, ..query.clone() }).unwrap();
            let anew: Vec<_> = anew.events.into_iter().map(|event| event.event_id).collect();
            assert_eq!(rest(&store, query, &oldest).unwrap(), anew, "{query:?}");
        }
    }
}

/// Whatever lies beside it under a name that somebody could think of is somebody's.
#[test]
fn neither_a_backup_nor_a_start_touches_a_store_under_another_name() {
    let directory = TempDir::new().unwrap();
    let live = directory.path().join("events.db-new");
    let store = SqliteStore::open(&live).unwrap();
    store.append_one(&event("1")).unwrap();
    store.backup(&directory.path().join("events.db")).unwrap();
    fs::remove_file(directory.path().join("events.db")).unwrap();
    drop(SqliteStore::open(directory.path().join("events.db")).unwrap());
    assert_eq!(store.append_one(&event("2")).unwrap().seq, Some(2));
    drop(store);
    assert_eq!(SqliteStore::open(&live).unwrap().stats().unwrap().stored, 2);
}
