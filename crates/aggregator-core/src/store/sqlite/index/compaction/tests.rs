use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};

use rusqlite::Connection;
use tempfile::TempDir;

use super::Compaction;
use super::build::{Slice, Task, WriteTask};
use super::write_slice;
use crate::store::IndexOptions;
use crate::store::sqlite::background::HelperObserver;
use crate::store::sqlite::index::filter::bloom::Bloom;
use crate::store::sqlite::index::filter::bloom_backfill::{self, Backfilled};
use crate::store::sqlite::index::filter::filter_group::{FilterGroup, Runs};
use crate::store::sqlite::index::fingerprint::BITS;
use crate::store::sqlite::index::layout;
use crate::store::sqlite::index::manifest::{self, RunEntry};
use crate::store::sqlite::index::{ChunkReader, IndexEntry, Location, Manifest, recovery};
use crate::store::sqlite::row::Key;
use crate::store::sqlite::{HelperStep, SqliteOptions, SqliteStore, TestHooks};
use crate::{DedupStoreExt, Event};

const LAYOUT: IndexOptions = IndexOptions { memtable: 20, section: 5, fan_out: 8 };

/// A store in `directory` that takes every step at once.
fn open(directory: &TempDir, index: IndexOptions) -> SqliteStore {
    let test_hooks = TestHooks { in_step: true, ..TestHooks::default() }.into();
    let options = SqliteOptions { index, test_hooks, ..SqliteOptions::default() };
    SqliteStore::open_with(directory.path().join("s.db"), options).unwrap()
}

fn append(store: &SqliteStore, numbers: std::ops::Range<u64>) {
    let events: Vec<_> = numbers.map(|n| Event::new("t", n.to_string()).unwrap()).collect();
    store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
}

/// The newest identities, as many as a memtable holds, are found in memory before and after they are flushed.
#[test]
fn the_newest_are_found_without_a_chunk() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory, LAYOUT);
    let first_location = |n: u64| {
        let key = Key { topic_id: 1, event_id: &n.to_string(), source: "" };
        store.memory.index.probe(&[store.memory.index.fingerprint(key).into()])[0].location
    };
    for end in (5..300).step_by(5) {
        append(&store, end - 5..end);
        for n in end.saturating_sub(20)..end {
            // Each number got the next offset.
            let location = first_location(n);
            assert!(
                matches!(location, Location::Row(offset) if offset == n + 1),
                "{n} of {end}: {location:?}"
            );
        }
    }
    assert!(matches!(first_location(0), Location::Chunks { .. }));
}

/// The compaction of a store that has `rows` rows: runs of 20, and the others in memory.
fn compaction_of(directory: &TempDir, rows: u64) -> Compaction {
    let store = open(directory, LAYOUT);
    (0..rows / 5).for_each(|batch| append(&store, 5 * batch..5 * batch + 5));
    drop(store);
    let options = IndexOptions { fan_out: 2, ..LAYOUT };
    let mut connection = Connection::open(directory.path().join("s.db")).unwrap();
    let (index, manifest) =
        recovery::recover(&mut connection, options, BITS, &|_| {}, |_| Ok(()), None).unwrap();
    Compaction::start(Arc::new(index), manifest, options, connection, true, HelperObserver::default())
        .unwrap()
}

/// Appends wait for a flush. A merge can wait, but not for ever.
#[test]
fn a_flush_comes_first_and_merges_take_turns_with_what_is_done_in_memory() {
    for (rows, credit, was_in_memory, expected) in [
        (80, 0, false, "flush"),
        (80, 0, true, "flush"),
        (75, 17, false, "in memory"),
        (75, 17, true, "merge"),
        (75, 5, true, "merge"),
        (75, 4, true, "in memory"),
    ] {
        let directory = TempDir::new().unwrap();
        let mut compaction = compaction_of(&directory, rows);
        assert_eq!(compaction.manifest.runs.len(), 3);
        (compaction.credit, compaction.was_in_memory) = (credit, was_in_memory);
        let next = match compaction.next().unwrap() {
            Task::Write(WriteTask::Flush { .. }) => "flush",
            Task::Write(WriteTask::Merge { .. }) => "merge",
            Task::Backfill(_) | Task::MapletUnion(_) => "in memory",
        };
        assert_eq!(next, expected, "{rows} rows, {credit} credit, {was_in_memory}");
        compaction.schedule();
        assert_eq!(compaction.was_in_memory, expected == "in memory");
    }
}

