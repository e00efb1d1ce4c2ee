//! What an erasure leaves in the files of the table. `docs/postgres.md` says so.

use std::fs;

use aggregator_core::DedupStoreExt;
use aggregator_postgres::test_server::TestServer;

use super::{erase, event, identity};
use crate::support::{OtherSession, append, await_that, open, options};

const SECRET: &str = "what-has-to-go";

/// How often the secret stands in the files of the table of events, of its long values, and of its indexes.
fn left(server: &TestServer, schema: &str) -> usize {
    server.sql("CHECKPOINT");
    let files = server.sql(&format!(
        "SELECT pg_relation_filepath(c.oid) FROM pg_class t JOIN pg_class c
             ON c.oid IN (t.oid, t.reltoastrelid)
             OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid IN (t.oid, t.reltoastrelid))
         WHERE t.oid = '{schema}.events'::regclass"
    ));
    let count = |file: &str| {
        let bytes = fs::read(server.directory().join("data").join(file)).unwrap();
        bytes.windows(SECRET.len()).filter(|window| *window == SECRET.as_bytes()).count()
    };
    files.lines().map(count).sum()
}

/// PostgreSQL does not write over old versions of rows, so only a table that is written anew has none of them; and only if
/// no older transaction may still read them.
#[test]
fn erased_payloads_are_in_the_files_until_the_table_is_written_anew() {
    // A transaction of another test would keep the old versions.
    let Some(server) = TestServer::start(&[]) else { return };
    let options = options();
    let schema = &options.schema;
    let store = open(&server.url(), &options);
    server.sql(&format!(
        "ALTER TABLE {schema}.events SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)"
    ));
    // Compressed values would not show the secret.
    server.sql(&format!("ALTER TABLE {schema}.events ALTER payload SET STORAGE EXTERNAL"));
    let all: Vec<_> = (0..1_000)
        .map(|n: usize| {
            let filler = "x".repeat(if n % 7 == 3 { 12_000 } else { n % 11 * 40 });
            event("t", n, &format!("\"{}-{filler}\"", if n.is_multiple_of(5) { SECRET } else { "other" }))
        })
        .collect();
    append(&store, &all);
    assert_eq!(left(&server, schema), 200);
    let standby = server.standby(&[]);
    assert_eq!(left(&standby, schema), 200);
    let mut reader = OtherSession::new(&server);
    reader.sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class LIMIT 1;");
    let ids: Vec<_> = (0..1_000).step_by(5).map(|n| identity("t", n)).collect();
    assert!(erase(&store, &ids).unwrap().iter().all(|seqs| seqs.len() == 1));
    assert_eq!(left(&server, schema), 200, "in the old versions");
    server.sql(&format!("VACUUM FULL {schema}.events"));
    assert_eq!(left(&server, schema), 200, "the reader could still ask for them");
    drop(reader);
    server.sql(&format!("VACUUM {schema}.events"));
    assert!(left(&server, schema) > 0, "in space that is free and was not used again");
    server.sql(&format!("VACUUM FULL {schema}.events"));
    assert_eq!(left(&server, schema), 0);
    await_that("the standby has written it anew, too", || {
        server.sql("SELECT bool_and(replay_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication") == "t"
    });
    assert_eq!(left(&standby, schema), 0);
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}
