use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::store::HelperStep;

fn silent() -> OnWarning {
    Arc::new(|_| {})
}

fn connection(directory: &TempDir) -> Connection {
    let connection = Connection::open(directory.path().join("test.db")).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0").unwrap();
    connection
}

#[test]
fn what_the_helper_could_not_sync_fails_what_is_committed_next() {
    let directory = TempDir::new().unwrap();
    let writer = connection(&directory);
    writer.execute_batch("CREATE TABLE t (x)").unwrap();
    let fails = || Err(io::Error::from(io::ErrorKind::Other));
    let mut checkpoints =
        Checkpoints::start(connection(&directory), fails, 1, true, HelperObserver::default(), silent())
            .unwrap();
    let Err(TransactionError::Store(error)) = checkpoints.between_commits(&writer) else {
        panic!("it is the helper's failure");
    };
    assert!(error.is_fatal(), "{error}");
}

/// Makes a helper begin its task only when the writer waits for it.
fn slow() -> HelperObserver {
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let on_step = move |step: HelperStep<'_>| match step {
        // With a timeout: if the test fails, nobody waits for the helper.
        HelperStep::Begin(_) => drop(released.lock().unwrap().recv_timeout(Duration::from_secs(20))),
        HelperStep::Wait(_) => release.send(()).unwrap(),
    };
    HelperObserver { on_step: Some(Arc::new(on_step)) }
}

#[test]
fn what_is_committed_while_the_helper_copies_is_copied_by_the_writer_and_the_log_begins_anew() {
    let directory = TempDir::new().unwrap();
    let open = || connection(&directory);
    let writer = open();
    writer.execute_batch("CREATE TABLE t (x)").unwrap();
    let insert = |bytes: u32| writer.execute("INSERT INTO t VALUES (zeroblob(?1))", [bytes]).unwrap();
    let reader = open();
    let step = 8;
    let mut checkpoints = Checkpoints::start(open(), || Ok(()), step, false, slow(), silent()).unwrap();
    for _ in 0..3 {
        insert(100_000);
        // While a transaction reads the log, SQLite does not start it again.
        reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
        assert!(checkpoints.between_commits(&writer).is_ok());
        assert!(checkpoints.settle().is_ok());
        insert(10);
        reader.execute_batch("ROLLBACK").unwrap();
        assert!(checkpoints.between_commits(&writer).is_ok());
        let (log, copied) = checkpoint(&writer, "NOOP").unwrap();
        assert!(log > u64::from(step) && copied == log, "{copied} of {log}");
        insert(10);
        let (log, _) = checkpoint(&writer, "NOOP").unwrap();
        assert!(log < u64::from(step), "{log}");
    }
}

/// More than the writer copies itself, and not much more.
#[test]
fn the_helper_copies_again_if_more_than_a_little_was_committed_while_it_copied() {
    let directory = TempDir::new().unwrap();
    let writer = connection(&directory);
    writer.execute_batch("CREATE TABLE t (x)").unwrap();
    let insert = |bytes: u32| writer.execute("INSERT INTO t VALUES (zeroblob(?1))", [bytes]).unwrap();
    let reader = connection(&directory);
    let mut checkpoints =
        Checkpoints::start(connection(&directory), || Ok(()), 8, false, slow(), silent()).unwrap();
    insert(100_000);
    // While a transaction reads the log, SQLite does not start it again.
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    for passes in 1..=2 {
        assert!(checkpoints.between_commits(&writer).is_ok());
        assert_eq!((checkpoints.passes, checkpoints.copying), (passes, true));
        assert!(checkpoints.settle().is_ok());
        insert(20_000);
    }
}

/// A slow disk delays appends as late as possible, and each time at the same length of the log.
#[test]
fn a_copy_is_waited_for_once_the_log_is_sixteen_steps_long_and_not_before() {
    let directory = TempDir::new().unwrap();
    let writer = connection(&directory);
    writer.execute_batch("CREATE TABLE t (x)").unwrap();
    let waits = Arc::<AtomicU32>::default();
    let counted = Arc::clone(&waits);
    let HelperObserver { on_step: Some(slow) } = slow() else { unreachable!("it has one") };
    let on_step = move |step: HelperStep<'_>| {
        counted.fetch_add(u32::from(matches!(step, HelperStep::Wait(_))), Ordering::SeqCst);
        slow(step);
    };
    let observer = HelperObserver { on_step: Some(Arc::new(on_step)) };
    let step = 20;
    let mut checkpoints =
        Checkpoints::start(connection(&directory), || Ok(()), step, false, observer, silent()).unwrap();
    for round in 1..=3 {
        let mut longest = 0;
        while waits.load(Ordering::SeqCst) < round {
            writer.execute("INSERT INTO t VALUES (zeroblob(5000))", []).unwrap();
            longest = checkpoint(&writer, "NOOP").unwrap().0.max(longest);
            assert!(checkpoints.between_commits(&writer).is_ok());
            assert!(longest < 2 * RESTART_STEPS * u64::from(step), "nobody waits");
        }
        // An insert takes a few pages, and the length is read after each insert.
        let late = RESTART_STEPS * u64::from(step)..RESTART_STEPS * u64::from(step) + 20;
        assert!(late.contains(&longest), "round {round}: {longest} pages");
    }
}

