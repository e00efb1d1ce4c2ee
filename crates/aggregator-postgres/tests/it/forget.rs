//! Forgetting identities: while connections are cut, beside other nodes, and for roles with few rights.

mod damaged;
mod plans;

use aggregator_core::{
    CheckedRow, DedupStore, DedupStoreExt, EventId, Identity, Import, Kept, Partition, Query, RowLimit,
    StoreError, StoredRow, Timestamp, Topic, TopicQuery,
};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::proxy::{Cut, Proxy};
use crate::support::{OtherSession, alone, append, events, open, options, stored};

/// A time behind all events.
fn end() -> Timestamp {
    Timestamp::from_micros(i64::MAX)
}

fn t() -> Topic {
    Topic::new("t").unwrap()
}

/// Events 1 to `last` of the topic `t`, of which the first ones are purged, and one of another topic.
fn fill(store: &PostgresStore, last: u32, purged: u64) {
    append(store, &events("t", 1..=last));
    append(store, &events("u", 0..1));
    store.purge(&t(), purged).unwrap();
}

fn forget(store: &PostgresStore, most: u64) -> u64 {
    store.forget_identities(&t(), end(), most).unwrap()
}

fn forgettable(store: &PostgresStore) -> u64 {
    store.forget().unwrap().forgettable_identities(&t(), end(), u64::MAX).unwrap()
}

fn assert_sound(store: &PostgresStore) {
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

fn all_rows(store: &PostgresStore) -> Vec<(u64, StoredRow)> {
    store.rows(Partition(0), 0, RowLimit::default()).unwrap()
}

fn mark(seq: u64) -> CheckedRow {
    let kept = Kept::Forgotten { seq };
    StoredRow { event_id: String::new(), kept, ..alone("t", "a").into_inner() }.check().unwrap()
}

/// Forgets the tables that newer programs have added, as a program of version 2 left them.
fn without_table(server: &TestServer, schema: &str) {
    server.sql(&format!(
        "SET search_path = {schema}; DROP TABLE forgotten; UPDATE meta SET value = '2' WHERE name = 'tables_version'"
    ));
}

#[test]
fn a_slice_whose_answer_is_lost_is_counted_once() {
    let Some(server) = TestServer::shared() else { return };
    for cut in [Cut::BeforeCommit, Cut::WithCommit, Cut::BeforeAnswer] {
        let proxy = Proxy::new(server);
        let store = open(&proxy.url(), &options());
        fill(&store, 2_600, 2_500);
        proxy.cut(cut, 2);
        assert_eq!(forget(&store, 1_200), 1_200, "{cut:?}");
        assert_eq!(proxy.cuts(), 2, "{cut:?}");
        assert_sound(&store);
        assert_eq!(forgettable(&store), 1_300, "{cut:?}");
        proxy.cut(cut, 1);
        assert_eq!(forget(&store, u64::MAX), 1_300, "{cut:?}");
        assert_eq!(forget(&store, u64::MAX), 0, "{cut:?}");
        assert_eq!(stored(&append(&store, &events("t", 1..=2_600))), 2_500, "{cut:?}");
        assert_sound(&store);
    }
}

#[test]
fn a_mark_whose_answer_is_lost_is_imported_once() {
    let Some(server) = TestServer::shared() else { return };
    for cut in [Cut::BeforeCommit, Cut::WithCommit, Cut::BeforeAnswer] {
        let proxy = Proxy::new(server);
        let store = open(&proxy.url(), &options());
        store.import(Partition(0), Import::rows(&[alone("t", "a")])).unwrap();
        assert_eq!(forget(&store, 1), 0, "it is the newest row");
        append(&store, &events("u", 0..1));
        assert_eq!(forget(&store, 1), 1);
        proxy.cut(cut, 2);
        // This mark is put where one of identities alone was.
        let imported = store.import(Partition(0), Import::rows(&[mark(7), alone("t", "b")])).unwrap();
        assert_eq!((imported.added + imported.present, proxy.cuts()), (2, 2), "{cut:?}");
        assert_sound(&store);
        let rows = all_rows(&store);
        let kept: Vec<_> = rows.iter().map(|(offset, row)| (*offset, row.seq())).collect();
        assert_eq!(kept, [(2, Some(1)), (3, Some(7)), (4, None)], "{cut:?}");
        assert_eq!(append(&store, &events("t", 1..2))[0].seq, Some(8));
        assert_eq!(store.stats().unwrap().stored, 9);
    }
}

/// A mark that was imported has an offset and no row, and can be the newest of its partition.
#[test]
fn a_partition_may_end_with_a_mark() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    append(&store, &events("u", 0..1));
    let before = store.read(&Query::topic(Topic::new("u").unwrap())).unwrap().next;
    store.import(Partition(0), Import::rows(&[mark(3)])).unwrap();
    assert_sound(&store);
    assert_eq!(all_rows(&store).len(), 2);
    let of_u = |after| store.read(&Query { after, ..Query::topic(Topic::new("u").unwrap()) }).unwrap();
    assert!(of_u(Some(before)).caught_up);
    // A cursor that begins at the mark goes on behind it.
    let newest = Query { order: aggregator_core::Order::Descending, ..Query::topic(t()) };
    assert!(store.read(&newest).unwrap().events.is_empty());
    let end = store.read(&Query::topic(t())).unwrap().next;
    append(&store, &events("t", 0..1));
    let page = store.read(&Query { after: Some(end), ..Query::topic(t()) }).unwrap();
    assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [4]);
    assert_sound(&store);
}

