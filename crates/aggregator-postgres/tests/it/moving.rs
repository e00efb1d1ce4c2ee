//! Imports while connections are cut and other nodes append, and how other calls handle imported rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aggregator_core::Outcome::{Conflict, Duplicate, Stored};
use aggregator_core::event::{ERASED_PAYLOAD, digest};
use aggregator_core::{
    AttemptId, CheckedRow, Clock, DedupStore, DedupStoreExt, Event, EventId, Identity, Import, Imported,
    Kept, KeptEvent, MemoryStore, Partition, Partitions, Query, RowLimit, Scope, StoreError, StoredRow,
    Timestamp, Topic, TopicQuery,
};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::proxy::{Cut, Proxy};
use crate::support::{append, assert_complete, await_that, events, open, options, stored};

const ALL: RowLimit = RowLimit { rows: usize::MAX, payload_bytes: usize::MAX };

fn record(id: u64, kept: Kept) -> StoredRow {
    StoredRow {
        topic: "t".into(),
        scope: None,
        event_id: id.to_string(),
        source: Some("s".into()),
        processed_at: Timestamp::from_micros(1_000),
        released: false,
        kept,
    }
}

fn payload(id: u64) -> String {
    format!("\"payload {id}\"")
}

/// The event with this id. Ids begin at 0 and seqs at 1.
fn event(id: u64) -> CheckedRow {
    let kept = KeptEvent {
        seq: id + 1,
        timestamp: "2026-01-01T00:00:00Z".into(),
        payload: payload(id),
        sequence: None,
        content_type: None,
        attributes: None,
    };
    record(id, Kept::Event(kept)).check().unwrap()
}

fn stub(id: u64) -> CheckedRow {
    record(id, Kept::Stub { seq: id + 1, digest: digest(&payload(id)) }).check().unwrap()
}

fn alone(id: u64) -> CheckedRow {
    record(id, Kept::Identity).check().unwrap()
}

fn import(store: &PostgresStore, rows: &[CheckedRow]) -> Result<Imported, StoreError> {
    store.import(Partition(0), Import::rows(rows))
}

fn sent(id: u64, payload: &str) -> Event {
    Event::new("t", id.to_string()).unwrap().with_payload(payload).unwrap()
}

#[test]
fn an_import_whose_answer_is_lost_is_run_again() {
    let Some(server) = TestServer::shared() else { return };
    for cut in [Cut::BeforeCommit, Cut::WithCommit, Cut::BeforeAnswer] {
        let proxy = Proxy::new(server);
        let store = open(&proxy.url(), &options());
        import(&store, &[stub(0), event(1)]).unwrap();
        proxy.cut(cut, 2);
        let Imported { added, present, .. } =
            import(&store, &[stub(0), event(1), event(2), event(3), alone(90)]).unwrap();
        assert_eq!((added + present, proxy.cuts()), (5, 2), "{cut:?}");
        assert_eq!(store.rows(Partition(0), 0, ALL).unwrap().len(), 5, "{cut:?}");
        assert_eq!(store.stats().unwrap().stored, 4, "{cut:?}");
        assert_eq!(store.verify().unwrap().faults, [""; 0], "{cut:?}");
    }
}