/// 40 entries in 8 sections are to be merged.
#[test]
fn a_merge_takes_the_sections_that_the_credit_is_enough_for() {
    for (credit, whole, left) in [(5, 1, 0), (14, 2, 4), (17, 3, 2), (1_000, 8, 960)] {
        let directory = TempDir::new().unwrap();
        let mut compaction = compaction_of(&directory, 75);
        (compaction.credit, compaction.was_in_memory) = (credit, true);
        let Some(Task::Write(WriteTask::Merge { sections, .. })) = compaction.next() else {
            panic!("there is no merge for {credit}");
        };
        assert_eq!(sections, 0..whole);
        compaction.schedule();
        assert_eq!(compaction.credit, left);
    }
}

/// One append writes all that the credit is enough for.
#[test]
fn credit_is_limited_to_two_sections_or_to_two_appends() {
    let directory = TempDir::new().unwrap();
    let mut compaction = compaction_of(&directory, 75);
    (0..100).for_each(|_| compaction.earn(3));
    assert_eq!(compaction.credit, 10);
    (0..100).for_each(|_| compaction.earn(30));
    assert_eq!(compaction.credit, 60);
}

/// Otherwise a level gets crowded, and then appends wait.
#[test]
fn merges_keep_up_with_appends() {
    let directory = TempDir::new().unwrap();
    let fan_out = 4;
    let store = open(&directory, IndexOptions { memtable: 20, section: 5, fan_out });
    let connection = Connection::open(directory.path().join("s.db")).unwrap();
    for batch in 0..400 {
        append(&store, 5 * batch..5 * batch + 5);
        let runs = Manifest::read(&connection).unwrap().runs;
        for level in 0..4 {
            // Those that are being merged, and as many that came meanwhile.
            let count = runs.iter().filter(|run| run.level == level).count();
            assert!(count <= 2 * usize::from(fan_out), "{count} runs of level {level}");
        }
    }
}

#[test]
fn appends_wait_for_the_helper_thread_once_both_memtables_are_full_and_no_sooner() {
    let waits = Arc::new(AtomicU32::new(0));
    let (let_go, gate) = mpsc::channel();
    let (counted, gate, at_wait) = (Arc::clone(&waits), Mutex::new(gate), let_go.clone());
    let on_helper = move |step: HelperStep<'_>| match step {
        HelperStep::Begin("dedup-index") => gate.lock().unwrap().recv().unwrap(),
        HelperStep::Wait("dedup-index") => {
            counted.fetch_add(1, Ordering::Relaxed);
            at_wait.send(()).unwrap();
        }
        _ => {}
    };
    let test_hooks = TestHooks { on_helper: Some(Arc::new(on_helper)), ..TestHooks::default() }.into();
    let directory = TempDir::new().unwrap();
    let options = SqliteOptions { index: LAYOUT, test_hooks, ..SqliteOptions::default() };
    let store = SqliteStore::open_with(directory.path().join("s.db"), options).unwrap();
    let waits_after = (0..9).map(|n| {
        append(&store, 5 * n..5 * n + 5);
        waits.load(Ordering::Relaxed)
    });
    let waits_after: Vec<_> = waits_after.collect();
    // Nothing holds the thread any longer, or the store could not be closed.
    (0..100).for_each(|_| let_go.send(()).unwrap());
    assert_eq!(waits_after, [0, 0, 0, 0, 0, 0, 0, 0, 1]);
}

/// Another number would be the key of another run.
#[test]
fn the_last_number_of_a_run_is_used_and_none_after_it() {
    let connection = Connection::open_in_memory().unwrap();
    manifest::reset(&connection).unwrap();
    let manifest = Manifest::read(&connection).unwrap();
    let slice = |id| {
        let run = RunEntry { id, level: 0, bits: 0, written: 1, entries: 0, inputs: Vec::new() };
        Slice { run, sections: Vec::new(), through: Some(0), bloom: None }
    };
    let written = write_slice(&connection, &manifest, &slice(layout::MAX_RUN)).unwrap();
    assert_eq!(written.runs[0].id, layout::MAX_RUN);
    let error = write_slice(&connection, &manifest, &slice(layout::MAX_RUN + 1)).unwrap_err();
    assert!(error.to_string().contains("used up"), "{error}");
}

