//! Calls read no more than they have to, whatever the planner's statistics say: on tables that were empty when the
//! statements were planned, and on tables that were small when they were last analyzed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aggregator_core::store::{RecordOutcome, RecordWrite};
use aggregator_core::{
    Clock, DedupStore, DedupStoreExt, Event, EventId, Identity, Import, Order, Partition, Query, Timestamp,
    Topic, TopicInfo, TopicQuery, TopicSelector, Topics,
};
use aggregator_postgres::PostgresOptions;
use aggregator_postgres::test_server::TestServer;

use crate::support::{alone, append, await_that, events, open, options, stored};

const ROWS: u32 = 10_000;

/// How many index entries were read, and how many rows in sequential scans. Waits until the schema's sessions have
/// ended, because only then the statistics are complete.
pub(crate) fn read_by_now(server: &TestServer, schema: &str, table: &str) -> u64 {
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{schema}'");
    await_that("the sessions' end", || server.sql(&sessions) == "0");
    let of = |column: &str, statistics: &str| {
        let read = format!(
            "SELECT sum({column}) FROM {statistics} WHERE relname = '{table}' AND schemaname = '{schema}'"
        );
        server.sql(&read).parse::<u64>().unwrap()
    };
    of("idx_tup_read", "pg_stat_user_indexes") + of("seq_tup_read", "pg_stat_user_tables")
}

#[test]
fn plans_do_not_depend_on_what_the_tables_held() {
    let Some(server) = TestServer::shared_own() else { return };
    for analyzed in [false, true] {
        let options = options();
        let store = open(&server.url(), &options);
        append(&store, &events("t", 0..10));
        if analyzed {
            server.sql(&format!("ANALYZE {0}.events; ANALYZE {0}.topics", options.schema));
        }
        // The tables are not analyzed again.
        server.sql(&format!("ALTER TABLE {}.events SET (autovacuum_enabled = off)", options.schema));
        assert_eq!(stored(&append(&store, &events("t", 0..ROWS))), 9_990);
        assert_eq!(stored(&append(&store, &events("t", 0..ROWS))), 0);
        let ids: Vec<_> = (0..ROWS).map(|id| alone("t", &format!("alone-{id}"))).collect();
        assert_eq!(store.import(Partition(0), Import::rows(&ids)).unwrap().added, u64::from(ROWS));
        assert_eq!(store.import(Partition(0), Import::rows(&ids)).unwrap().present, u64::from(ROWS));
        assert_eq!(store.purge(&Topic::new("t").unwrap(), 3_000).unwrap(), 3_000);
        drop(store);
        let read = read_by_now(server, &options.schema, "events");
        // One for each of 20,010 repeats, and four for each of 3,000 purged events. A scan of the partition for each
        // identity would read hundreds of millions.
        assert!((20_000..100_000).contains(&read), "{read} entries were read, analyzed: {analyzed}");
    }
}

#[test]
fn a_purge_reads_what_it_purges_and_not_the_partition() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let schema = &options.schema;
    let store = open(&server.url(), &options);
    server.sql(&format!("ALTER TABLE {schema}.events SET (autovacuum_enabled = off)"));
    // The statements are planned while the table is almost empty, and the table is not analyzed later.
    append(&store, &events("t", 0..2));
    assert_eq!(store.purge(&Topic::new("t").unwrap(), 1).unwrap(), 1);
    append(&store, &events("t", 2..ROWS));
    append(&store, &events("u", 0..ROWS));
    assert_eq!(store.purge(&Topic::new("t").unwrap(), 3_001).unwrap(), 3_000);
    drop(store);
    let entries = read_by_now(server, schema, "events");
    // Each event is found once, its payload is fetched, and the update finds it twice.
    assert!((12_000..15_000).contains(&entries), "{entries} index entries were read to purge 3,000 events");
}

#[test]
fn erasing_and_releasing_read_their_own_rows() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions { append_connections: 1, ..options() };
    let schema = &options.schema;
    let store = open(&server.url(), &options);
    server.sql(&format!("ALTER TABLE {schema}.events SET (autovacuum_enabled = off)"));
    let identity = |id: u32| {
        let (topic, event_id) = (Topic::new("t").unwrap(), EventId::new(id.to_string()).unwrap());
        Identity { topic, event_id, source: None }
    };
    // The statements are planned while the table is almost empty, and the table is not analyzed later.
    append(&store, &events("t", 0..2));
    server.sql(&format!("ANALYZE {schema}.events; ANALYZE {schema}.topics"));
    store.erase(&[identity(0)]).unwrap();
    store.release(&[identity(1)]).unwrap();
    append(&store, &events("t", 2..ROWS));
    let ids: Vec<_> = (1_000..2_000).map(identity).collect();
    for ids in ids.chunks(10) {
        store.erase(ids).unwrap();
        store.release(ids).unwrap();
    }
    assert_eq!(stored(&append(&store, &events("t", 1_000..2_000))), 1_000);
    assert!(store.erase(&ids).unwrap().iter().all(|erased| erased.seqs.len() == 2));
    drop(store);
    let entries = read_by_now(server, schema, "events");
    // Each row is found by its identity, and twice for the update, beside its old versions. A scan of the topic for each
    // call would read two million.
    assert!((8_000..50_000).contains(&entries), "{entries} entries were read");
}