/// A row of an import can release a row that was there, or one that the same import adds, and the next one can have the
/// same identity.
#[test]
fn an_import_releases_what_was_there_and_what_it_adds() {
    let Some(server) = TestServer::shared() else { return };
    let released = |row: CheckedRow| StoredRow { released: true, ..row.into_inner() }.check().unwrap();
    // The identity of the first event again.
    let again = |seq: u64| StoredRow { event_id: "0".into(), ..event(seq - 1).into_inner() }.check().unwrap();
    let first = [event(0), released(event(0)), again(2), released(again(2)), again(3), alone(9)];
    let second = [released(again(3)), again(4), released(alone(9)), alone(9), released(stub(0))];
    let store = open(&server.url(), &options());
    let id = |id: &str| Identity {
        topic: Topic::new("t").unwrap(),
        event_id: EventId::new(id).unwrap(),
        source: None,
    };
    let seen = || store.lookup(&[id("0")]).unwrap()[0].unwrap().seq;
    for added in [4, 0] {
        assert_eq!(import(&store, &first).unwrap().added, added);
        assert_eq!(seen(), Some(3));
    }
    for added in [2, 0] {
        assert_eq!(import(&store, &second).unwrap().added, added);
        assert_eq!(seen(), Some(4));
    }
    let receipts = append(&store, &[sent(0, &payload(3)), sent(0, &payload(0)), sent(9, "7")]);
    let told: Vec<_> = receipts.iter().map(|receipt| (receipt.outcome, receipt.seq)).collect();
    assert_eq!(told, [(Duplicate, Some(4)), (Conflict, Some(4)), (Duplicate, None)]);
    let rows = store.rows(Partition(0), 0, ALL).unwrap();
    let rows: Vec<_> = rows.iter().map(|(_, row)| (row.seq(), row.released)).collect();
    let expected =
        [(Some(1), true), (Some(2), true), (Some(3), true), (None, true), (Some(4), false), (None, false)];
    assert_eq!(rows, expected);
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

#[test]
fn what_was_erased_here_is_what_another_store_has_or_has_left_of_it() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    import(&store, &[event(0), event(1)]).unwrap();
    let t = Topic::new("t").unwrap();
    let id = |id: &str| Identity { topic: t.clone(), event_id: EventId::new(id).unwrap(), source: None };
    store.erase(&[id("0"), id("1")]).unwrap();
    store.purge(&t, 1).unwrap();
    for copy in [[event(0), event(1)], [stub(0), stub(1)], [stub(0), event(1)]] {
        assert_eq!(import(&store, &copy).unwrap().present, 2);
    }
    assert_eq!(store.read(&Query::topic(t)).unwrap().events[0].payload, ERASED_PAYLOAD);
}

#[test]
fn an_import_and_appends_of_other_nodes_do_not_meet() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let nodes = [open(&server.url(), &options), open(&server.url(), &options)];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for first in (0..200).step_by(10) {
                import(&nodes[0], &(first..first + 10).map(|id| alone(1_000 + id)).collect::<Vec<_>>())
                    .unwrap();
            }
        });
        for id in 0..40 {
            append(&nodes[1], &events("t", id..=id));
        }
    });
    assert_complete(&nodes[1], 40);
    assert_eq!(nodes[0].rows(Partition(0), 0, ALL).unwrap().len(), 240);
}

#[test]
fn a_role_that_may_only_read_can_export_rows() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = options();
    let store = open(&server.url(), &options);
    import(&store, &[stub(0), event(1), alone(7)]).unwrap();
    let (schema, role) = (&options.schema, format!("exporter_{}", options.schema));
    server.sql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"
    ));
    let reader = open(&server.url_of(&role), &PostgresOptions { read_only: true, ..options.clone() });
    assert_eq!(reader.rows(Partition(0), 0, ALL).unwrap(), store.rows(Partition(0), 0, ALL).unwrap());
    let error = import(&reader, &[event(2)]).unwrap_err();
    assert!(matches!(error, StoreError::Unsupported { .. }), "{error}");
}

#[test]
fn a_row_that_is_missing_or_damaged_is_not_passed_over() {
    let Some(server) = TestServer::shared() else { return };
    for damage in [
        "DELETE FROM events WHERE \"offset\" = 1",
        "DELETE FROM events WHERE \"offset\" = 3",
        "DELETE FROM events WHERE \"offset\" = 5",
        "DELETE FROM topics",
        "UPDATE events SET payload = NULL WHERE seq = 4",
        "UPDATE events SET seq = NULL WHERE seq = 4",
        "UPDATE events SET digest = 'x' WHERE seq = 1",
        "UPDATE events SET digest = NULL WHERE seq = 1",
        "UPDATE topics SET scope = 7",
    ] {
        let options = options();
        let store = open(&server.url(), &options);
        import(&store, &[stub(0), event(1), event(2), event(3), event(4)]).unwrap();
        assert_eq!(store.rows(Partition(0), 0, ALL).unwrap().len(), 5);
        server.sql(&format!("SET search_path = {}; {damage}", options.schema));
        let error = store.rows(Partition(0), 0, ALL).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{damage}: {error}");
    }
}

