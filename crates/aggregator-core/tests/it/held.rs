//! The threads beside the writer are as slow as they can be: each begins a task only once an append waits for it.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use aggregator_core::store::{HelperStep, IndexOptions, OnHelper, TestHooks};
use aggregator_core::{
    CheckedRow, DedupStoreExt, Event, Import, Kept, Outcome, Partition, SqliteOptions, SqliteStore,
    StoredRow, Timestamp,
};
use rusqlite::Connection;
use tempfile::TempDir;

/// Holds a thread at the beginning of its tasks.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How many appends wait for a task that has not begun.
    waiting: u64,
    is_open: bool,
    /// Nobody has waited for a task for so long that nobody will.
    is_given_up: bool,
}

impl Gate {
    /// For the thread of this name.
    fn hook(self: &Arc<Self>, name: &'static str) -> OnHelper {
        let gate = Arc::clone(self);
        Arc::new(move |step| match step {
            HelperStep::Wait(of) if of == name => {
                let mut state = gate.state.lock().unwrap();
                state.waiting += 1;
                gate.changed.notify_all();
            }
            HelperStep::Begin(of) if of == name => {
                let state = gate.state.lock().unwrap();
                let is_held = |state: &mut State| state.waiting == 0 && !state.is_open;
                // Of a test that fails: the others wait for each other.
                let limit = Duration::from_secs(60);
                let (mut state, waited) = gate.changed.wait_timeout_while(state, limit, is_held).unwrap();
                if waited.timed_out() {
                    (state.is_open, state.is_given_up) = (true, true);
                }
                state.waiting = state.waiting.saturating_sub(1);
            }
            _ => {}
        })
    }

    fn check(&self) {
        assert!(!self.state.lock().unwrap().is_given_up, "a task was due, and nobody waited for it");
    }
}

/// Opens the gate when the test ends, however it ends: a store that is closed waits for its threads.
struct Opens(Arc<Gate>);

impl Drop for Opens {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().is_open = true;
        self.0.changed.notify_all();
    }
}

/// How much there is of the index in memory, and the most runs that a level has.
fn in_memory_and_runs(file: &Connection) -> (u64, usize) {
    let manifest: String =
        file.query_row("SELECT manifest FROM index_manifest", [], |row| row.get(0)).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let last_offset: u64 =
        file.query_row("SELECT last_offset FROM partitions", [], |row| row.get(0)).unwrap();
    let runs = manifest["runs"].as_array().unwrap();
    let of_level = |level: u64| runs.iter().filter(|run| run["level"] == level).count();
    (last_offset - manifest["covered"].as_u64().unwrap(), (0..9).map(of_level).max().unwrap())
}

/// So large that every append fills memory, and runs come faster than merges for their sake.
const BATCH: u32 = 30;
/// In all.
const COUNT: u32 = 50 * BATCH;
const RECENT: u32 = 20;
const FAN_OUT: u8 = 2;

/// A store whose index is built as slowly as can be.
fn open(path: &Path, gate: &Arc<Gate>) -> SqliteStore {
    let test_hooks = TestHooks { on_helper: Some(gate.hook("dedup-index")), ..TestHooks::default() }.into();
    let index = IndexOptions { memtable: RECENT, section: 10, fan_out: FAN_OUT };
    SqliteStore::open_with(path, SqliteOptions { index, test_hooks, ..SqliteOptions::default() }).unwrap()
}

/// Has a store `take` identities and repeats of old ones, and looks at what is there after each. `take` says how many of
/// them were new.
fn assert_that_it_waits(take: impl Fn(&SqliteStore, &[u32]) -> u64) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let gate = Arc::new(Gate::default());
    let store = open(&path, &gate);
    let _opens = Opens(Arc::clone(&gate));
    let file = Connection::open(&path).unwrap();
    let mut most = 0;
    let mut look = |at: &str| {
        gate.check();
        let (in_memory, runs) = in_memory_and_runs(&file);
        assert!(in_memory <= u64::from(2 * (RECENT + BATCH)), "{in_memory} identities are in no run {at}");
        // Four times the fan-out, and the one that makes it too many.
        assert!(runs <= 4 * usize::from(FAN_OUT) + 1, "{runs} runs of a level {at}");
        most = most.max(runs);
    };
    for first in (0..COUNT).step_by(BATCH as usize) {
        let new: Vec<_> = (first..first + BATCH).collect();
        assert_eq!(take(&store, &new), u64::from(BATCH), "at {first}");
        look(&format!("after {first}"));
        // Whatever waits: what is old is known, wherever it is.
        let old: Vec<_> = (0..BATCH).map(|n| (n * 101 + first / 3) % (first + BATCH)).collect();
        assert_eq!(take(&store, &old), 0, "at {first}");
        look(&format!("after {first} and repeats"));
    }
    assert!(most > 4 * usize::from(FAN_OUT), "no level was ever crowded");
    assert_eq!(take(&store, &(0..COUNT).collect::<Vec<_>>()), 0);
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

fn event(n: u32) -> Event {
    Event::new("t", n.to_string()).unwrap()
}

#[test]
fn appends_wait_while_memory_is_full_or_a_level_has_too_many_runs() {
    assert_that_it_waits(|store, numbers| {
        let events: Vec<_> = numbers.iter().copied().map(event).collect();
        let receipts = store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>()).unwrap();
        receipts.iter().filter(|receipt| receipt.outcome == Outcome::Stored).count() as u64
    });
}

#[test]
fn imports_wait_while_memory_is_full_or_a_level_has_too_many_runs() {
    let identity = |n: &u32| -> CheckedRow {
        let row = StoredRow {
            topic: "t".into(),
            scope: None,
            event_id: n.to_string(),
            source: None,
            processed_at: Timestamp::from_micros(1),
            released: false,
            kept: Kept::Identity,
        };
        row.check().unwrap()
    };
    assert_that_it_waits(|store, numbers| {
        let rows: Vec<_> = numbers.iter().map(identity).collect();
        store.import(Partition(0), Import::rows(&rows)).unwrap().added
    });
}

#[test]
fn a_log_that_is_copied_too_slowly_is_waited_for() {
    const STEP: u32 = 64 << 10;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    let gate = Arc::new(Gate::default());
    let test_hooks = TestHooks { on_helper: Some(gate.hook("checkpoint")), ..TestHooks::default() }.into();
    let options = SqliteOptions { checkpoint_bytes: STEP, test_hooks, ..SqliteOptions::default() };
    let store = SqliteStore::open_with(&path, options).unwrap();
    let _opens = Opens(Arc::clone(&gate));
    let log = directory.path().join("events.db-wal");
    let mut longest = 0;
    let payload = format!("\"{}\"", "x".repeat(40_000));
    for n in 0..150 {
        store.append_one(&event(n).with_payload(&payload).unwrap()).unwrap();
        let bytes = std::fs::metadata(&log).unwrap().len();
        gate.check();
        // It is waited for with 16 steps, and is noticed to be that long behind the next commit.
        assert!(bytes < 19 * u64::from(STEP), "the log has {bytes} bytes");
        longest = bytes.max(longest);
    }
    // And not before it is long.
    assert!(longest > 15 * u64::from(STEP), "{longest} bytes were waited for");
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}