/// A callback, and the warnings it got.
fn listening() -> (OnWarning, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let hear = Arc::clone(&heard);
    (Arc::new(move |warning| hear.lock().unwrap().push(warning.to_owned())), heard)
}

#[test]
fn a_log_that_cannot_be_written_over_is_told_of_once() {
    let directory = TempDir::new().unwrap();
    let writer = connection(&directory);
    writer.execute_batch("CREATE TABLE t (x)").unwrap();
    let insert = || writer.execute("INSERT INTO t VALUES (zeroblob(100000))", []).unwrap();
    writer.busy_timeout(Duration::from_millis(1)).unwrap();
    let reader = connection(&directory);
    let (on_warning, heard) = listening();
    let mut checkpoints =
        Checkpoints::start(connection(&directory), || Ok(()), 1, true, HelperObserver::default(), on_warning)
            .unwrap();
    for _ in 0..2 {
        reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
        for _ in 0..10 {
            insert();
            assert!(checkpoints.between_commits(&writer).is_ok());
        }
        reader.execute_batch("ROLLBACK").unwrap();
        assert!(checkpoints.between_commits(&writer).is_ok());
        insert();
        assert!(checkpoints.between_commits(&writer).is_ok());
    }
    let heard = heard.lock().unwrap();
    assert!(heard.len() == 2 && heard[0].contains("reads the store without a pause"), "{heard:?}");
    // A step is one page here, and the warning comes from the sixteenth step on.
    let bytes: u64 = heard[0].split(' ').find_map(|word| word.parse().ok()).unwrap();
    let longest = 40 * u64::from(PAGE_BYTES);
    assert!((RESTART_STEPS * u64::from(PAGE_BYTES)..longest).contains(&bytes), "{heard:?}");
}

#[test]
fn a_failing_copy_is_told_of_again_after_one_has_succeeded() {
    let directory = TempDir::new().unwrap();
    let writer = connection(&directory);
    writer.execute_batch("CREATE TABLE t (x)").unwrap();
    let (on_warning, heard) = listening();
    let observer = HelperObserver::default();
    let mut checkpoints =
        Checkpoints::start(connection(&directory), || Ok(()), 1, true, observer, on_warning).unwrap();
    for round in 1..=2 {
        checkpoints.warn(&StoreError::unavailable("as planned"));
        checkpoints.warn(&StoreError::unavailable("as planned"));
        assert_eq!(heard.lock().unwrap().len(), round);
        writer.execute("INSERT INTO t VALUES (zeroblob(100000))", []).unwrap();
        assert!(checkpoints.between_commits(&writer).is_ok());
    }
}

#[test]
fn the_longer_a_log_is_that_cannot_start_again_the_more_rarely_it_is_waited_for() {
    let directory = TempDir::new().unwrap();
    let writer = connection(&directory);
    writer.execute_batch("CREATE TABLE t (x)").unwrap();
    writer.busy_timeout(Duration::from_millis(1)).unwrap();
    let reader = connection(&directory);
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    let observer = HelperObserver::default();
    let mut checkpoints =
        Checkpoints::start(connection(&directory), || Ok(()), 4, true, observer, silent()).unwrap();
    for _ in 0..60 {
        let (before, next) = (checkpoints.log, checkpoints.restart_at);
        writer.execute("INSERT INTO t VALUES (zeroblob(20000))", []).unwrap();
        assert!(checkpoints.between_commits(&writer).is_ok());
        let log = checkpoints.log;
        assert!(log > before);
        let expected = if log < next { next } else { log + (log / 4).max(4) };
        assert_eq!(checkpoints.restart_at, expected, "the log has {log} pages");
    }
}
