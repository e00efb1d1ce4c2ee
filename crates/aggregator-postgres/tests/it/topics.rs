//! The topic ids that a node remembers, and how identities are looked up.

use aggregator_core::{DedupStoreExt as _, Outcome, Partitions};
use aggregator_postgres::PostgresOptions;
use aggregator_postgres::test_server::TestServer;

use crate::support::{append, await_that, events, open, options, stored};

#[test]
fn identities_of_topics_whose_id_is_not_as_remembered_are_looked_up_again() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let store = open(&server.url(), &options);
    for topic in ["a", "b"] {
        // The second append learns the topic's id.
        append(&store, &events(topic, 0..3));
        append(&store, &events(topic, 2..4));
    }
    // The ids are swapped, as in a database that was created anew.
    for table in ["topics", "events"] {
        for change in ["topic_id + 10", "13 - topic_id"] {
            server.sql(&format!("UPDATE {}.{table} SET topic_id = {change}", options.schema));
        }
    }
    for topic in ["a", "b"] {
        let receipts = append(&store, &events(topic, 0..5));
        let told: Vec<_> = receipts.iter().map(|receipt| (receipt.outcome, receipt.seq)).collect();
        let repeats = (1..=4).map(|seq| (Outcome::Duplicate, Some(seq)));
        assert_eq!(told, repeats.chain([(Outcome::Stored, Some(5))]).collect::<Vec<_>>());
    }
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

#[test]
fn identities_are_looked_up_by_their_own_index_in_a_table_that_was_never_analyzed() {
    look_up_repeats(1);
    // Eight partitions in one commit.
    look_up_repeats(8);
}

fn look_up_repeats(partitions: u16) {
    const EVENTS: u32 = 2_000;
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions { partitions: Partitions::new(partitions), ..options() };
    let store = open(&server.url(), &options);
    server.sql(&format!("ALTER TABLE {}.events SET (autovacuum_enabled = off)", options.schema));
    for repeats in [false, true] {
        for first in (0..EVENTS).step_by(50) {
            let topic = |id| format!("topic-{}", id % 20);
            let batch: Vec<_> = (first..first + 50).flat_map(|id| events(&topic(id), [id])).collect();
            let new = stored(&append(&store, &batch));
            assert_eq!(new == 0, repeats);
        }
    }
    // The statistics of its sessions are complete once they have ended.
    drop(store);
    let total = |column: &str, index: &str| -> u32 {
        let schema = &options.schema;
        let sql = format!(
            "SELECT sum({column}) FROM pg_stat_user_indexes WHERE schemaname = '{schema}' AND indexrelname ~ '{index}'"
        );
        server.sql(&sql).parse().unwrap()
    };
    await_that("the lookups are counted", || total("idx_scan", "^events_identity_key$") >= 2 * EVENTS - 50);
    let read = total("idx_tup_read", "^events_");
    assert!(read < 3 * EVENTS, "{read} index entries were read for {EVENTS} repeats");
}
