//! A place to move stores in, and the programs that move them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use aggregator_core::store::Rows;
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, Receipt, Scope, SqliteStore, StoreStats, StoredRow, Topic, TopicInfo,
    TopicQuery,
};
use tempfile::TempDir;

use crate::support::Process;

/// A directory with a store `source.db` in it that has some of everything.
pub(super) struct Lab {
    directory: TempDir,
}

impl Lab {
    pub(super) fn new(events: u32) -> Self {
        let lab = Self { directory: TempDir::new().unwrap() };
        let store = SqliteStore::open(lab.path("source.db")).unwrap();
        let all: Vec<_> = (0..events).map(event).collect();
        for batch in all.chunks(1_000) {
            append(&store, batch);
        }
        // Repeats and conflicts.
        append(&store, &all[..all.len().min(10)]);
        append(&store, &[event(0).with_payload("[]").unwrap()]);
        store.purge(&Topic::new("orders.eu").unwrap(), u64::from(events) / 10).unwrap();
        lab
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn store(&self, name: &str) -> String {
        format!("sqlite:{}", self.path(name).display())
    }

    pub(super) fn export(&self, out: &str, more: &[&str]) -> Command {
        self.export_of(&self.store("source.db"), out, more)
    }

    pub(super) fn export_of(&self, store: &str, out: &str, more: &[&str]) -> Command {
        let out = self.path(out);
        let mut command = Process::command(&["export", "--store", store, "--out", out.to_str().unwrap()]);
        command.args(more);
        command
    }

    pub(super) fn import(&self, input: &str, into: &str, more: &[&str]) -> Command {
        self.import_into(&self.store(into), input, more)
    }

    pub(super) fn import_into(&self, store: &str, input: &str, more: &[&str]) -> Command {
        let input = self.path(input);
        let mut command = Process::command(&["import", "--store", store, "--in", input.to_str().unwrap()]);
        command.args(more);
        command
    }

    /// Nothing of the source is missing in a store, nothing is more, and nothing in it contradicts itself.
    pub(super) fn assert_moved(&self, name: &str) {
        let (code, message) = run(Process::command(&["check", "--store", &self.store(name)]));
        assert_eq!(code, 0, "{message}");
        assert_eq!(of_file(&self.path(name)), of_file(&self.path("source.db")));
    }
}

/// All that a store keeps and counts.
pub(super) type Contents = (Vec<StoredRow>, Vec<TopicInfo>, StoreStats);

pub(super) fn event(number: u32) -> Event {
    let (topic, scope) = match number % 3 {
        0 => ("orders.eu", Scope::Topic),
        1 => ("stock", Scope::Topic),
        _ => ("by-source", Scope::Source),
    };
    let event = Event::new(topic, format!("ä\"{number}")).unwrap().with_scope(scope);
    let event = event.with_source(if number.is_multiple_of(2) { "a" } else { "b c" }).unwrap();
    let event =
        event.with_payload(&format!(r#"{{"n":{number}.0,"s":"\ud800\u0000 ü","of":[null,1e400]}}"#)).unwrap();
    if number.is_multiple_of(7) { event.with_sequence(u64::from(number)) } else { event }
}

pub(super) fn append(store: &dyn DedupStore, events: &[Event]) -> Vec<Receipt> {
    let views: Vec<_> = events.iter().map(Event::view).collect();
    store.append_all(&views).unwrap()
}

pub(super) fn contents(store: &dyn DedupStore) -> Contents {
    let mut rows = Rows::of(store);
    let rows = std::iter::from_fn(|| rows.next().unwrap()).collect();
    (rows, store.topics(&TopicQuery { times: true, ..TopicQuery::default() }).unwrap(), totals(store))
}

/// Without what is the store's own matter: its size, and the times of appends that stored nothing.
fn totals(store: &dyn DedupStore) -> StoreStats {
    let mut stats = store.stats().unwrap();
    (stats.bytes, stats.newest_processed_at) = (0, None);
    stats
}

pub(super) fn of_file(path: &Path) -> Contents {
    contents(&SqliteStore::open(path).unwrap())
}

pub(super) fn count(path: &Path) -> usize {
    of_file(path).0.len()
}

pub(super) fn run(mut command: Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.stdin(Stdio::null()).output().unwrap();
    // What a signal ended has no code.
    (status.code().unwrap_or(-1), told(stderr))
}

/// What a program said on standard error, but for how far it was: that is said once a second, and so by a slow machine
/// only.
pub(super) fn told(stderr: Vec<u8>) -> String {
    let text = String::from_utf8(stderr).unwrap();
    let is_progress = |line: &str| ["import: ", "export: "].iter().any(|doing| line.starts_with(doing));
    text.split_inclusive('\n').filter(|line| !is_progress(line)).collect()
}

pub(super) fn succeed(command: Command) -> String {
    let (code, message) = run(command);
    assert_eq!(code, 0, "{message}");
    message
}

pub(super) fn fail(command: Command) -> String {
    let (code, message) = run(command);
    assert_eq!((code, message.trim_end().lines().count()), (1, 1), "{message}");
    message
}