#[test]
fn every_call_knows_what_to_do_with_rows_without_payloads() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    let (t, through) = (Topic::new("t").unwrap(), 4);
    import(
        &store,
        &[alone(90), stub(0), alone(91), event(1), alone(92), event(2), alone(93), event(3), event(4)],
    )
    .unwrap();
    let info = store.topics(&TopicQuery::default()).unwrap().remove(0);
    assert_eq!((info.last_seq, info.purged_seq), (5, 1));
    assert_eq!(store.purge(&t, through).unwrap(), 3, "identities alone have nothing to be purged");
    assert_eq!(store.purge(&t, through).unwrap(), 0);
    let page = store.read(&Query::topic(t.clone())).unwrap();
    assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [5]);
    let id = |id: u64| Identity {
        topic: t.clone(),
        event_id: EventId::new(id.to_string()).unwrap(),
        source: None,
    };
    let seen = store.lookup(&[id(0), id(2), id(4), id(92)]).unwrap();
    let seen: Vec<_> = seen.into_iter().map(|seen| seen.map(|seen| (seen.seq, seen.purged))).collect();
    assert_eq!(
        seen,
        [Some((Some(1), true)), Some((Some(3), true)), Some((Some(5), false)), Some((None, true))]
    );
    let receipts = append(
        &store,
        &[
            sent(0, &payload(0)),
            sent(0, "7"),
            sent(2, &payload(2)),
            sent(2, "7"),
            sent(91, "7"),
            sent(5, "7"),
        ],
    );
    let told: Vec<_> = receipts.iter().map(|receipt| (receipt.outcome, receipt.seq)).collect();
    let (one, three) = (Some(1), Some(3));
    let expected = [
        (Duplicate, one),
        (Conflict, one),
        (Duplicate, three),
        (Conflict, three),
        (Duplicate, None),
        (Stored, Some(6)),
    ];
    assert_eq!(told, expected);
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
    // The import has a stub, and the store has the payload: its digest is compared.
    assert_eq!(import(&store, &[stub(4)]).unwrap().present, 1);
    let other = record(4, Kept::Stub { seq: 5, digest: [7; 16] }).check().unwrap();
    assert!(matches!(import(&store, &[other]), Err(StoreError::Invalid(_))));
}

#[test]
fn the_time_of_imported_rows_does_not_forget_attempts() {
    let Some(server) = TestServer::shared() else { return };
    let store = open(&server.url(), &options());
    let (id, batch) = (AttemptId::new(), events("t", 0..3));
    let views: Vec<_> = batch.iter().map(Event::view).collect();
    let first = store.append(Partition(0), id, &views).unwrap();
    // The rows come from a store whose clock was a century ahead.
    let far = Timestamp::from_micros(first[0].processed_at.as_micros() + 100 * 365 * 86_400 * 1_000_000);
    let ahead = StoredRow { topic: "ahead".into(), processed_at: far, ..event(0).into_inner() };
    import(&store, &[ahead.check().unwrap()]).unwrap();
    assert_eq!(append(&store, &events("t", 3..4))[0].processed_at, far, "times do not go back");
    assert_eq!(store.append(Partition(0), id, &views).unwrap(), first);
}

