//! `export` and `import` as programs: pipes, files, kills in the middle, damaged lines.

mod forgotten;
mod golden;
mod lab;
#[cfg(feature = "postgres")]
mod postgres;
mod streams;

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use aggregator_core::{DedupStore, DedupStoreExt as _, Event, Identity, Outcome, SqliteStore, Topic};

use self::lab::{Lab, append, count, event, fail, of_file, run, succeed, told};
use crate::support::Process;

#[test]
fn a_store_moves_through_a_pipe() {
    let lab = Lab::new(3_000);
    let source = lab.store("source.db");
    let mut export = Process::command(&["export", "--store", &source, "--out", "-"]);
    let mut export = export.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let target = lab.store("target.db");
    let mut import = Process::command(&["import", "--store", &target, "--in", "-", "--batch-rows", "70"]);
    let imported = import.stdin(export.stdout.take().unwrap()).output().unwrap();
    assert!(imported.status.success() && export.wait().unwrap().success());
    let message = told(imported.stderr);
    // Behind lines about its progress, if it took long.
    assert!(message.contains("imported 3000 rows, 0 were there already"), "{message}");
    lab.assert_moved("target.db");
    // Repeats are told with the old seqs, those of purged events too.
    let store = SqliteStore::open(lab.path("target.db")).unwrap();
    let again = append(&store, &(0..3_000).map(event).collect::<Vec<_>>());
    assert!(again.iter().all(|receipt| receipt.outcome == Outcome::Duplicate));
    assert_eq!((again[0].seq, again[2_997].seq), (Some(1), Some(1_000)));
    assert_eq!(append(&store, &[event(0).with_payload("7").unwrap()])[0].outcome, Outcome::Conflict);
}

#[test]
fn a_byte_order_mark_is_skipped_at_the_start_of_a_file_only() {
    let lab = Lab::new(100);
    succeed(lab.export("export", &[]));
    let mark = |name: &str| {
        let marked = [b"\xef\xbb\xbf".as_slice(), &fs::read(lab.path(name)).unwrap()].concat();
        fs::write(lab.path(name), marked).unwrap();
    };
    mark("export");
    assert!(succeed(lab.import("export", "target.db", &[])).contains("imported 100 rows"));
    lab.assert_moved("target.db");

    fs::write(lab.path("ids"), "{\"topic\":\"t\",\"event_id\":\"1\"}\n").unwrap();
    mark("ids");
    assert!(succeed(lab.import("ids", "ids.db", &["--ids-only"])).contains("imported 1 identities"));
    fs::write(lab.path("ids"), "\n\u{feff}{\"topic\":\"t\",\"event_id\":\"1\"}\n").unwrap();
    assert!(fail(lab.import("ids", "ids.db", &["--ids-only"])).contains("line 2: "));
    for name in ["ids", "export"] {
        fs::write(lab.path(name), "").unwrap();
        mark(name);
    }
    assert!(succeed(lab.import("ids", "ids.db", &["--ids-only"])).contains("imported 0 identities"));
    assert!(fail(lab.import("export", "new.db", &[])).contains("is not the first line of an export"));
}

#[test]
fn an_import_that_is_repeated_skips_what_is_there() {
    let lab = Lab::new(500);
    succeed(lab.export("export", &[]));
    for expected in ["imported 500 rows, 0 were", "imported 0 rows, 500 were"] {
        let message = succeed(lab.import("export", "target.db", &[]));
        assert!(message.contains(expected), "{message}");
        lab.assert_moved("target.db");
    }
    // And after a rebuild of the index, which knows stubs, too.
    let target = lab.store("target.db");
    succeed(Process::command(&["check", "--rebuild-index", "--store", &target]));
    assert!(succeed(lab.import("export", "target.db", &[])).contains("imported 0 rows, 500 were"));
    lab.assert_moved("target.db");
}

#[test]
fn an_import_that_is_killed_goes_on() {
    let lab = Lab::new(1_000);
    succeed(lab.export("export", &[]));
    for (n, point) in
        ["before-commit:1", "before-commit:4", "after-commit:7", "after-commit:1"].iter().enumerate()
    {
        let target = format!("target-{n}.db");
        let mut killed = lab.import("export", &target, &["--batch-rows", "90"]);
        killed.env(aggregator_core::fail_point::VARIABLE, point);
        assert_eq!(run(killed).0, -1, "it ended before {point}");
        assert!(count(&lab.path(&target)) < 1_000);
        succeed(lab.import("export", &target, &["--batch-rows", "110"]));
        lab.assert_moved(&target);
    }
}

