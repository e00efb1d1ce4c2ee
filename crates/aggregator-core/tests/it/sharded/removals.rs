//! A cursor that lies before removed events of one shard.

use aggregator_core::{Cursor, DedupStore, Query, Sharded, StoreError, TopicSelector};

use super::{faulty, stored, topic_of};

/// Events of two shards, and a cursor behind some of them.
fn begun(store: &Sharded) -> (Query, Cursor) {
    for shard in 0..2 {
        let topic = topic_of(store, shard);
        (0..10).for_each(|id| stored(store, &topic, id));
    }
    let query = Query { limit: 4, ..Query::of(TopicSelector::All) };
    let next = store.read(&query).unwrap().next;
    (query, next)
}

/// As when retention removes more between the reads of one page.
#[test]
fn a_shard_that_removes_more_while_it_is_read_gives_a_cursor_of_the_whole() {
    for times in 1..=3 {
        let (shards, store) = faulty(2);
        let (query, after) = begun(&store);
        shards[1].expire_reads(times);
        let error = store.read(&Query { after: Some(after), ..query.clone() }).unwrap_err();
        let StoreError::Expired { oldest } = error else { panic!("{error}") };
        let oldest = oldest.to_string().parse().unwrap();
        let page = store.read(&Query { after: Some(oldest), ..query }).unwrap();
        assert_eq!(page.events.len(), 4);
    }
}

#[test]
fn a_shard_that_removes_all_the_time_is_asked_again_later() {
    let (shards, store) = faulty(2);
    let (query, after) = begun(&store);
    shards[1].expire_reads(1_000);
    let error = store.read(&Query { after: Some(after), ..query }).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("shard 1 (place 1)"), "{error}");
}
