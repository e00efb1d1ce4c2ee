//! Forgetting, and reading what was forgotten, read no more than they have to: see `plans.rs` of the other calls.

use std::ops::RangeInclusive;

use aggregator_core::{
    DedupStore, DedupStoreExt, Import, Kept, Partition, Query, RowLimit, StoredRow, Times, Timestamp,
    TopicQuery, TopicSelector,
};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use super::{forget, forgettable, t};
use crate::plans::read_by_now;
use crate::support::{alone, append, events, open, options};

/// Imports stubs of the topic `t` with these seqs.
fn import(store: &PostgresStore, seqs: RangeInclusive<u64>) {
    let stub = |seq: u64| {
        let kept = Kept::Stub { seq, digest: [0; 16] };
        StoredRow { kept, ..alone("t", &format!("stub-{seq}")).into_inner() }.check().unwrap()
    };
    let rows: Vec<_> = seqs.map(stub).collect();
    let import = Import { times: Times::Raise, ..Import::rows(&rows) };
    assert_eq!(store.import(Partition(0), import).unwrap().added, rows.len() as u64);
}

#[test]
fn forgetting_reads_the_rows_of_its_topic_and_not_the_partition() {
    let Some(server) = TestServer::shared_own() else { return };
    for analyzed in [false, true] {
        let options = PostgresOptions { append_connections: 1, read_connections: 1, ..options() };
        let schema = &options.schema;
        let store = open(&server.url(), &options);
        // The statements are planned while the table is small, and the table is not analyzed later. At this size, the
        // index of offsets has one page and that of topics two, so to the planner the first one is better for all that
        // both can do.
        import(&store, 1..=3);
        append(&store, &events("u", 0..257));
        if analyzed {
            server.sql(&format!("ANALYZE {schema}.events; ANALYZE {schema}.topics"));
        }
        server.sql(&format!("ALTER TABLE {schema}.events SET (autovacuum_enabled = off)"));
        assert_eq!((forgettable(&store), forget(&store, 1)), (3, 1));
        // A tenth of the rows are of the topic, and lie between others. They come as stubs: a purge would leave older
        // versions of them in the index.
        for n in 1..=40_u32 {
            let first = u64::from(n) * 100;
            import(&store, first - 96..=first + 3);
            append(&store, &events("u", n * 900..(n + 1) * 900));
        }
        append(&store, &events("t", 0..1_000));
        append(&store, &events("u", 0..1));
        assert_eq!(forgettable(&store), 4_002);
        assert_eq!(forget(&store, 1_200), 1_200);
        assert_eq!(forget(&store, u64::MAX), 2_802);
        drop(store);
        let entries = read_by_now(server, schema, "events");
        // One to count each row, and two to forget it: once to see it, once to delete it. The first rows are seen once more
        // by the second call, and 1,000 are looked at behind the last ones. A scan of the partition would read nine rows of
        // the other topic for each of them.
        assert!((12_000..18_000).contains(&entries), "{entries} entries were read, analyzed: {analyzed}");
    }
}

#[test]
fn what_was_forgotten_is_found_by_its_place_and_not_among_all_marks() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions { append_connections: 1, read_connections: 1, ..options() };
    let schema = &options.schema;
    let store = open(&server.url(), &options);
    append(&store, &events("t", 0..3));
    let end = store.read(&Query::of(TopicSelector::All)).unwrap().next;
    append(&store, &events("u", 0..3));
    store.purge(&t(), 3).unwrap();
    assert_eq!(forget(&store, 1), 1);
    server.sql(&format!(
        "ALTER TABLE {schema}.forgotten SET (autovacuum_enabled = off);
         INSERT INTO {schema}.forgotten SELECT 0, n, 0, 0, 1, 0 FROM generate_series(1000, 10000) AS n"
    ));
    assert_eq!(forget(&store, u64::MAX), 2);
    let all = TopicQuery { times: true, ..TopicQuery::default() };
    for _ in 0..100 {
        let query = Query { after: Some(end.clone()), ..Query::of(TopicSelector::All) };
        // It stands at the row, so it is asked whether that was forgotten.
        assert_eq!(store.read(&query).unwrap().events.len(), 3);
        assert_eq!(store.rows(Partition(0), 2, RowLimit::default()).unwrap().len(), 4);
        assert!(store.topics(&all).unwrap()[0].last_processed_at > Some(Timestamp::from_micros(1)));
    }
    drop(store);
    let entries = read_by_now(server, schema, "forgotten");
    assert!((300..3_000).contains(&entries), "{entries} marks were read");
}
