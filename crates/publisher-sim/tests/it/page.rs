//! `--report FILE`: a page with the verdict, written whole or not at all.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::peer::{Lie, Peer};
use crate::program::{output_of, program, text};

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn the_page_has_the_verdict_of_the_exit_code_and_the_command_that_repeats_the_run() {
    for (lie, code, verdict) in
        [(Lie::None, 0, "Exactly once: verified"), (Lie::Loses(3), 1, "Exactly once: broken")]
    {
        let (peer, directory) = (Peer::lying(lie).await, TempDir::new().unwrap());
        let path = directory.path().join("run.html");
        let options = "--events 400 --seed 7 --batch 20 --drop 0.1 --verify";
        let mut command = program(&peer.url(), options);
        command.arg("--report").arg(&path);
        let output = output_of(command).await;
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("stored"), "the table is printed all the same");
        let page = fs::read_to_string(&path).unwrap();
        let repeat = format!(
            "publisher-sim --url {} --events 400 --batch 20 --seed 7 --verify --drop 0.1<",
            peer.url()
        );
        for expected in
            [verdict, &*repeat, "Latency over time", "numbers lost before they were sent", "</html>"]
        {
            assert!(page.contains(expected), "{expected}: {page}");
        }
        assert_eq!(names(directory.path()), ["run.html"]);
    }
}

#[tokio::test]
async fn a_page_that_cannot_be_written_ends_the_run_before_anything_is_sent() {
    let (peer, directory) = (Peer::honest().await, TempDir::new().unwrap());
    let missing = directory.path().join("missing/run.html");
    for (path, reason) in [
        (directory.path(), "it is a directory"),
        (&missing, "No such file or directory"),
        (Path::new("/dev/null"), "it is no ordinary file"),
    ] {
        let mut command = program(&peer.url(), "--events 10");
        command.arg("--report").arg(path);
        let output = output_of(command).await;
        assert_eq!(output.status.code(), Some(2));
        let expected = format!("publisher-sim: --report {}: {reason}", path.display());
        let stderr = text(&output.stderr);
        assert!(stderr.contains(&expected), "{expected}: {stderr}");
    }
    assert!(peer.bodies().is_empty());
    assert_eq!(names(directory.path()), Vec::<String>::new());
}

#[tokio::test]
async fn no_key_and_no_place_of_one_is_in_the_page() {
    let (peer, directory) = (Peer::honest().await, TempDir::new().unwrap());
    let (path, key_file) = (directory.path().join("run.html"), directory.path().join("sneaky-place"));
    fs::write(&key_file, "agg_1_sneakykey").unwrap();
    for from_file in [true, false] {
        let mut command = program(&peer.url(), "--events 10");
        command.arg("--report").arg(&path);
        match from_file {
            true => command.arg("--key-file").arg(&key_file),
            false => command.env("PUBLISHER_KEY", "agg_1_sneakykey"),
        };
        let output = output_of(command).await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let page = fs::read_to_string(&path).unwrap();
        assert!(!page.contains("sneaky"), "{page}");
        assert!(page.contains(if from_file { "--key-file FILE" } else { "PUBLISHER_KEY=KEY" }), "{page}");
    }
}