#[test]
fn records_are_found_by_their_names_and_not_by_their_kind() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions { append_connections: 1, read_connections: 1, ..options() };
    let schema = &options.schema;
    let store = open(&server.url(), &options);
    let records = store.records().unwrap();
    let write = |writes: &[RecordWrite]| {
        let outcome = records.write(writes).unwrap();
        assert!(matches!(outcome, RecordOutcome::Written(_)), "{outcome:?}");
    };
    let get = |n: u32| records.get("k", &format!("{n:05}")).unwrap().unwrap();
    server.sql(&format!("ALTER TABLE {schema}.records SET (autovacuum_enabled = off)"));
    // The statements are planned while the table is almost empty, and the table is not analyzed later.
    write(&[RecordWrite::create("k", "first", "")]);
    write(&[RecordWrite::delete(&records.get("k", "first").unwrap().unwrap())]);
    let all: Vec<_> = (0..ROWS).map(|n| RecordWrite::create("k", format!("{n:05}"), "")).collect();
    all.chunks(1_000).for_each(write);
    for n in 0..300 {
        write(&[RecordWrite::update(&get(n), "1")]);
    }
    write(&(300..800).map(|n| RecordWrite::delete(&get(n))).collect::<Vec<_>>());
    for n in 0..100 {
        let listed = records.list("k", "0", Some(&format!("{:05}", n * 90)), 10).unwrap();
        assert_eq!(listed.len(), 10);
    }
    drop(store);
    let read = read_by_now(server, schema, "records");
    // Each changed record is read a few times, and 1,000 are listed. A scan of the kind for each record would read
    // millions.
    assert!((1_000..30_000).contains(&read), "{read} entries were read");
}

#[test]
fn a_page_behind_a_cursor_reads_its_own_rows() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions { append_connections: 1, read_connections: 1, ..options() };
    let schema = &options.schema;
    let store = open(&server.url(), &options);
    server.sql(&format!("ALTER TABLE {schema}.events SET (autovacuum_enabled = off)"));
    server.sql(&format!("ALTER TABLE {schema}.topics SET (autovacuum_enabled = off)"));
    // The statements are planned while the tables are almost empty, and they are not analyzed later.
    append(&store, &events("t", 0..2));
    let page = |after| store.read(&Query { after, limit: 10, ..Query::of(TopicSelector::All) }).unwrap();
    page(Some(page(None).next));
    let many = (0..ROWS).map(|n| Event::new(format!("t.{}", n % 1_000), n.to_string()).unwrap());
    append(&store, &many.collect::<Vec<_>>());
    let read = (0..100).fold(None, |after, _| Some(page(after).next));
    assert!(read.is_some());
    drop(store);
    for table in ["events", "topics"] {
        let entries = read_by_now(server, schema, table);
        // For each of 1,000 events: its place, its body and its topic. For each page also the row at the cursor.
        assert!(
            (1_000..10_000).contains(&entries),
            "{entries} entries of {table} were read for 100 pages of 10"
        );
    }
}

#[test]
fn a_page_of_rare_topics_or_of_a_late_time_reads_its_own_rows() {
    let Some(server) = TestServer::shared_own() else { return };
    let now = Arc::new(AtomicI64::new(1));
    let clock = Arc::clone(&now);
    let clock: Clock = Arc::new(move || Timestamp::from_micros(clock.load(Ordering::SeqCst)));
    let options =
        PostgresOptions { append_connections: 1, read_connections: 1, clock: Some(clock), ..options() };
    let schema = &options.schema;
    let store = open(&server.url(), &options);
    server.sql(&format!("ALTER TABLE {schema}.events SET (autovacuum_enabled = off)"));
    append(&store, &events("t", 0..ROWS));
    append(&store, &events("rare.a", 0..5));
    append(&store, &events("t", ROWS..2 * ROWS));
    now.store(2, Ordering::SeqCst);
    append(&store, &events("rare.b", 0..5));
    append(&store, &events("t", 2 * ROWS..2 * ROWS + 100));
    let rare = Query { limit: 10, ..Query::of("rare.*".parse::<Topics>().unwrap()) };
    let late = Query { limit: 10, since: Some(Timestamp::from_micros(2)), ..Query::of(TopicSelector::All) };
    for _ in 0..100 {
        for query in [&rare, &late] {
            assert_eq!(store.read(query).unwrap().events.len(), 10);
        }
    }
    drop(store);
    let entries = read_by_now(server, schema, "events");
    // Each page reads the places and bodies of ten events. It also reads ten rows to decide how to scan, or fifteen to
    // find the time.
    assert!((2_000..15_000).contains(&entries), "{entries} entries were read for 200 pages of 10");
}