#[test]
fn an_import_that_is_killed_while_it_reads_goes_on() {
    let lab = Lab::new(20_000);
    succeed(lab.export("export", &[]));
    let export = fs::read(lab.path("export")).unwrap();
    let target = lab.store("target.db");
    for signal in ["-KILL", "-TERM", "-INT"] {
        let mut import = Process::command(&["import", "--store", &target, "--in", "-", "--batch-rows", "50"]);
        let mut import = import.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // Once this returns, all but what the pipe holds was read.
        import.stdin.as_mut().unwrap().write_all(&export[..export.len() * 3 / 4]).unwrap();
        crate::signal::send(signal, &import);
        assert!(!import.wait().unwrap().success());
        let there = count(&lab.path("target.db"));
        assert!((1..20_000).contains(&there), "{signal}: {there}");
    }
    succeed(lab.import("export", "target.db", &[]));
    lab.assert_moved("target.db");
}

#[test]
fn an_export_that_is_killed_goes_on_behind_its_last_checkpoint() {
    let lab = Lab::new(20_000);
    let path = lab.path("export");
    succeed(lab.export("whole", &["--checkpoint-rows", "100"]));
    let whole = fs::read(lab.path("whole")).unwrap();
    // Each time it gets a little farther; if it is through before the kill, once more from the beginning.
    let mut interrupted = 0;
    for _ in 0..200 {
        let before = fs::metadata(&path).map_or(0, |file| file.len());
        let mut export =
            lab.export("export", &["--checkpoint-rows", "100"]).stderr(Stdio::null()).spawn().unwrap();
        let grown = || fs::metadata(&path).map_or(0, |file| file.len()) > before + 50_000;
        while !grown() && export.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        export.kill().unwrap();
        if export.wait().unwrap().success() {
            fs::remove_file(&path).unwrap();
        } else {
            interrupted += 1;
        }
        if interrupted == 5 {
            break;
        }
    }
    assert_eq!(interrupted, 5);
    assert!(fs::metadata(&path).unwrap().len() > 0);
    succeed(lab.export("export", &["--checkpoint-rows", "100"]));
    assert!(fs::read(&path).unwrap() == whole, "it is the same as one that was never interrupted");
    succeed(lab.import("export", "target.db", &[]));
    lab.assert_moved("target.db");
}

#[test]
fn an_export_that_is_cut_off_anywhere_goes_on() {
    let lab = Lab::new(60);
    succeed(lab.export("whole", &["--checkpoint-rows", "10"]));
    let whole = fs::read(lab.path("whole")).unwrap();
    for length in [0, 1, 40, 150, whole.len() / 3, whole.len() / 2, whole.len() - 90, whole.len() - 1] {
        fs::write(lab.path("export"), &whole[..length]).unwrap();
        succeed(lab.export("export", &["--checkpoint-rows", "10"]));
        assert!(fs::read(lab.path("export")).unwrap() == whole, "cut off at {length}");
    }
    // What a loss of power may leave behind what was synced.
    fs::write(lab.path("export"), [&whole[..whole.len() / 2], &[0; 100_000]].concat()).unwrap();
    succeed(lab.export("export", &["--checkpoint-rows", "10"]));
    assert!(fs::read(lab.path("export")).unwrap() == whole);
    // A checkpoint that is damaged is none.
    let text = String::from_utf8(whole.clone()).unwrap();
    let last = text.rfind("{\"checkpoint\"").unwrap();
    let mut damaged = whole.clone();
    damaged.truncate(text.len() - 50);
    damaged[last + 30] ^= 1;
    fs::write(lab.path("export"), damaged).unwrap();
    succeed(lab.export("export", &["--checkpoint-rows", "10"]));
    assert!(fs::read(lab.path("export")).unwrap() == whole);
}