#[test]
fn nodes_that_forget_and_append_together_do_not_meet() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let nodes = [open(&server.url(), &options), open(&server.url(), &options), open(&server.url(), &options)];
    fill(&nodes[0], 4_000, 3_900);
    let forgotten = std::thread::scope(|scope| {
        let forgetting = [&nodes[0], &nodes[1]].map(|node| scope.spawn(|| forget(node, u64::MAX)));
        for id in 0..20 {
            append(&nodes[2], &events("v", id..=id));
        }
        forgetting.map(|node| node.join().unwrap()).iter().sum::<u64>()
    });
    assert_eq!(forgotten, 3_900);
    assert_sound(&nodes[2]);
    let rows = all_rows(&nodes[2]);
    assert_eq!(rows.len(), 1 + 100 + 1 + 20, "a mark, events of t, and events of the other topics");
}

/// An append that was committed is not stored again when it is tried again, whatever became of its events.
#[test]
fn an_attempt_whose_events_were_forgotten_is_refused() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    let batch = events("t", 0..2);
    let views: Vec<_> = batch.iter().map(aggregator_core::Event::view).collect();
    let attempt = aggregator_core::AttemptId::new();
    store.append(Partition(0), attempt, &views).unwrap();
    append(&store, &events("u", 0..1));
    store.purge(&t(), 2).unwrap();
    assert_eq!(forget(&store, u64::MAX), 2);
    let error = store.append(Partition(0), attempt, &views).unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    assert_eq!(store.stats().unwrap().stored, 3);
}

#[test]
fn a_role_that_may_not_add_the_table_does_everything_else() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let owner = open(&server.url(), &options);
    fill(&owner, 10, 5);
    without_table(server, &options.schema);
    drop(owner);
    let (schema, role) = (&options.schema, format!("keeper_{}", options.schema));
    server.sql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
    ));
    let store = open(&server.url_of(&role), &options);
    assert!(store.forget().is_none() && store.records().is_some());
    assert!(store.warnings().iter().any(|it| it.contains("cannot be forgotten")), "{:?}", store.warnings());
    let everything = |store: &PostgresStore| {
        append(store, &events("t", 0..1));
        let rows: Vec<_> = all_rows(store).into_iter().map(|(_, row)| row.check().unwrap()).collect();
        assert_eq!(store.import(Partition(0), Import::rows(&rows)).unwrap().added, 0);
        assert_eq!(store.topics(&TopicQuery { times: true, ..TopicQuery::default() }).unwrap().len(), 2);
        assert_eq!(store.read(&Query::topic(t())).unwrap().events.len(), 6);
    };
    everything(&store);
    assert_sound(&store);
    let error = store.import(Partition(0), Import::rows(&[mark(3)])).unwrap_err();
    assert!(matches!(error, StoreError::Unsupported { .. }), "{error}");
    // A role with the right adds the table.
    assert_eq!(forget(&open(&server.url(), &options), 1), 1);
    // A node of before cannot know what was forgotten, and does not take it for damage.
    let error = store.rows(Partition(0), 0, RowLimit::default()).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("restart this node"), "{error}");
    let store = open(&server.url_of(&role), &options);
    let error = store.forget_identities(&t(), end(), 1).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("permission denied"), "{error}");
    server.sql(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.forgotten TO {role}"));
    assert_eq!(forget(&store, u64::MAX), 4);
    assert_eq!(stored(&append(&store, &events("t", 1..=5))), 5);
    assert_sound(&store);
}

