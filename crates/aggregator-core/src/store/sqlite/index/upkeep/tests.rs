use std::ops::ControlFlow;
use std::sync::{Arc, Weak};

use rusqlite::Connection;
use tempfile::TempDir;

use crate::store::IndexOptions;
use crate::store::sqlite::index::bloom::Bloom;
use crate::store::sqlite::index::unit::{Runs, Unit};
use crate::store::sqlite::index::{Chunks, Entry, Key, Manifest, Place, run};
use crate::store::sqlite::{SqliteOptions, SqliteStore, TestHooks};
use crate::{DedupStoreExt, Event};

const LAYOUT: IndexOptions = IndexOptions { recent: 20, section: 5, fan_out: 8 };

/// A store in `directory` that takes every step at once.
fn open(directory: &TempDir, index: IndexOptions) -> SqliteStore {
    let test_hooks = TestHooks { index_in_step: true, ..TestHooks::default() };
    let options = SqliteOptions { index, test_hooks, ..SqliteOptions::default() };
    SqliteStore::open_with(directory.path().join("s.db"), options).unwrap()
}

fn append(store: &SqliteStore, numbers: std::ops::Range<u64>) {
    let events: Vec<_> = numbers.map(|n| Event::new("t", n.to_string()).unwrap()).collect();
    store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
}

/// As many as a map takes: before they are flushed, and after.
#[test]
fn the_newest_are_found_without_a_chunk() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory, LAYOUT);
    let first_place = |n: u64| {
        let key = Key { topic_id: 1, event_id: &n.to_string(), source: "" };
        store.index.probe(&[store.index.fingerprint(key).into()])[0].place
    };
    for end in (5..300).step_by(5) {
        append(&store, end - 5..end);
        for n in end.saturating_sub(20)..end {
            // Each number got the next offset.
            let place = first_place(n);
            assert!(matches!(place, Place::Row(offset) if offset == n + 1), "{n} of {end}: {place:?}");
        }
    }
    assert!(matches!(first_place(0), Place::Chunks { .. }));
}

/// Those that are in no Bloom filter, for they were there at start; also as long as there is nothing to merge.
#[test]
fn runs_in_no_bloom_filter_are_put_together() {
    let directory = TempDir::new().unwrap();
    // Of seven appends that fill a map, a start finds six in the file; the last one it flushes. An eighth begins a merge.
    for flushes in 0..7 {
        append(&open(&directory, LAYOUT), 20 * flushes..20 * flushes + 20);
    }
    let store = open(&directory, LAYOUT);
    let members = || -> Vec<usize> {
        let held = store.index.held();
        let (others, there) = held.runs.units.iter().partition::<Vec<_>, _>(|unit| unit.bloom.is_some());
        assert!(others.iter().all(|unit| unit.members.len() == 1));
        there.iter().map(|unit| unit.members.len()).collect()
    };
    let mut seen = Vec::new();
    for batch in 28..34 {
        append(&store, 5 * batch..5 * batch + 5);
        // An append takes what was put together before it.
        let now = members();
        if seen.last() != Some(&now) {
            seen.push(now);
        }
    }
    assert!(seen.contains(&vec![4, 2]), "{seen:?}");
}

/// The Bloom filter of a unit, if it has one, admits all that the file has of its runs.
fn assert_admits_all(connection: &Connection, runs: &Runs, unit: &Unit) {
    let Some(bloom) = &unit.bloom else { return };
    let mut chunks = Chunks::new(connection).unwrap();
    for &id in &unit.members {
        let sections = runs.get(id).unwrap().sections.iter();
        for (number, section) in
            (0..).zip(sections).filter_map(|(number, section)| Some((number, section.as_ref()?)))
        {
            for chunk in 0..section.chunk_count() {
                let take = |entry: Entry| {
                    assert_eq!(bloom.admitted(&[(0, entry.fingerprint)]).len(), 1, "{entry:?} of run {id}");
                    ControlFlow::Continue(())
                };
                chunks.read(run::chunk_key(id, number, chunk), take).unwrap();
            }
        }
    }
}

/// Runs of the two lowest levels that were made since the start are in a Bloom filter each, others in none; and those that
/// one merge takes to the level above are in the same one, so that it goes with them.
#[test]
fn a_bloom_filter_is_of_the_runs_of_one_merge() {
    let directory = TempDir::new().unwrap();
    let (mut next, mut filters) = (0, 0);
    // At first merges take several appends, and some starts find one half done.
    for start in 0..30 {
        let store = open(&directory, IndexOptions { recent: 20, section: 5, fan_out: 2 });
        // What was there at start, and what was made of it.
        let mut old: Vec<u32> = store.index.held().runs.runs.iter().map(|run| run.id).collect();
        let mut before = old.clone();
        let mut seen: Vec<Weak<Bloom>> = Vec::new();
        // Flushes that are no multiple of what a merge takes.
        for _ in 0..24 + start {
            append(&store, next..next + 3);
            next += 3;
            let held = store.index.held();
            let connection = Connection::open(directory.path().join("s.db")).unwrap();
            let manifest = Manifest::read(&connection).unwrap();
            // At most one is begun at a time; a merge may be done at once.
            let begun = manifest.runs.iter().find(|run| !before.contains(&run.id));
            let takes =
                |id: &u32| manifest.run(*id).is_none() || begun.is_some_and(|run| run.inputs.contains(id));
            if let Some(begun) = begun
                && before.iter().any(|id| old.contains(id) && takes(id))
            {
                old.push(begun.id);
            }
            before = manifest.runs.iter().map(|run| run.id).collect();
            for unit in &held.runs.units {
                assert_admits_all(&connection, &held.runs, unit);
                let mut runs = unit.members.iter().map(|&id| manifest.run(id).unwrap());
                let is_in_one = runs.all(|run| run.level <= 1 && !old.contains(&run.id));
                assert_eq!(unit.bloom.is_some(), is_in_one, "{:?}", unit.members);
                if let Some(bloom) = &unit.bloom
                    && !seen.iter().any(|seen| seen.as_ptr() == Arc::as_ptr(bloom))
                {
                    seen.push(Arc::downgrade(bloom));
                }
            }
            for run in manifest.runs.iter().filter(|run| run.level == 2 && !run.inputs.is_empty()) {
                let mut of_inputs =
                    held.runs.units.iter().filter(|unit| run.inputs.contains(&unit.members[0]));
                if of_inputs.all(|unit| unit.bloom.is_some()) {
                    assert!(held.runs.bloom_of(&run.inputs).is_some(), "{run:?} takes from several");
                }
            }
            assert!(seen.iter().filter(|bloom| bloom.strong_count() > 0).count() <= 3);
        }
        filters += seen.len();
    }
    assert!(filters > 40, "only {filters}");
}
