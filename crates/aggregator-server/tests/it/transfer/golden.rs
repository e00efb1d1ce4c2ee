//! A real export of every format, as `tests/golden/README.md` says, against the golden store it was made of.

use std::fs;
use std::path::{Path, PathBuf};

use aggregator_core::{Kept, MemoryStore, StoreStats, StoredRow, TopicInfo};
use aggregator_server::admin::transfer::import;
use aggregator_server::options::{Command, Options};
use clap::Parser as _;
use tempfile::TempDir;

use super::lab::{contents, of_file, run, succeed};
use crate::support::Process;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A copy of one of the core's golden stores in this directory: opening a store writes to it.
fn copy_of_store(name: &str, directory: &TempDir) -> PathBuf {
    let path = directory.path().join(name);
    let originals = Path::new(env!("CARGO_MANIFEST_DIR")).join("../aggregator-core/tests/golden");
    fs::copy(originals.join(name), &path).unwrap();
    path
}

/// The same, of today's format.
fn upgraded_store(name: &str, directory: &TempDir) -> PathBuf {
    let path = copy_of_store(name, directory);
    succeed(Process::command(&["upgrade", "--store", &store(&path)]));
    path
}

fn store(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// Identities alone come first in an export, wherever they were in its store.
fn by_kind(
    (mut rows, topics, stats): (Vec<StoredRow>, Vec<TopicInfo>, StoreStats),
) -> impl PartialEq + std::fmt::Debug {
    rows.sort_by_key(|row| row.kept != Kept::Identity);
    (rows, topics, stats)
}

#[test]
fn an_export_of_format_1_is_imported_whole_into_sqlite() {
    let directory = TempDir::new().unwrap();
    let (export, target) = (golden("export-1.ndjson"), directory.path().join("target.db"));
    let arguments = ["import", "--store", &store(&target), "--in", export.to_str().unwrap()];
    let told = succeed(Process::command(&arguments));
    assert!(told.contains("imported 98 rows, 0 were there already"), "{told}");
    let told = succeed(Process::command(&arguments));
    assert!(told.contains("imported 0 rows, 98 were there already"), "{told}");
    assert_eq!(by_kind(of_file(&target)), by_kind(of_file(&upgraded_store("format-3.db", &directory))));
    succeed(Process::command(&["check", "--store", &store(&target)]));
}

#[test]
fn an_export_of_format_1_is_imported_whole_into_memory() {
    let directory = TempDir::new().unwrap();
    let export = golden("export-1.ndjson");
    let options = Options::parse_from(["aggregator-server", "import", "--in", export.to_str().unwrap()]);
    let (Some(Command::Import(options)), _) = options.into_parts() else { panic!("it imports") };
    let target = MemoryStore::default();
    let input = import::Input::open(&options.input).unwrap();
    import::import(&target, input, &options).unwrap();
    assert_eq!(by_kind(contents(&target)), by_kind(of_file(&upgraded_store("format-3.db", &directory))));
}

/// The export is of the store that was exported by the program of format 2: they are the same, byte by byte.
#[test]
fn a_store_of_format_2_is_taken_on_and_exported_as_its_own_program_did() {
    let directory = TempDir::new().unwrap();
    let path = copy_of_store("format-2.db", &directory);
    let (code, told) = run(Process::command(&["check", "--store", &store(&path)]));
    assert!(code == 5 && told.contains("aggregator-server upgrade"), "{code}: {told}");
    succeed(Process::command(&["upgrade", "--store", &store(&path)]));
    succeed(Process::command(&["check", "--store", &store(&path)]));
    let out = directory.path().join("export");
    let arguments = ["export", "--store", &store(&path), "--out", out.to_str().unwrap()];
    let mut export = Process::command(&arguments);
    export.args(["--checkpoint-rows", "30"]);
    succeed(export);
    let [written, expected] =
        [&out, &golden("export-1.ndjson")].map(|path| fs::read_to_string(path).unwrap());
    assert_eq!(written, expected);
}

#[test]
fn a_list_of_identities_is_imported_whole() {
    let directory = TempDir::new().unwrap();
    let (list, target) = (golden("identities.ndjson"), directory.path().join("target.db"));
    let arguments = ["import", "--ids-only", "--store", &store(&target), "--in", list.to_str().unwrap()];
    let told = succeed(Process::command(&arguments));
    assert!(told.contains("imported 6 identities, 0 were there already"), "{told}");
    let told = succeed(Process::command(&arguments));
    assert!(told.contains("imported 0 identities, 6 were there already"), "{told}");
    let (rows, topics, stats) = of_file(&target);
    assert!(rows.iter().all(|row| row.kept == Kept::Identity));
    let ids: Vec<_> = rows.iter().map(|row| (row.topic.as_str(), row.event_id.as_str())).collect();
    let orders = ["order-1", "order-2", "ä\"\\😀", "order-2\u{301}"].map(|id| ("orders.created", id));
    assert_eq!(ids, [&orders[..], &[("by-source", "1"), ("by-source", "1")]].concat());
    assert_eq!((topics.len(), stats.stored), (2, 0));
}
