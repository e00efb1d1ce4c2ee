//! Cursors of a store one shard of which was put back to an older state.

use std::path::Path;
use std::sync::Arc;

use aggregator_core::store::sharded::NamedStore;
use aggregator_core::{
    Cursor, DedupStore, DedupStoreExt as _, Order, Query, Sharded, SqliteOptions, SqliteStore, StoreError,
    TopicSelector, WrongCursor,
};
use tempfile::TempDir;

use super::event;

fn open(directory: &Path) -> Sharded {
    let shard = |index| {
        let path = directory.join(format!("shard-{index}.db"));
        NamedStore::new(path.display().to_string(), Arc::new(SqliteStore::open(path).unwrap()))
    };
    Sharded::open((0..2).map(shard).collect()).unwrap()
}

/// A topic of each shard: each has one partition.
fn topics(store: &Sharded) -> [String; 2] {
    [0, 1].map(|shard| (0..).map(|n| format!("t{n}")).find(|t| store.partitions().of(t).0 == shard).unwrap())
}

fn fill(store: &Sharded, ids: std::ops::Range<u64>) {
    for id in ids {
        topics(store).iter().for_each(|topic| assert!(store.append_one(&event(topic, id)).is_ok()));
    }
}

/// Behind everything, behind a part, and before a part in the other direction.
fn cursors(store: &Sharded) -> Vec<(Query, Cursor)> {
    let all = Query { limit: 1_000, ..Query::of(TopicSelector::All) };
    let some = Query { limit: 15, ..all.clone() };
    let down = Query { order: Order::Descending, ..some.clone() };
    [all, some, down].into_iter().map(|query| (query.clone(), store.read(&query).unwrap().next)).collect()
}

fn refused_with_a_way_on(store: &Sharded, query: &Query, cursor: &Cursor) {
    let after: Cursor = cursor.to_string().parse().unwrap();
    let error = store.read(&Query { after: Some(after), ..query.clone() }).unwrap_err();
    let StoreError::WrongCursor(WrongCursor::AheadOfStore { oldest } | WrongCursor::OtherHistory { oldest }) =
        error
    else {
        panic!("{query:?}: {error}")
    };
    let count = |query: Query| store.pages(query).map(|page| page.unwrap().events.len()).sum::<usize>();
    assert_eq!(count(Query { after: Some(oldest), ..query.clone() }), count(query.clone()), "{query:?}");
}

#[test]
fn cursors_from_beyond_the_state_that_one_shard_was_put_back_to_are_refused() {
    let (place, old) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = open(place.path());
    fill(&store, 0..10);
    let before = cursors(&store).remove(1);
    let copy = old.path().join("copy");
    store.backup(&copy).unwrap();
    fill(&store, 10..20);
    let after = cursors(&store);
    drop(store);

    // Shard 1 alone is put back. It takes the copy's place, with an id of its own.
    let path = place.path().join("shard-1.db");
    for end in ["", "-wal", "-shm"] {
        let mut name = path.clone().into_os_string();
        name.push(end);
        let _ = std::fs::remove_file(name);
    }
    let options = SqliteOptions::default();
    SqliteStore::restore(copy.join("shard-1.db"), &path, &options, &mut |_| {
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    let store = open(place.path());
    let stand_behind = [0, 2];
    for at in stand_behind {
        let (query, cursor) = &after[at];
        refused_with_a_way_on(&store, query, cursor);
    }
    // Nor are they good when as many other events are there again.
    let [_, back] = topics(&store);
    for id in 1_000..1_050 {
        store.append_one(&event(&back, id)).unwrap();
    }
    for at in stand_behind {
        let (query, cursor) = &after[at];
        refused_with_a_way_on(&store, query, cursor);
    }
    // What both histories have is still good.
    let (query, cursor) = before;
    let page = store.read(&Query { after: Some(cursor), ..query }).unwrap();
    assert_eq!(page.events.len(), 15);
}

#[test]
fn a_backup_is_a_directory_with_a_copy_of_each_shard_and_they_are_a_store_again() {
    let (place, old) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = open(place.path());
    fill(&store, 0..10);
    let copy = old.path().join("copy");
    store.backup(&copy).unwrap();
    assert!(store.backup(&copy).is_err(), "it is there already");
    let (id, cursor) = (store.info().id, cursors(&store).remove(1));
    let restored = open(&copy);
    assert_eq!((restored.info().id, restored.stats().unwrap().stored), (id, 20));
    assert_eq!(restored.verify().unwrap().faults, [""; 0]);
    let (query, after) = cursor;
    assert_eq!(restored.read(&Query { after: Some(after), ..query }).unwrap().events.len(), 5);
}
