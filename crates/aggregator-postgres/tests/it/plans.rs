//! Appends and imports stay quick whatever the statistics say: on tables that were empty when their statements were
//! planned, and on tables that were small when they were last looked at.

use std::time::{Duration, Instant};

use aggregator_core::{DedupStore, Import, Partition, Topic};
use aggregator_postgres::test_server::TestServer;

use crate::support::{alone, append, await_that, events, open, options, stored};

const ROWS: u32 = 10_000;
/// In a partition that is gone through for each identity it would take minutes.
const QUICK: Duration = Duration::from_secs(10);

#[test]
fn plans_do_not_depend_on_what_the_tables_held() {
    let Some(server) = TestServer::shared() else { return };
    for analyzed in [false, true] {
        let options = options();
        let store = open(&server.url(), &options);
        append(&store, &events("t", 0..10));
        if analyzed {
            server.sql(&format!("ANALYZE {0}.events; ANALYZE {0}.topics", options.schema));
        }
        // No later look at them.
        server.sql(&format!("ALTER TABLE {}.events SET (autovacuum_enabled = off)", options.schema));
        let started = Instant::now();
        assert_eq!(stored(&append(&store, &events("t", 0..ROWS))), 9_990);
        assert_eq!(stored(&append(&store, &events("t", 0..ROWS))), 0);
        let ids: Vec<_> = (0..ROWS).map(|id| alone("t", &format!("alone-{id}"))).collect();
        assert_eq!(store.import(Partition(0), Import::rows(&ids)).unwrap().added, u64::from(ROWS));
        assert_eq!(store.import(Partition(0), Import::rows(&ids)).unwrap().present, u64::from(ROWS));
        assert_eq!(store.purge(&Topic::new("t").unwrap(), 3_000).unwrap(), 3_000);
        assert!(started.elapsed() < QUICK, "{:?}, analyzed: {analyzed}", started.elapsed());
    }
}

#[test]
fn a_purge_reads_what_it_purges_and_not_the_partition() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let schema = &options.schema;
    let store = open(&server.url(), &options);
    server.sql(&format!("ALTER TABLE {schema}.events SET (autovacuum_enabled = off)"));
    // Its statements are planned while the table has next to nothing, and no later look at it changes that.
    append(&store, &events("t", 0..2));
    assert_eq!(store.purge(&Topic::new("t").unwrap(), 1).unwrap(), 1);
    append(&store, &events("t", 2..ROWS));
    append(&store, &events("u", 0..ROWS));
    assert_eq!(store.purge(&Topic::new("t").unwrap(), 3_001).unwrap(), 3_000);
    drop(store);
    // Sessions tell what they have read when they end.
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{schema}'");
    await_that("the sessions' end", || server.sql(&sessions) == "0");
    let entries = format!(
        "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'events' AND schemaname = '{schema}'"
    );
    let entries: u32 = server.sql(&entries).parse().unwrap();
    // An event is found, its payload fetched, and then it is found twice to be updated.
    assert!(
        (12_000..15_000).contains(&entries),
        "{entries} entries of indexes were read to purge 3,000 events"
    );
}
