//! A database that was restored to an older state. It keeps the store's id, and gives the offsets of the lost events to
//! other events.

use aggregator_core::{
    Cursor, DedupStore, Event, Order, Partitions, Query, StoreError, Topic, TopicSelector, WrongCursor,
};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::support::{append, open, options};

const TABLES: [&str; 4] = ["partitions", "topics", "events", "appends"];

fn publish(store: &PostgresStore, name: &str, numbers: std::ops::Range<u32>) {
    let event = |n: u32| Event::new(format!("t.{}", n % 5), format!("{name}-{n}")).unwrap();
    append(store, &numbers.map(event).collect::<Vec<_>>());
}

fn ids(store: &PostgresStore, query: &Query, after: Option<Cursor>) -> Result<Vec<String>, StoreError> {
    let page = store.read(&Query { after, limit: 1_000, ..query.clone() })?;
    Ok(page.events.into_iter().map(|event| event.event_id).collect())
}

#[test]
fn a_cursor_of_a_lost_future_is_refused_even_when_the_database_has_outgrown_it() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions { partitions: Partitions::new(3), ..options() };
    let schema = &options.schema;
    let up = |limit| Query { limit, ..Query::of("t.*".parse::<TopicSelector>().unwrap()) };
    let down = |limit| Query { order: Order::Descending, ..up(limit) };
    let of_one = |limit| Query { limit, ..Query::topic(Topic::new("t.2").unwrap()) };
    let queries = [up(7), up(100), down(1), down(7), of_one(2), of_one(100)];
    let cursors = |store: &PostgresStore| {
        let cursor = |query: &Query| (store.read(query).unwrap().next, query.clone());
        queries.iter().map(cursor).collect::<Vec<_>>()
    };

    let store = open(&server.url(), &options);
    publish(&store, "first", 0..20);
    let good = cursors(&store);
    let rest = |(after, query): &(Cursor, Query)| ids(&store, query, Some(after.clone())).unwrap();
    let kept: Vec<_> = good.iter().map(rest).collect();
    server.sql(&format!("CREATE SCHEMA {schema}_kept"));
    for table in TABLES {
        server.sql(&format!("CREATE TABLE {schema}_kept.{table} AS SELECT * FROM {schema}.{table}"));
    }
    publish(&store, "lost", 20..40);
    let lost = cursors(&store);
    drop(store);
    for table in TABLES {
        server.sql(&format!(
            "TRUNCATE {schema}.{table}; INSERT INTO {schema}.{table} SELECT * FROM {schema}_kept.{table}"
        ));
    }

    let store = open(&server.url(), &options);
    for numbers in [40..40, 40..60, 60..100] {
        publish(&store, "other", numbers);
        for ((after, query), kept) in good.iter().zip(&kept) {
            let rest = ids(&store, query, Some(after.clone())).unwrap();
            assert!(
                rest.starts_with(kept) && rest[kept.len()..].iter().all(|id| id.starts_with("other")),
                "{query:?}"
            );
        }
        // A page that ended within the kept events gave the same cursor both times, which stays valid.
        for (after, query) in lost.iter().filter(|(after, _)| good.iter().all(|(good, _)| good != after)) {
            let error = ids(&store, query, Some(after.clone())).unwrap_err();
            let StoreError::WrongCursor(
                WrongCursor::AheadOfStore { oldest } | WrongCursor::OtherHistory { oldest },
            ) = error
            else {
                panic!("{query:?}: {error}")
            };
            let anew = ids(&store, query, None).unwrap();
            assert_eq!(ids(&store, query, Some(oldest)).unwrap(), anew, "{query:?}");
        }
    }
}