/// Only runs of the levels without Bloom filters are united; also while there is nothing to merge.
#[test]
fn runs_in_no_bloom_filter_are_put_together() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory, IndexOptions { memtable: 20, section: 5, fan_out: 4 });
    let mut seen = Vec::new();
    // A run of level 2 is made of 16 flushes, each of which is made of four appends.
    for batch in 0..4 * (4 * 16 - 1) {
        append(&store, 5 * batch..5 * batch + 5);
        let state = store.memory.index.state();
        let (others, there) =
            state.runs.filter_groups.iter().partition::<Vec<_>, _>(|group| group.bloom.is_some());
        assert!(others.iter().all(|group| group.members.len() == 1));
        let now: Vec<_> = there.iter().map(|group| group.members.len()).collect();
        if seen.last() != Some(&now) {
            seen.push(now);
        }
    }
    assert!(seen.ends_with(&[vec![2, 1]]), "{seen:?}");
}

/// The Bloom filter of a group, if it has one, admits all entries that its runs have in the file.
fn assert_admits_all(connection: &Connection, runs: &Runs, group: &FilterGroup) {
    let Some(bloom) = &group.bloom else { return };
    let mut chunks = ChunkReader::new(connection).unwrap();
    for &id in &group.members {
        let sections = runs.get(id).unwrap().sections.iter();
        for (number, section) in
            (0..).zip(sections).filter_map(|(number, section)| Some((number, section.as_ref()?)))
        {
            for chunk in 0..section.chunk_count() {
                let take = |entry: IndexEntry| {
                    assert_eq!(bloom.admitted(&[(0, entry.fingerprint)]).len(), 1, "{entry:?} of run {id}");
                    ControlFlow::Continue(())
                };
                chunks.read(layout::chunk_key(id, number, chunk), take).unwrap();
            }
        }
    }
}

/// A run is behind its Bloom filter once the filter has all of its sections, and not before.
#[test]
fn what_was_there_at_start_comes_to_a_bloom_filter() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory, LAYOUT);
    (0..16).for_each(|batch| append(&store, 5 * batch..5 * batch + 5));
    drop(store);
    let mut connection = Connection::open(directory.path().join("s.db")).unwrap();
    let (index, manifest) =
        recovery::recover(&mut connection, LAYOUT, BITS, &|_| {}, |_| Ok(()), None).unwrap();
    let run_of = |manifest: &Manifest, fan_out| {
        let backfill =
            bloom_backfill::next(&index.state(), manifest, IndexOptions { fan_out, ..LAYOUT }, None)?;
        Some(backfill.run(&connection).unwrap().run)
    };
    let [a, b, c] = [0, 1, 2].map(|n| manifest.runs[n].id);
    assert_eq!((manifest.runs.len(), run_of(&manifest, 8)), (3, Some(a)));

    // Runs that will soon reach a level without filters, or that are being merged, are not read.
    let mut due = manifest.clone();
    due.runs[..2].iter_mut().for_each(|run| run.level = 1);
    assert_eq!((run_of(&due, 2), run_of(&due, 3)), (Some(c), Some(a)));
    let mut merging = manifest.clone();
    let of_both = RunEntry { id: c + 1, inputs: vec![a, b], written: 1, ..manifest.runs[0].clone() };
    merging.runs.push(of_both);
    assert_eq!(run_of(&merging, 8), Some(c));

    // Another run begins with its first section, and so does each run where there is a new filter.
    let begin =
        || bloom_backfill::next(&index.state(), &manifest, LAYOUT, None).unwrap().run(&connection).unwrap();
    let begun = begin();
    let of = |manifest: &Manifest, last| {
        let next = bloom_backfill::next(&index.state(), manifest, LAYOUT, Some(last)).unwrap();
        let next = next.run(&connection).unwrap();
        (next.run, next.sections)
    };
    assert_eq!((of(&manifest, &begun), of(&merging, &begun)), ((a, 2), (c, 1)));
    let other = Backfilled { bloom: Arc::new(Bloom::new(LAYOUT).unwrap()), ..begun };
    assert_eq!(of(&manifest, &other), (a, 1));

    let mut last = None;
    let mut steps = 0;
    loop {
        let next = bloom_backfill::next(&index.state(), &manifest, LAYOUT, last.as_ref());
        let Some(backfill) = next else { break };
        let backfilled = backfill.run(&connection).unwrap();
        steps += 1;
        let whole = Arc::make_mut(&mut index.state_mut().runs).apply_backfill(&backfilled);
        assert_eq!(whole, steps % 4 == 0);
        last = (!whole).then_some(backfilled);
        let state = index.state();
        assert_eq!(state.runs.filter_groups.iter().filter(|group| group.bloom.is_some()).count(), steps / 4);
        state.runs.filter_groups.iter().for_each(|group| assert_admits_all(&connection, &state.runs, group));
    }
    assert_eq!(steps, 3 * 4);
}

