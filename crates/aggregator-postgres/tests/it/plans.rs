//! Appends and imports stay quick whatever the statistics say: on tables that were empty when their statements were
//! planned, and on tables that were small when they were last looked at.

use std::time::{Duration, Instant};

use aggregator_core::{DedupStore, Import, Partition, Topic};
use aggregator_postgres::test_server::TestServer;

use crate::support::{alone, append, events, open, options, stored};

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
