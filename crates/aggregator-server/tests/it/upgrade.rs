//! `aggregator-server upgrade`, and what every command says of a store that this program does not open.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aggregator_core::fail_point;
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};
use tempfile::TempDir;

use crate::support::Process;

/// The exit codes of docs/reference.md.
const TOO_NEW: i32 = 4;
const TOO_OLD: i32 = 5;

struct Lab {
    directory: TempDir,
}

impl Lab {
    /// With the core's golden store of this name.
    fn of(golden: &str) -> Self {
        let lab = Self { directory: TempDir::new().unwrap() };
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../aggregator-core/tests/golden");
        fs::copy(goldens.join(golden), lab.path("s.db")).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn store(&self) -> String {
        format!("sqlite:{}", self.path("s.db").display())
    }

    /// The files beside the store, but for what SQLite leaves: a log that is empty, and its index.
    fn others(&self) -> Vec<String> {
        let names = fs::read_dir(self.directory.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let own = |name: &str| match name {
            "s.db" | "s.db-lock" | "s.db-shm" => true,
            "s.db-wal" => self.bytes(name).is_empty(),
            _ => false,
        };
        let mut names: Vec<_> = names.filter(|name| !own(name)).collect();
        names.sort();
        names
    }

    fn upgrade(&self, arguments: &[&str]) -> Command {
        let mut command = Process::command(&["upgrade", "--store", &self.store()]);
        command.args(arguments);
        command
    }
}

/// The exit code, and what was said.
fn run(mut command: Command) -> (Option<i32>, String) {
    let done = command.output().unwrap();
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
}

/// Every command that opens a store of its own.
fn all_commands(store: &str, directory: &Path) -> Vec<Command> {
    let file = |name: &str| directory.join(name).display().to_string();
    fs::write(directory.join("in"), "").unwrap();
    let (out, input) = (file("out"), file("in"));
    let commands: &[&[&str]] = &[
        &["--listen", "127.0.0.1:0"],
        &["check"],
        &["export", "--out", &out],
        &["import", "--in", &input],
        &["key", "list"],
    ];
    commands.iter().map(|arguments| Process::command(&[*arguments, &["--store", store]].concat())).collect()
}

fn assert_refused(lab: &Lab, code: i32, words: &str) {
    let before = lab.bytes("s.db");
    let elsewhere = TempDir::new().unwrap();
    let mut commands = all_commands(&lab.store(), elsewhere.path());
    let rest: &[&[&str]] = &[
        &["backup", "--out", "/nonexistent/copy"],
        &["adopt"],
        &["compact"],
        &["erase", "t", "1"],
        &["release", "t", "1"],
    ];
    commands.extend(rest.iter().map(|rest| Process::command(&[*rest, &["--store", &lab.store()]].concat())));
    let made = format!("sqlite:{}", elsewhere.path().join("made.db").display());
    let from = lab.path("s.db").display().to_string();
    commands.push(Process::command(&["restore", &from, "--store", &made]));
    for command in commands {
        let said = format!("{command:?}");
        let (exit, error) = run(command);
        assert_eq!(exit, Some(code), "{said}: {error}");
        assert!(error.contains(words), "{said}: {error}");
        assert_eq!(lab.bytes("s.db"), before, "{said}");
        assert!(lab.others().is_empty(), "{said}: {:?}", lab.others());
    }
}

#[test]
fn a_store_of_a_newer_format_is_refused_with_a_code_of_its_own_and_left_byte_for_byte() {
    let lab = Lab::of("format-3.db");
    // `user_version`: <https://sqlite.org/fileformat2.html>.
    let mut newer = lab.bytes("s.db");
    newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
    fs::write(lab.path("s.db"), &newer).unwrap();
    assert_refused(&lab, TOO_NEW, "has format 99");
    for command in
        [lab.upgrade(&[]), Process::command(&["check", "--rebuild-index", "--store", &lab.store()])]
    {
        assert_eq!(run(command).0, Some(TOO_NEW));
    }
    assert!(lab.bytes("s.db") == newer && lab.others().is_empty());
}

#[test]
fn a_store_of_an_older_format_is_refused_with_a_code_of_its_own_until_it_is_upgraded() {
    let lab = Lab::of("format-2.db");
    let before = lab.bytes("s.db");
    assert_refused(&lab, TOO_OLD, "aggregator-server upgrade");
    let (exit, said) = run(lab.upgrade(&[]));
    assert_eq!((exit, lab.bytes("s.db.format-2")), (Some(0), before), "{said}");
    assert_eq!(lab.others(), ["s.db.format-2"]);
    let (exit, said) = run(Process::command(&["check", "--store", &lab.store()]));
    assert_eq!(exit, Some(0), "{said}");
    let (exit, said) = run(lab.upgrade(&[]));
    assert!(exit == Some(0) && said.contains("nothing to do"), "{exit:?}: {said}");
    let lab = Lab::of("format-1.db");
    assert_refused(&lab, TOO_OLD, "the program that wrote it");
    assert_eq!(run(lab.upgrade(&[])).0, Some(TOO_OLD));
}

#[test]
fn an_upgrade_that_is_killed_goes_on() {
    for golden in ["format-2.db", "format-3.db", "format-4.db"] {
        for point in ["upgrade-copying:1", "upgrade-copied:1", "upgrade-committed:1", "upgrade-emptied:1"] {
            assert_goes_on(&Lab::of(golden), &format!("{golden}, {point}"), point);
        }
    }
}

/// `restore` refuses it, so it is upgraded itself. A log beside such a file is that of another store as a rule.
#[test]
fn an_upgrade_of_a_backup_that_is_killed_goes_on() {
    for golden in ["format-3.db", "format-4.db"] {
        for point in ["upgrade-copied:1", "upgrade-committed:1", "upgrade-emptied:1"] {
            let lab = Lab::of(golden);
            let zeros = "0".repeat(20);
            let mark = format!("0000000000 2026-01-01T00:00:00.000000Z {zeros} {zeros} {zeros} {zeros}");
            let connection = rusqlite::Connection::open(lab.path("s.db")).unwrap();
            connection.execute("UPDATE meta SET value = ?1 WHERE name = 'log'", [mark]).unwrap();
            drop(connection);
            assert_goes_on(&lab, &format!("backup of {golden}, {point}"), point);
        }
    }
}

/// An upgrade that is killed at `point`, repeated.
fn assert_goes_on(lab: &Lab, what: &str, point: &str) {
    let before = lab.bytes("s.db");
    let mut killed = lab.upgrade(&["--backup", lab.path("kept").to_str().unwrap()]);
    killed.env(fail_point::VARIABLE, point);
    assert_eq!(run(killed).0, None, "it ended before {what}");
    assert_eq!(lab.path("kept").exists(), point != "upgrade-copying:1");
    let (exit, said) = run(lab.upgrade(&["--backup", lab.path("kept").to_str().unwrap()]));
    assert_eq!(exit, Some(0), "{what}: {said}");
    assert_eq!(lab.others(), ["kept"], "{what}");
    assert_eq!(lab.bytes("kept"), before, "{what}");
    let (exit, said) = run(Process::command(&["check", "--store", &lab.store()]));
    assert_eq!(exit, Some(0), "{what}: {said}");
}

#[test]
fn tables_of_another_version_are_refused_with_the_same_codes() {
    let Some(server) = TestServer::start(&[]) else { return };
    let url = server.url();
    drop(PostgresStore::open_with(&url.parse().unwrap(), PostgresOptions::default()).unwrap());
    let directory = TempDir::new().unwrap();
    for (version, code) in [(9, TOO_NEW), (0, TOO_OLD)] {
        server.sql(&format!("UPDATE aggregator.meta SET value = '{version}' WHERE name = 'schema_version'"));
        for command in all_commands(&url, directory.path()) {
            let said = format!("{command:?}");
            let (exit, error) = run(command);
            assert!(exit == Some(code) && error.contains("has format"), "{said}: {exit:?} {error}");
        }
    }
}