/// Each run of the two lowest levels is in a Bloom filter: a flushed run from the beginning, a run that a start found
/// after a while, unless a merge is about to take it away. All runs that one merge takes to the level above are in the
/// same filter, so that the filter goes with them.
#[test]
fn a_bloom_filter_is_of_the_runs_of_one_merge() {
    const FAN_OUT: u8 = 2;
    let directory = TempDir::new().unwrap();
    let (mut next, mut filters, mut waited) = (0, 0, 0);
    // A merge takes several appends at first, so some starts find a merge that is half done.
    for start in 0..30 {
        let store = open(&directory, IndexOptions { memtable: 20, section: 5, fan_out: FAN_OUT });
        let old: Vec<u32> = store.memory.index.state().runs.runs.iter().map(|run| run.id).collect();
        let mut seen: Vec<Weak<Bloom>> = Vec::new();
        let mut are_covered = false;
        // A number of flushes that is no multiple of those that a merge takes.
        for _ in 0..70 + start {
            append(&store, next..next + 3);
            next += 3;
            let state = store.memory.index.state();
            let connection = Connection::open(directory.path().join("s.db")).unwrap();
            let manifest = Manifest::read(&connection).unwrap();
            are_covered = true;
            let whole = manifest.runs.iter().filter(|run| run.level <= 1 && run.inputs.is_empty());
            let flushed: usize = whole.clone().map(|run| 1 << run.level).sum();
            let highest = manifest.runs.iter().filter(|run| run.level == 1);
            let due: Vec<u32> = highest.map(|run| run.id).take(flushed / 4 * 2).collect();
            for group in &state.runs.filter_groups {
                assert_admits_all(&connection, &state.runs, group);
                let &[id] = group.members.as_slice() else { continue };
                let run = manifest.run(id).unwrap();
                let stays =
                    run.inputs.is_empty() && manifest.merge_target(id).is_none() && !due.contains(&id);
                if run.level > 1 || (run.level == 0 && !old.contains(&id)) {
                    assert_eq!(group.bloom.is_some(), run.level == 0, "{run:?}");
                } else if group.bloom.is_none() && stays {
                    are_covered = false;
                    waited += 1;
                }
                if let Some(bloom) = &group.bloom
                    && !seen.iter().any(|seen| seen.as_ptr() == Arc::as_ptr(bloom))
                {
                    seen.push(Arc::downgrade(bloom));
                }
            }
            for run in manifest.runs.iter().filter(|run| run.level == 2 && !run.inputs.is_empty()) {
                let mut of_inputs =
                    state.runs.filter_groups.iter().filter(|group| run.inputs.contains(&group.members[0]));
                if of_inputs.all(|group| group.bloom.is_some()) {
                    assert!(state.runs.bloom_of(&run.inputs).is_some(), "{run:?} takes from several");
                }
            }
            assert!(seen.iter().filter(|bloom| bloom.strong_count() > 0).count() <= 3);
        }
        assert!(are_covered, "after start {start}");
        filters += seen.len();
    }
    assert!(filters > 40, "only {filters}");
    assert!(waited > 20, "only {waited}");
}
