//! Reading: every event once, in order, over many pages.

use std::sync::Arc;

use aggregator_client::{Error, Order, Page, Pages, Query, StoredEvent};
use aggregator_core::{DedupStoreExt as _, MemoryStore, Topic};
use aggregator_server::Config;

use crate::peer::{Act, Peer};
use crate::server::Aggregator;
use crate::{aggregator, client, events};

/// All pages that are left.
async fn rest(pages: &mut Pages) -> Vec<Page> {
    let mut read = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        read.push(page);
    }
    read
}

fn seqs(pages: &[Page]) -> Vec<u64> {
    pages.iter().flat_map(|page| &page.events).map(|event| event.seq).collect()
}

#[tokio::test]
async fn a_walk_over_many_pages_through_a_bad_network_reads_every_event_once_and_in_order() {
    let aggregator = aggregator().await;
    client(aggregator.url()).publish(&events("t", 500)).await.unwrap();
    let peer = Peer::before(aggregator.address, |n| match n % 5 {
        1 => Act::DropRequest,
        2 => Act::LoseReply,
        3 => Act::CutReply,
        _ => Act::Pass,
    })
    .await;
    let pages = rest(&mut client(peer.url()).events(Query::new().topic("t").limit(7))).await;
    assert!(pages.len() >= 72 && pages.iter().all(|page| page.events.len() <= 7), "{}", pages.len());
    assert_eq!(seqs(&pages), (1..=500).collect::<Vec<_>>());
    let payload = |event: &StoredEvent| event.payload_as::<u64>().unwrap();
    assert!(pages.iter().flat_map(|page| &page.events).all(|event| payload(event) + 1 == event.seq));
    let requests = peer.requests();
    assert!(requests.iter().all(|request| request.starts_with("GET /events?topic=t&limit=7")));
    assert!(requests.len() > 2 * pages.len(), "the network was not bad");
    aggregator.stop().await;
}

#[tokio::test]
async fn a_cursor_goes_on_where_it_stood_and_the_end_can_be_asked_for_more() {
    let aggregator = aggregator().await;
    let client = client(aggregator.url());
    let events = events("t", 9);
    client.publish(&events[..5]).await.unwrap();
    let query = Query::new().topic("t").limit(2);
    let mut pages = client.events(query.clone());
    assert_eq!(pages.cursor(), None);
    let first = pages.next().await.unwrap().unwrap();
    assert_eq!((first.events[1].seq, first.caught_up, Some(&*first.next)), (2, false, pages.cursor()));

    assert_eq!(seqs(&rest(&mut client.events(query.after(first.next))).await), [3, 4, 5]);
    assert_eq!(seqs(&rest(&mut pages).await), [3, 4, 5]);
    client.publish(&events[5..]).await.unwrap();
    assert_eq!(seqs(&rest(&mut pages).await), [6, 7, 8, 9]);
    assert!(rest(&mut pages).await.iter().all(|page| page.events.is_empty() && page.caught_up));
    aggregator.stop().await;
}

#[tokio::test]
async fn filters_and_order_are_the_server_s() {
    let aggregator = aggregator().await;
    let client = client(aggregator.url());
    let of = |topic: &str, source: &str| {
        events(topic, 3).into_iter().map(|event| event.with_source(source)).collect::<Vec<_>>()
    };
    client
        .publish(&[of("orders.eu", "shop"), of("orders.us", "desk"), of("users", "shop")].concat())
        .await
        .unwrap();
    let read = async |query: Query| -> Vec<(String, u64)> {
        let pages = rest(&mut client.events(query.limit(2))).await;
        pages.into_iter().flat_map(|page| page.events).map(|event| (event.topic, event.seq)).collect()
    };
    let eu = |seqs: [u64; 3]| seqs.map(|seq| ("orders.eu".to_owned(), seq));
    assert_eq!(read(Query::new()).await.len(), 9);
    assert_eq!(read(Query::new().topic("orders.*")).await.len(), 6);
    assert_eq!(read(Query::new().topic("orders.*").source("shop")).await, eu([1, 2, 3]));
    assert_eq!(read(Query::new().topic("orders.eu").order(Order::Descending)).await, eu([3, 2, 1]));
    assert_eq!(read(Query::new().topic("orders.eu").event_id("1")).await, eu([1, 2, 3])[1..2]);
    assert_eq!(read(Query::new().since("2100-01-01T00:00:00+01:00")).await, []);
    assert_eq!(read(Query::new().until("2100-01-01T00:00:00Z")).await.len(), 9);

    let none = client.events(Query::new().topic("order.*")).next().await.unwrap().unwrap();
    assert_eq!((none.events.len(), none.caught_up, none.known), (0, true, false));
    let error = client.events(Query::new().limit(0)).next().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains("limit"), "{error}");
    aggregator.stop().await;
}

#[tokio::test]
async fn a_cursor_whose_events_were_purged_is_an_error_that_says_where_to_go_on() {
    let store = Arc::new(MemoryStore::default());
    let aggregator = Aggregator::start(Arc::clone(&store) as _, Config::default()).await;
    let client = client(aggregator.url());
    client.publish(&events("t", 10)).await.unwrap();
    let query = Query::new().topic("t").limit(2);
    let mut pages = client.events(query.clone());
    pages.next().await.unwrap();
    store.purge(&Topic::new("t").unwrap(), 6).unwrap();
    let error = pages.next().await.unwrap_err();
    let Error::Purged { oldest, problem } = error else { panic!("{error}") };
    assert_eq!(problem.kind, "urn:aggregator:problem:cursor-expired");
    assert_eq!(seqs(&rest(&mut client.events(query.after(oldest))).await), [7, 8, 9, 10]);
    aggregator.stop().await;
}

#[tokio::test]
async fn a_cursor_that_no_longer_moves_ends_the_walk() {
    let page = r#"{"events":[],"next":"c","caught_up":false}"#;
    let peer = Peer::alone(move |_| Act::answer("200 OK", "", page)).await;
    let mut pages = client(peer.url()).events(Query::new());
    let error = loop {
        match pages.next().await {
            Ok(page) => assert!(page.is_some_and(|page| page.events.is_empty())),
            Err(error) => break error,
        }
        assert!(peer.requests().len() < 100);
    };
    assert!(matches!(error, Error::Stuck { pages: 10 }), "{error}");
}