/// The age of attempts is measured by the server's clock. By the partition's time, which the import set a century
/// ahead, they would be kept for a century.
#[test]
fn attempts_after_an_import_from_the_future_are_forgotten_as_others_are() {
    let Some(server) = TestServer::shared() else { return };
    const HOUR: i64 = 3_600_000_000;
    let now = Arc::new(AtomicI64::new(1_800_000_000_000_000));
    let told = Arc::clone(&now);
    let clock: Clock = Arc::new(move || Timestamp::from_micros(told.load(Ordering::SeqCst)));
    let options = PostgresOptions { clock: Some(clock), ..options() };
    let store = open(&server.url(), &options);
    let far = Timestamp::from_micros(now.load(Ordering::SeqCst) + 100 * 365 * 24 * HOUR);
    let ahead = StoredRow { topic: "ahead".into(), processed_at: far, ..event(0).into_inner() };
    import(&store, &[ahead.check().unwrap()]).unwrap();
    // The attempt's id decides whether an append deletes old attempts: one in 16 does.
    let lazy = || std::iter::repeat_with(AttemptId::new).find(|id| id.as_u128() % 16 != 0).unwrap();
    let forgetting = std::iter::repeat_with(AttemptId::new).find(|id| id.as_u128() % 16 == 0).unwrap();
    let append = |attempt, id| {
        let batch = events("t", id..=id);
        store.append(Partition(0), attempt, &batch.iter().map(Event::view).collect::<Vec<_>>()).unwrap()
    };
    for id in 0..3 {
        append(lazy(), id);
    }
    now.fetch_add(HOUR, Ordering::SeqCst);
    assert_eq!(append(forgetting, 3)[0].processed_at, far, "the partition's time is still ahead");
    let kept = server.sql(&format!("SELECT count(*) FROM {}.appends", options.schema));
    assert_eq!(kept, "1", "that of the last append alone");
}

#[test]
fn a_large_import_goes_in_batches_and_comes_back_whole() {
    let Some(server) = TestServer::shared() else { return };
    const ROWS: u64 = 20_000;
    let store = open(&server.url(), &options());
    let rows: Vec<_> = (0..ROWS).map(event).collect();
    for batch in rows.chunks(10_000) {
        assert_eq!(import(&store, batch).unwrap().added, 10_000);
    }
    for batch in rows.chunks(10_000) {
        assert_eq!(import(&store, batch).unwrap().present, 10_000);
    }
    let mut read = 0;
    loop {
        let rows = store.rows(Partition(0), read, RowLimit::default()).unwrap();
        let Some(&(last, _)) = rows.last() else { break };
        read = last;
    }
    assert_eq!(read, ROWS);
}

#[test]
fn an_import_is_announced_to_other_nodes() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions { poll_interval: Duration::from_secs(3_600), ..options() };
    let (one, other) = (open(&server.url(), &options), open(&server.url(), &options));
    let (send, heard) = std::sync::mpsc::channel();
    let _listener = other.on_commit(Box::new(move |_, offset| send.send(offset).unwrap()));
    let mut last = 0;
    let mut await_offset = |offset| {
        await_that("the other node announces it", || {
            last = heard.try_iter().last().unwrap_or(last);
            last == offset
        });
    };
    import(&one, &[event(0)]).unwrap();
    // The poll at the start may have found the first commit. From then on, only listening finds commits in time.
    await_offset(1);
    import(&one, &[event(0), event(1)]).unwrap();
    await_offset(2);
}

#[test]
fn random_sources_and_partitions_come_back_in_one_piece() {
    let Some(server) = TestServer::shared() else { return };
    let origin = MemoryStore::new(Partitions::new(3).unwrap());
    for n in 0..300_u32 {
        let event = Event::new(format!("t{}", n % 7), n.to_string()).unwrap();
        let event = event.with_source(format!("s {}", n % 5)).unwrap();
        let scope = if n % 7 == 3 { Scope::Source } else { Scope::Topic };
        origin.append_one(&event.with_scope(scope)).unwrap();
    }
    let store = open(&server.url(), &PostgresOptions { partitions: Partitions::new(5), ..options() });
    let mut rows = aggregator_core::store::Rows::of(&origin);
    let all: Vec<_> = std::iter::from_fn(|| rows.next().unwrap()).map(|row| row.check().unwrap()).collect();
    for partition in store.partitions().iter() {
        let here: Vec<_> =
            all.iter().filter(|row| store.partitions().of(&row.topic) == partition).cloned().collect();
        assert_eq!(store.import(partition, Import::rows(&here)).unwrap().added, here.len() as u64);
    }
    assert_eq!(store.stats().unwrap().stored, 300);
    assert_eq!(stored(&append(&store, &events("t1", [1, 8, 9]))), 1, "9 is of another topic");
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}
