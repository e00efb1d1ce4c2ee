//! What `verify`, `rows` and pages say of marks that contradict the other tables.

use aggregator_core::{DedupStore, DedupStoreExt, Import, Partition, Query, RowLimit, StoreError};
use aggregator_postgres::PostgresStore;
use aggregator_postgres::test_server::TestServer;

use super::{fill, forget, t};
use crate::support::{alone, append, events, open, options};

/// Of `t`, the rows up to offset 4 were forgotten, seq 5 at offset 5 is purged, and seqs 6 to 8 have payloads. Then there
/// is one of `u` at offset 9, an identity alone at offset 10, and one more event of `u`.
fn damageable(store: &PostgresStore) {
    fill(store, 8, 5);
    store.import(Partition(0), Import::rows(&[alone("t", "alone")])).unwrap();
    append(store, &events("u", 1..2));
    assert_eq!(forget(store, 4), 4);
}

#[test]
fn marks_that_contradict_other_tables_are_found() {
    let Some(server) = TestServer::shared_own() else { return };
    let stub = |offset: u32, topic: u32, seq: &str| {
        format!(
            "INSERT INTO events (partition, \"offset\", topic_id, seq, event_id, source, source_key, timestamp, digest,
                 processed_at)
             VALUES (0, {offset}, {topic}, {seq}, 'x', 's', '', '', CASE WHEN {seq}::int > 0 THEN decode(repeat('00', 16), 'hex') END, 0)"
        )
    };
    for (damage, found) in [
        ("UPDATE forgotten SET seq = 3", "has seq 5 where 4 belongs"),
        ("UPDATE forgotten SET seq = 3", "topic t ends at seq 8 and has 4 rows, and 3 forgotten events"),
        ("UPDATE forgotten SET seq = 3", "the counter stored of partition 0 says 10, the rows say 9"),
        ("UPDATE forgotten SET seq = 9", "is impossible for topic t: seq 9"),
        ("UPDATE forgotten SET seq = -1", "is impossible for topic t: seq -1"),
        ("UPDATE forgotten SET topic_id = 77", "is impossible for no topic"),
        ("UPDATE forgotten SET rows = 3", "has 7 rows up to offset 11, and 3 forgotten ones"),
        ("UPDATE forgotten SET rows = 5", "is impossible for topic t"),
        ("UPDATE forgotten SET rows = 0", "is impossible for topic t"),
        (
            "UPDATE forgotten SET \"offset\" = 12",
            "the counter last_offset of partition 0 says 11, the rows say 12",
        ),
        ("UPDATE forgotten SET \"offset\" = 12", "is impossible for topic t"),
        ("UPDATE forgotten SET processed_at = 9000000000000000", "processed_at 9000000000000000"),
        ("UPDATE forgotten SET \"offset\" = 5", "topic t has a row at offset 5, and its rows up to offset 5"),
        ("DELETE FROM forgotten", "has 7 rows up to offset 11, and 0 forgotten ones"),
        ("DELETE FROM forgotten", "topic t has seq 5 where 1 belongs"),
        ("DELETE FROM events WHERE \"offset\" = 6", "has 6 rows up to offset 11"),
        (
            "UPDATE topics SET purged_seq = 4 WHERE name = 't'",
            "is purged to offset 5, which is not that of seq 4",
        ),
        // A row is missing, and one that was forgotten is back: the number is right.
        (
            &format!("DELETE FROM events WHERE \"offset\" = 10; {}", stub(2, 1, "NULL")),
            "has 6 rows behind offset 4, up to which rows were forgotten, and not 7",
        ),
        (&stub(2, 1, "2"), "topic t has a row at offset 2, and its rows up to offset 4"),
    ] {
        let options = options();
        let store = open(&server.url(), &options);
        damageable(&store);
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
        server.sql(&format!("SET search_path = {}; {damage}", options.schema));
        let faults = store.verify().unwrap().faults;
        assert!(faults.iter().any(|fault| fault.contains(found)), "{damage}: {faults:?}");
    }
}