#[test]
fn an_export_leaves_other_files_alone() {
    let lab = Lab::new(60);
    let other = Lab::new(10);
    succeed(lab.export("whole", &["--checkpoint-rows", "10"]));
    let whole = fs::read(lab.path("whole")).unwrap();
    fs::write(lab.path("notes"), "dear diary\n").unwrap();
    fs::write(lab.path("diary"), "dear diary").unwrap();
    fs::copy(lab.path("whole"), other.path("foreign")).unwrap();
    for (lab, file, part) in [
        (&lab, "notes", "is no export"),
        (&lab, "diary", "is no export"),
        (&lab, "whole", "complete export already"),
        (&other, "foreign", "of another store"),
    ] {
        let before = fs::read(lab.path(file)).unwrap();
        let message = fail(lab.export(file, &[]));
        assert!(message.contains(part), "{message}");
        assert_eq!(fs::read(lab.path(file)).unwrap(), before);
    }
    // What was exported as an event must not be followed by stubs.
    fs::write(lab.path("begun"), &whole[..whole.len() / 2]).unwrap();
    let store = SqliteStore::open(lab.path("source.db")).unwrap();
    store.purge(&Topic::new("stock").unwrap(), 5).unwrap();
    drop(store);
    assert!(fail(lab.export("begun", &[])).contains("were purged since"));
    let nowhere = lab.store("nowhere.db");
    assert!(
        fail(Process::command(&["export", "--store", &nowhere, "--out", "-"])).contains("does not exist")
    );
    assert!(!lab.path("nowhere.db").exists());
}

#[test]
fn a_file_that_is_not_there_is_named_and_the_reason_told_once() {
    let lab = Lab::new(1);
    let message = fail(lab.import("nowhere", "target.db", &[]));
    let path = lab.path("nowhere");
    assert_eq!(
        message,
        format!("aggregator-server: {}: No such file or directory (os error 2)\n", path.display())
    );
}

#[test]
fn a_file_that_was_cut_off_is_noticed() {
    let lab = Lab::new(60);
    succeed(lab.export("whole", &["--checkpoint-rows", "10"]));
    let whole = fs::read(lab.path("whole")).unwrap();
    let lines: Vec<_> = whole.split_inclusive(|&byte| byte == b'\n').collect();
    for length in [0, 10, whole.len() / 2, whole.len() - lines[lines.len() - 1].len(), whole.len() - 1] {
        fs::write(lab.path("cut"), &whole[..length]).unwrap();
        let message = fail(lab.import("cut", "target.db", &[]));
        let complete = whole[..length].iter().filter(|&&byte| byte == b'\n').count();
        assert!(message.contains(&format!("line {}: ", complete + 1)), "{length}: {message}");
    }
    assert_eq!(count(&lab.path("target.db")), 60, "what came before is there");
    succeed(lab.import("whole", "target.db", &[]));
    lab.assert_moved("target.db");
}

#[test]
fn a_line_that_was_damaged_or_lost_is_named() {
    let lab = Lab::new(60);
    succeed(lab.export("whole", &["--checkpoint-rows", "10"]));
    let whole = fs::read_to_string(lab.path("whole")).unwrap();
    let lines: Vec<_> = whole.split_inclusive('\n').collect();
    let without = |line: usize| [&lines[..line - 1], &lines[line..]].concat().concat();
    let changed = whole.replacen("\"n\":30.0", "\"n\":31.0", 1);
    let changed_line = 1 + whole.lines().position(|line| line.contains("\"n\":30.0")).unwrap();
    let swapped = [&lines[..20], &[lines[21], lines[20]], &lines[22..]].concat().concat();
    let last = lines.len();
    for (text, line, part) in [
        (changed, changed_line, "is damaged or was changed"),
        (without(1), 1, "not the first line"),
        (without(last - 1), last - 1, "lines are missing"),
        (format!("{whole}{}", lines[1]), last + 1, "follows the last line"),
        (format!("{}{whole}", lines[0]), 2, "second header"),
    ] {
        fs::write(lab.path("bad"), text).unwrap();
        let message = fail(lab.import("bad", "target.db", &[]));
        assert!(message.contains(&format!("line {line}: ")) && message.contains(part), "{message}");
    }
    for text in [without(5), without(25), swapped] {
        fs::write(lab.path("bad"), text).unwrap();
        assert!(fail(lab.import("bad", "other.db", &[])).contains("line "));
    }
    // Times can be shorter than others by a few digits, so the lines' lengths are looked up.
    let limit = lines[0].len() + 20;
    let longer = 1 + lines.iter().position(|line| line.len() > limit + 20).unwrap();
    assert!(lines[..longer - 1].iter().all(|line| line.len() < limit), "no line is near the limit");
    let long = fail(lab.import("whole", "target.db", &["--max-line-bytes", &limit.to_string()]));
    assert!(long.contains(&format!("line {longer}: is longer than --max-line-bytes {limit}")), "{long}");
    succeed(lab.import("whole", "target.db", &[]));
    lab.assert_moved("target.db");
}