/// What appends and reads do in a store that was never asked to forget needs nothing of the table.
#[test]
fn the_table_is_not_used_before_something_is_forgotten() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let store = open(&server.url(), &options);
    fill(&store, 10, 0);
    let mut locked = OtherSession::new(server);
    locked.sql(&format!("BEGIN; LOCK TABLE {}.forgotten IN ACCESS EXCLUSIVE MODE;", options.schema));
    append(&store, &events("t", 0..20));
    let page = store.read(&Query { limit: 5, ..Query::topic(t()) }).unwrap();
    assert_eq!(store.read(&Query { after: Some(page.next), ..Query::topic(t()) }).unwrap().events.len(), 15);
    let rows: Vec<_> = all_rows(&store).into_iter().map(|(_, row)| row.check().unwrap()).collect();
    assert_eq!(store.import(Partition(0), Import::rows(&rows)).unwrap().added, 0);
    assert_eq!(store.topics(&TopicQuery { times: true, ..TopicQuery::default() }).unwrap().len(), 2);
    let id = Identity { topic: t(), event_id: EventId::new("1").unwrap(), source: None };
    assert!(store.lookup(std::slice::from_ref(&id)).unwrap()[0].is_some());
    store.erase(std::slice::from_ref(&id)).unwrap();
    store.release(&[id]).unwrap();
    assert_eq!(store.purge(&t(), 3).unwrap(), 3);
}

#[test]
fn a_read_only_store_counts_and_reads_marks_and_forgets_nothing() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let store = open(&server.url(), &options);
    fill(&store, 10, 5);
    forget(&store, 3);
    let (schema, role) = (&options.schema, format!("counter_{}", options.schema));
    server.sql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"
    ));
    let reader = open(&server.url_of(&role), &PostgresOptions { read_only: true, ..options.clone() });
    assert_eq!(forgettable(&reader), 2);
    assert_eq!(all_rows(&reader), all_rows(&store));
    assert_sound(&reader);
    let error = reader.forget_identities(&t(), end(), 1).unwrap_err();
    assert!(matches!(error, StoreError::Unsupported { .. }), "{error}");
}

/// Rows are deleted by their keys there. Only the name of Citus is there.
#[test]
fn an_engine_with_shards_forgets_by_keys() {
    let Some(server) = TestServer::shared_own() else { return };
    server.sql("CREATE DATABASE keyed");
    let url = server.url().replace("/postgres", "/keyed");
    OtherSession::new(server)
        .sql("\\connect keyed\nUPDATE pg_extension SET extname = 'citus' WHERE extname = 'plpgsql';");
    let store = open(&url, &options());
    assert!(store.across().is_none());
    fill(&store, 1_600, 1_500);
    assert_eq!(forget(&store, u64::MAX), 1_500);
    assert_eq!(stored(&append(&store, &events("t", 1..=1_600))), 1_500);
    assert_sound(&store);
}

#[test]
fn rows_are_read_in_bounds_around_what_was_forgotten() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    for id in 1..=6 {
        append(&store, &events("t", id..=id));
        append(&store, &events("u", id..=id));
    }
    store.purge(&t(), 4).unwrap();
    store.purge(&Topic::new("u").unwrap(), 2).unwrap();
    forget(&store, u64::MAX);
    store.forget_identities(&Topic::new("u").unwrap(), end(), u64::MAX).unwrap();
    // Offsets 1 to 5 and 7 have no row. The marks are at 4 and 7.
    let read = |after, rows, payload_bytes| {
        let rows = store.rows(Partition(0), after, RowLimit { rows, payload_bytes }).unwrap();
        rows.into_iter().map(|(offset, row)| (offset, row.is_forgotten())).collect::<Vec<_>>()
    };
    assert_eq!(read(0, 1, usize::MAX), [(4, true)]);
    assert_eq!(read(0, 3, usize::MAX), [(4, true), (6, false), (7, true)]);
    assert_eq!(read(4, 3, usize::MAX), [(6, false), (7, true), (8, false)]);
    assert_eq!(read(6, 2, usize::MAX), [(7, true), (8, false)]);
    assert_eq!(read(7, 2, usize::MAX), [(8, false), (9, false)]);
    assert_eq!(read(0, 10, 1), [(4, true), (6, false)]);
    assert_eq!(read(6, 10, 1), [(7, true), (8, false)]);
    assert_eq!(read(2, usize::MAX, usize::MAX).len(), 8);
    assert_eq!(read(12, 10, 10), []);
}
