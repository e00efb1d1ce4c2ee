//! Exports and imports through what is no file: nothing can be continued there, and nothing is waited for.

use std::fs;
use std::process::{Command, Stdio};

use super::lab::{Lab, fail, run, succeed};
use crate::support::Process;

fn named_pipe(lab: &Lab, name: &str) {
    assert!(Command::new("mkfifo").arg(lab.path(name)).status().unwrap().success());
}

#[test]
fn a_store_moves_through_a_named_pipe() {
    let lab = Lab::new(3_000);
    named_pipe(&lab, "pipe");
    let mut export = lab.export("pipe", &["--checkpoint-rows", "100"]);
    let mut export = export.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let message = succeed(lab.import("pipe", "target.db", &["--batch-rows", "70"]));
    assert!(message.contains("imported 3000 rows"), "{message}");
    assert!(export.wait().unwrap().success());
    lab.assert_moved("target.db");
}

#[test]
fn an_export_can_be_written_to_dev_stdout_and_to_a_process_substitution() {
    let lab = Lab::new(300);
    succeed(lab.export("whole", &[]));
    let whole = fs::read(lab.path("whole")).unwrap();
    let store = lab.store("source.db");
    // The output is a pipe here.
    let output = Process::command(&["export", "--store", &store, "--out", "/dev/stdout"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == whole);
    // What a shell makes of `--out >(cat >copy)`, without a shell that knows it.
    let server = Process::command(&[]);
    let script = r#""$0" export --store "$1" --out /dev/fd/9 9>&1 >&2 | cat >"$2""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(server.get_program()).arg(&store).arg(lab.path("copy"));
    assert!(shell.status().unwrap().success());
    assert!(fs::read(lab.path("copy")).unwrap() == whole);
    // Where nothing is kept.
    succeed(Process::command(&["export", "--store", &store, "--out", "/dev/null"]));
}

#[test]
fn an_export_to_dev_stdout_that_is_a_file_is_one_to_that_file() {
    let lab = Lab::new(300);
    succeed(lab.export("whole", &[]));
    let store = lab.store("source.db");
    let mut export = Process::command(&["export", "--store", &store, "--out", "/dev/stdout"]);
    export.stdout(fs::File::create(lab.path("copy")).unwrap());
    assert_eq!(export.status().unwrap().code(), Some(0));
    assert!(fs::read(lab.path("copy")).unwrap() == fs::read(lab.path("whole")).unwrap());
}

#[test]
fn a_device_that_is_full_fails_the_export() {
    let lab = Lab::new(300);
    let store = lab.store("source.db");
    let message = fail(Process::command(&["export", "--store", &store, "--out", "/dev/full"]));
    assert!(message.contains("No space left"), "{message}");
}

#[test]
fn a_directory_is_no_place_for_an_export() {
    let lab = Lab::new(1);
    let (code, message) = run(lab.export("", &[]));
    assert!(code == 1 && message.contains("directory"), "{message}");
}