#[test]
fn events_with_an_id_are_found_by_their_identity() {
    let Some(server) = TestServer::shared_own() else { return };
    for analyzed in [false, true] {
        let options = PostgresOptions { append_connections: 1, read_connections: 1, ..options() };
        let store = open(&server.url(), &options);
        append(&store, &events("t", 0..ROWS));
        append(&store, &events("u", 0..ROWS));
        if analyzed {
            server.sql(&format!("ANALYZE {0}.events; ANALYZE {0}.topics", options.schema));
        }
        server.sql(&format!("ALTER TABLE {}.events SET (autovacuum_enabled = off)", options.schema));
        for id in (0..ROWS).step_by(100) {
            let event_id = EventId::new(id.to_string()).ok();
            for order in [Order::Ascending, Order::Descending] {
                let query =
                    Query { event_id: event_id.clone(), order, ..Query::topic(Topic::new("u").unwrap()) };
                assert_eq!(store.read(&query).unwrap().events.len(), 1);
            }
        }
        drop(store);
        // The place and the body of each of 200 pages, and the rows at the ends of the partition.
        let entries = read_by_now(server, &options.schema, "events");
        assert!((400..2_000).contains(&entries), "{entries} entries were read, analyzed: {analyzed}");
    }
}

#[test]
fn a_page_of_topics_reads_its_own_topics_and_an_event_from_each_end() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions { append_connections: 1, read_connections: 1, ..options() };
    let schema = &options.schema;
    let store = open(&server.url(), &options);
    let query =
        TopicQuery { limit: 10, times: true, ..TopicQuery::of("other,rare.*".parse::<Topics>().unwrap()) };
    // The statement is planned while the tables are almost empty, and they are not analyzed later.
    append(&store, &events("rare.0", 0..1));
    assert_eq!(store.topics(&query).unwrap().len(), 1);
    for table in ["events", "topics"] {
        server.sql(&format!("ANALYZE {schema}.{table}"));
        server.sql(&format!("ALTER TABLE {schema}.{table} SET (autovacuum_enabled = off)"));
    }
    let named = |name: &str, count: u32, rows: u32| {
        let many = (0..rows).map(|n| Event::new(format!("{name}.{}", n % count), n.to_string()).unwrap());
        append(&store, &many.collect::<Vec<_>>());
    };
    named("a", 2_000, 2_000);
    named("rare", 20, ROWS);
    named("z", 2_000, 2_000);
    store.purge(&Topic::new("rare.0").unwrap(), 100).unwrap();
    for _ in 0..100 {
        let page = store.topics(&query).unwrap();
        let complete =
            |info: &TopicInfo| info.first_processed_at.is_some() && info.last_processed_at.is_some();
        assert!(page.len() == 10 && page.iter().all(complete));
    }
    drop(store);
    // Ten topics a page, and the reads by the appends of 4,020 topics. A scan would read hundreds of thousands.
    let entries = read_by_now(server, schema, "topics");
    assert!((1_000..15_000).contains(&entries), "{entries} entries of topics were read for 100 pages of 10");
    // Two for each topic, and the purged events. A rare topic has 500 events.
    let entries = read_by_now(server, schema, "events");
    assert!((2_000..4_000).contains(&entries), "{entries} entries of events were read for 100 pages of 10");
}

#[test]
fn the_times_of_a_topic_pass_over_a_bounded_number_of_identities() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions { append_connections: 1, read_connections: 1, ..options() };
    let store = open(&server.url(), &options);
    let import = |ids: std::ops::Range<u32>| {
        let rows: Vec<_> = ids.map(|id| alone("t", &format!("alone-{id}"))).collect();
        store.import(Partition(0), Import::rows(&rows)).unwrap();
    };
    let query = TopicQuery { times: true, ..TopicQuery::default() };
    let times = || {
        let info = store.topics(&query).unwrap().remove(0);
        (info.first_processed_at.is_some(), info.last_processed_at.is_some())
    };
    import(0..1_000);
    append(&store, &events("t", 0..1));
    assert_eq!(times(), (true, true));
    import(1_000..2_001);
    assert_eq!(times(), (true, false));
    append(&store, &events("t", 1..2));
    store.purge(&Topic::new("t").unwrap(), 1).unwrap();
    for _ in 0..10 {
        assert_eq!(times(), (false, true));
    }
    drop(store);
    let entries = read_by_now(server, &options.schema, "events");
    assert!(entries < 20_000, "{entries} entries were read");
}