#[test]
fn a_purged_offset_is_checked_although_its_row_was_forgotten() {
    let Some(server) = TestServer::shared_own() else { return };
    for offset in [0, 6, 7] {
        let options = options();
        let store = open(&server.url(), &options);
        fill(&store, 8, 5);
        assert_eq!(forget(&store, 5), 5);
        assert_eq!(store.verify().unwrap().faults, [""; 0]);
        server
            .sql(&format!("UPDATE {}.topics SET purged_offset = {offset} WHERE name = 't'", options.schema));
        let faults = store.verify().unwrap().faults;
        let found = format!("topic t says it is purged to offset {offset}");
        assert!(faults.iter().any(|fault| fault.contains(&found)), "{offset}: {faults:?}");
    }
}

#[test]
fn what_does_not_follow_on_what_was_forgotten_is_not_forgotten() {
    let Some(server) = TestServer::shared_own() else { return };
    for damage in [
        "UPDATE {}.forgotten SET seq = 5",
        "UPDATE {}.forgotten SET seq = 3",
        "DELETE FROM {}.events WHERE seq = 5",
    ] {
        let options = options();
        let store = open(&server.url(), &options);
        damageable(&store);
        store.purge(&t(), 7).unwrap();
        server.sql(&damage.replace("{}", &options.schema));
        let error = store.forget_identities(&t(), super::end(), 1).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{damage}: {error}");
    }
}

/// Only rows that were forgotten may be missing.
#[test]
fn a_row_that_is_missing_behind_the_last_mark_is_not_passed_over() {
    let Some(server) = TestServer::shared_own() else { return };
    for damage in [
        "DELETE FROM events WHERE \"offset\" = 5",
        "DELETE FROM events WHERE \"offset\" = 7",
        "DELETE FROM events WHERE \"offset\" = 11",
        "DELETE FROM forgotten",
        "UPDATE forgotten SET \"offset\" = 3",
        "UPDATE forgotten SET \"offset\" = 5",
        "UPDATE forgotten SET topic_id = 77",
    ] {
        let options = options();
        let store = open(&server.url(), &options);
        damageable(&store);
        assert_eq!(store.rows(Partition(0), 0, RowLimit::default()).unwrap().len(), 8);
        server.sql(&format!("SET search_path = {}; {damage}", options.schema));
        let error = store.rows(Partition(0), 0, RowLimit::default()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{damage}: {error}");
    }
}

#[test]
fn a_cursor_at_a_row_that_is_missing_is_taken_only_if_it_was_forgotten() {
    let Some(server) = TestServer::shared_own() else { return };
    for (damage, is_taken) in [
        ("SELECT", true),
        ("UPDATE forgotten SET \"offset\" = 7", true),
        ("UPDATE forgotten SET \"offset\" = 3", false),
        ("DELETE FROM forgotten", false),
    ] {
        let options = options();
        let store = open(&server.url(), &options);
        append(&store, &events("t", 1..=4));
        let end = store.read(&Query::topic(t())).unwrap().next;
        append(&store, &events("t", 5..=8));
        store.purge(&t(), 4).unwrap();
        assert_eq!(forget(&store, u64::MAX), 4);
        server.sql(&format!("SET search_path = {}; {damage}", options.schema));
        let page = store.read(&Query { after: Some(end), ..Query::topic(t()) });
        match is_taken {
            true => assert_eq!(page.unwrap().events.len(), 4, "{damage}"),
            false => assert!(matches!(page, Err(StoreError::Corrupt { .. })), "{damage}: {page:?}"),
        }
    }
    // The newest row is never forgotten.
    let options = options();
    let store = open(&server.url(), &options);
    damageable(&store);
    server.sql(&format!("DELETE FROM {}.events WHERE \"offset\" = 11", options.schema));
    let page = store.read(&Query::topic(t()));
    assert!(matches!(page, Err(StoreError::Corrupt { .. })), "{page:?}");
}
