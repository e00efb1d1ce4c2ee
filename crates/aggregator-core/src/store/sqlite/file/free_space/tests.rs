use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;

const PAGE: usize = 512;

/// A table with small and large rows, an index, and free pages.
fn file(directory: &TempDir) -> Vec<u8> {
    let path = directory.path().join("file.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA page_size = 512; CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT, other TEXT);
             CREATE INDEX t_text ON t (text);
             WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 300)
                 INSERT INTO t SELECT n, hex(randomblob(n * n % 400)), hex(randomblob(n % 90)) FROM n;
             DELETE FROM t WHERE n % 3 = 0 OR n BETWEEN 100 AND 150;
             UPDATE t SET text = 'x' WHERE n % 7 = 0;",
        )
        .unwrap();
    drop(connection);
    std::fs::read(path).unwrap()
}

fn opened(directory: &TempDir, bytes: &[u8]) -> File {
    let path = directory.path().join("opened.db");
    std::fs::write(&path, bytes).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

fn clear_all(pages: &Pages<'_>) -> io::Result<u32> {
    let mut cleared = 0;
    let mut clear = |free: &FreeRange| pages.clear(free).map(|dirty| cleared += u32::from(dirty));
    let FreeList { pages: mut free, rests } = pages.free_list()?;
    rests.iter().try_for_each(&mut clear)?;
    let in_use: Vec<_> = (1..=pages.count).filter(|&page| !free.contains(page)).collect();
    while let Some(page) = free.take() {
        clear(&pages.whole(page))?;
    }
    for number in in_use {
        pages.free_ranges(number)?.iter().try_for_each(&mut clear)?;
    }
    Ok(cleared)
}

fn contents(path: &std::path::Path) -> (String, Vec<(i64, String, String)>) {
    let connection = Connection::open(path).unwrap();
    let check = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    let mut select = connection.prepare("SELECT n, text, other FROM t").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    (check, rows.collect::<rusqlite::Result<_>>().unwrap())
}

#[test]
fn what_is_cleared_holds_nothing() {
    let directory = TempDir::new().unwrap();
    let bytes = file(&directory);
    let file = opened(&directory, &bytes);
    let pages = Pages::of(&file, u32::try_from(PAGE).unwrap()).unwrap();
    assert!(clear_all(&pages).unwrap() > 50);
    assert_eq!(clear_all(&pages).unwrap(), 0, "once is enough");
    let (check, rows) = contents(&directory.path().join("opened.db"));
    assert_eq!(check, "ok");
    assert_eq!(rows, contents(&directory.path().join("file.db")).1);
}

#[test]
fn damaged_pages_are_an_error_and_no_panic() {
    let directory = TempDir::new().unwrap();
    let bytes = file(&directory);
    let damage = prop::collection::vec((0..bytes.len(), any::<u8>()), 1..40);
    let run = TestRunner::default().run(&damage, |damage| {
        let mut bytes = bytes.clone();
        for (at, byte) in damage {
            // More often where pages say what they hold.
            let at = if byte % 2 == 0 { at / PAGE * PAGE + at % 12 } else { at };
            bytes[at] = byte;
        }
        let file = opened(&directory, &bytes);
        let _ = Pages::of(&file, u32::try_from(PAGE).unwrap()).and_then(|pages| clear_all(&pages));
        Ok(())
    });
    run.unwrap();
}