#[test]
fn a_store_that_took_events_of_its_own_is_refused() {
    let lab = Lab::new(60);
    succeed(lab.export("export", &[]));
    let store = SqliteStore::open(lab.path("target.db")).unwrap();
    append(&store, &[Event::new("stock", "own").unwrap()]);
    drop(store);
    let before = of_file(&lab.path("target.db"));
    let message = fail(lab.import("export", "target.db", &["--raise-times"]));
    for part in ["line ", "topic stock, seq 1, ", "took events of its own", "an empty one"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(of_file(&lab.path("target.db")), before);
    // In other topics it may have as many as it likes.
    let store = SqliteStore::open(lab.path("other.db")).unwrap();
    append(&store, &[Event::new("of-its-own", "own").unwrap()]);
    drop(store);
    assert!(fail(lab.import("export", "other.db", &[])).contains("--raise-times"));
    succeed(lab.import("export", "other.db", &["--raise-times"]));
    assert_eq!(count(&lab.path("other.db")), 61);
}

#[test]
fn identities_alone_seed_a_store() {
    let lab = Lab::new(3);
    let ids = "{\"topic\":\"t\",\"event_id\":\"1\",\"processed_at\":\"2020-01-01T00:00:00Z\"}\n\n\
               {\"event_id\":\"ä\",\"topic\":\"t\"}\n\
               {\"topic\":\"u\",\"event_id\":\"1\",\"source\":\"x\",\"scope\":\"source\"}\n\
               {\"topic\":\"t\",\"event_id\":\"1\"}";
    fs::write(lab.path("ids"), ids).unwrap();
    let message = succeed(lab.import("ids", "target.db", &["--ids-only"]));
    assert!(message.starts_with("imported 3 identities, 1 were there already"), "{message}");
    let message = succeed(lab.import("ids", "target.db", &["--ids-only"]));
    assert!(message.starts_with("imported 0 identities, 4 were there already"), "{message}");
    fs::write(lab.path("bad"), format!("{ids}\n{{\"topic\":\"t\"}}\n")).unwrap();
    assert!(fail(lab.import("bad", "target.db", &["--ids-only"])).contains("line 6: "));
    assert!(fail(lab.import("ids", "target.db", &[])).contains("--ids-only"));
    let target = lab.store("target.db");
    succeed(Process::command(&["check", "--rebuild-index", "--store", &target]));

    let store = SqliteStore::open(lab.path("target.db")).unwrap();
    let receipts = append(&store, &[Event::new("t", "1").unwrap(), Event::new("t", "2").unwrap()]);
    assert_eq!((receipts[0].outcome, receipts[0].seq), (Outcome::Duplicate, None));
    assert_eq!(receipts[0].processed_at.to_string(), "2020-01-01T00:00:00.000000Z");
    assert_eq!((receipts[1].outcome, receipts[1].seq), (Outcome::Stored, Some(1)));
    let source = |source| Event::new("u", "1").unwrap().with_source(source).unwrap();
    let receipts = append(&store, &[source("x"), source("y")]);
    assert_eq!((receipts[0].outcome, receipts[1].outcome), (Outcome::Duplicate, Outcome::Stored));
    let id = Identity {
        topic: Topic::new("t").unwrap(),
        event_id: aggregator_core::EventId::new("ä").unwrap(),
        source: None,
    };
    assert_eq!(store.lookup(&[id]).unwrap()[0].unwrap().seq, None);
    drop(store);
    // They move on, too.
    fs::rename(lab.path("target.db"), lab.path("source.db")).unwrap();
    succeed(lab.export("export", &[]));
    succeed(lab.import("export", "moved.db", &[]));
    lab.assert_moved("moved.db");
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [
        &["export"][..],
        &["import"],
        &["import", "--in", "-", "--batch-rows", "0"],
        &["export", "--in", "-"],
    ] {
        assert_eq!(run(Process::command(args)).0, 2, "{args:?}");
    }
}
