//! Following: every event once, in order, whatever becomes of the connections.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use aggregator_client::{
    Backoff, Client, Error, Event, Events, Query, StatusCode, Tail, TailItem, Transport,
};
use aggregator_core::{DedupStoreExt as _, MemoryStore, SqliteStore, Topic};
use aggregator_server::Config;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::peer::{Act, Peer};
use crate::server::Aggregator;
use crate::wire::{Wire, Wires};
use crate::{aggregator, builder, client, events};

const PATIENCE: Duration = Duration::from_secs(30);

/// What a tail handed out: the seqs of each topic, in the order they came.
pub(crate) type Seen = BTreeMap<String, Vec<u64>>;

pub(crate) fn note(seen: &mut Seen, new: &Events) {
    assert!(!new.events.is_empty());
    for event in &new.events {
        assert_eq!(event.payload_as::<u64>().unwrap() + 1, event.seq);
        seen.entry(event.topic.clone()).or_default().push(event.seq);
    }
}

pub(crate) fn count(seen: &Seen) -> usize {
    seen.values().map(Vec::len).sum()
}

/// Follows until `events` events came, and returns the seqs of each topic.
pub(crate) async fn until(tail: &mut Tail, events: usize) -> Seen {
    let mut seen = Seen::new();
    let following = async {
        while count(&seen) < events {
            match tail.next().await.unwrap() {
                TailItem::Events(new) => note(&mut seen, &new),
                TailItem::CaughtUp { .. } => {}
                TailItem::Gap { .. } => panic!("no event was purged"),
            }
        }
    };
    timeout(PATIENCE, following).await.unwrap();
    seen
}

/// Each topic has its events from `1` to `last`, once and in order.
pub(crate) fn all(topics: &[&str], last: u64) -> Seen {
    topics.iter().map(|topic| ((*topic).to_owned(), (1..=last).collect())).collect()
}

/// Follows, without anything to hand out, until the server was asked so many times.
pub(crate) async fn until_asked(tail: &mut Tail, peer: &Peer, requests: usize) {
    let asking = async {
        while peer.requests().len() < requests {
            let more = timeout(Duration::from_millis(20), tail.next()).await;
            assert!(more.is_err(), "{more:?}");
        }
    };
    timeout(PATIENCE, asking).await.unwrap();
}

async fn next(tail: &mut Tail) -> TailItem {
    timeout(PATIENCE, tail.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn what_is_stored_comes_first_then_caught_up_once_and_then_what_is_new() {
    let aggregator = aggregator().await;
    let client = client(aggregator.url());
    let events = events("t", 9);
    client.publish(&events[..5]).await.unwrap();
    let mut tail = client.tail(Query::new().topic("t"));
    assert_eq!(tail.cursor(), None);
    let seen = until(&mut tail, 5).await;
    assert_eq!(seen, all(&["t"], 5));
    let TailItem::CaughtUp { cursor } = next(&mut tail).await else { panic!("it is caught up") };
    assert_eq!((tail.cursor(), tail.transport()), (Some(&*cursor), Transport::Stream));

    let mut latest = client.tail(Query::new().topic("t").latest());
    assert!(matches!(next(&mut latest).await, TailItem::CaughtUp { .. }));
    client.publish(&events[5..]).await.unwrap();
    for tail in [&mut tail, &mut latest, &mut client.tail(Query::new().topic("t").after(cursor))] {
        assert_eq!(until(tail, 4).await["t"], [6, 7, 8, 9]);
    }
    aggregator.stop().await;
}

/// Publishes to three topics, a few events at a time.
async fn publish_in_steps(client: Client, topics: [&'static str; 3], last: u32) {
    for first in (0..last).step_by(10) {
        for topic in topics {
            let event = |n: u32| Event::new(topic, n.to_string()).with_payload(&n).unwrap();
            client.publish(&(first..first + 10).map(event).collect::<Vec<_>>()).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Cuts and stalls at any place; calls of `next` that are dropped at any time.
async fn cuts(cuts: Vec<usize>, stall_each: usize, patience_ms: u64) {
    const TOPICS: [&str; 3] = ["a", "a.b", "a.c"];
    let aggregator = aggregator().await;
    let wires = Wires::to(aggregator.address, move |n, _| match cuts[n % cuts.len()] {
        bytes if n % stall_each == 0 => Wire::Stall(bytes),
        bytes => Wire::Cut(bytes),
    })
    .await;
    let following = builder(wires.url()).silence_timeout(Duration::from_millis(100)).build().unwrap();
    let publishing = tokio::spawn(publish_in_steps(client(aggregator.url()), TOPICS, 100));
    let (mut tail, mut seen, mut caught_up) = (following.tail(Query::new()), Seen::new(), 0);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while count(&seen) < 300 {
        assert!(tokio::time::Instant::now() < deadline, "{seen:?}");
        // Dropped where it stands, and called again.
        match timeout(Duration::from_millis(patience_ms), tail.next()).await {
            Err(_) => {}
            Ok(Ok(TailItem::Events(new))) => {
                note(&mut seen, &new);
                assert_eq!(tail.cursor(), Some(&*new.cursor));
            }
            Ok(Ok(TailItem::CaughtUp { .. })) => caught_up += 1,
            // So many cuts in a row brought nothing; it goes on.
            Ok(Err(Error::GaveUp { .. })) => {}
            Ok(other) => panic!("{other:?}"),
        }
    }
    publishing.await.unwrap();
    assert_eq!(seen, all(&TOPICS, 100));
    assert!(caught_up <= 1);
    assert!(wires.requests().len() > 2, "nothing was cut");
    aggregator.stop().await;
}

proptest! {
    // Each case takes seconds: what fails is not made smaller. A connection lets at least one event through.
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_cut_or_stalls_or_is_dropped_every_event_comes_once_and_in_order(
        places in prop::collection::vec(1_200_usize..6_000, 1..20),
        stall_each in 2_usize..6,
        patience_ms in prop::sample::select(vec![1_u64, 10, 1_000]),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(cuts(places, stall_each, patience_ms));
    }
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_opened_again() {
    let aggregator = aggregator().await;
    let publisher = client(aggregator.url());
    publisher.publish(&events("t", 10)).await.unwrap();
    let wires =
        Wires::to(aggregator.address, |n, _| if n == 0 { Wire::Stall(1_000) } else { Wire::Pass }).await;
    let following = builder(wires.url()).silence_timeout(Duration::from_millis(200)).build().unwrap();
    let mut tail = following.tail(Query::new());
    assert_eq!(until(&mut tail, 10).await, all(&["t"], 10));
    let requests = wires.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(requests[1].starts_with("GET /events/stream?after="), "{requests:?}");
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_lives_on_when_the_server_is_started_again() {
    let directory = TempDir::new().unwrap();
    let start = async || {
        let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
        Aggregator::start(Arc::new(store), Config::default()).await
    };
    let events = events("t", 20);
    let first = start().await;
    let wires = Wires::to(first.address, |_, _| Wire::Pass).await;
    client(first.url()).publish(&events[..10]).await.unwrap();
    let ms = Duration::from_millis;
    let patient = Backoff::new(ms(1), ms(50), u32::MAX, PATIENCE).unwrap();
    let following = builder(wires.url()).backoff(patient).build().unwrap();
    let mut tail = following.tail(Query::new().topic("t"));
    assert_eq!(until(&mut tail, 10).await, all(&["t"], 10));
    assert!(matches!(next(&mut tail).await, TailItem::CaughtUp { .. }));
    first.stop().await;
    let second = start().await;
    wires.lead_to(second.address);
    client(second.url()).publish(&events[10..]).await.unwrap();
    assert_eq!(until(&mut tail, 10).await["t"], (11..=20).collect::<Vec<_>>());
    let more = timeout(Duration::from_millis(300), tail.next()).await;
    assert!(more.is_err(), "it is told once that it is caught up: {more:?}");
    second.stop().await;
}

#[tokio::test]
async fn what_retention_took_is_said_before_what_is_left() {
    let store = Arc::new(MemoryStore::default());
    let aggregator = Aggregator::start(Arc::clone(&store) as _, Config::default()).await;
    let client = client(aggregator.url());
    client.publish(&events("t", 10)).await.unwrap();
    let query = Query::new().topic("t");
    let page = client.events(query.clone().limit(2)).next().await.unwrap().unwrap();
    store.purge(&Topic::new("t").unwrap(), 6).unwrap();
    let mut tail = client.tail(query.after(page.next));
    let TailItem::Gap { oldest } = next(&mut tail).await else { panic!("events were purged") };
    assert_eq!(tail.cursor(), Some(&*oldest));
    assert_eq!(until(&mut tail, 4).await["t"], [7, 8, 9, 10]);
    aggregator.stop().await;
}

#[tokio::test]
async fn a_query_or_a_cursor_that_the_server_refuses_ends_the_tail() {
    let aggregator = aggregator().await;
    let client = client(aggregator.url());
    for (query, named) in [
        (Query::new().after("x"), "after"),
        (Query::new().until("2026-01-01T00:00:00Z"), "until"),
        (Query::new().order(aggregator_client::Order::Descending), "order"),
    ] {
        let error = client.tail(query).next().await.unwrap_err();
        assert!(matches!(error, Error::Refused { status: StatusCode::BAD_REQUEST, .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
    aggregator.stop().await;
}

#[tokio::test]
async fn a_server_with_too_many_tails_is_asked_again_and_within_bounds() {
    // The server notices that a client is gone when it writes to it.
    let heartbeat = Duration::from_millis(100);
    let config = Config { max_tails: NonZeroUsize::MIN, heartbeat, ..Config::default() };
    let aggregator = Aggregator::start(Arc::new(MemoryStore::default()), config).await;
    let mut first = client(aggregator.url()).tail(Query::new());
    assert!(matches!(next(&mut first).await, TailItem::CaughtUp { .. }));
    // The server asks to come again in 15 s.
    let ms = Duration::from_millis;
    let impatient = Backoff::new(ms(1), ms(2), 10, ms(1_000)).unwrap();
    let mut second = builder(aggregator.url()).backoff(impatient).build().unwrap().tail(Query::new());
    let error = timeout(PATIENCE, second.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::GaveUp { attempts: 1, .. }), "{error}");
    assert!(
        error.to_string().ends_with("/events/stream broke before its reply was complete: the stream ended")
    );
    drop(first);
    let going_on = async { while second.next().await.is_err() {} };
    timeout(PATIENCE, going_on).await.unwrap();
    aggregator.stop().await;
}

#[tokio::test]
async fn statuses_that_may_pass_are_asked_again_and_a_stream_that_ends_is_gone_on_with() {
    let event = |id: u32| {
        format!(
            "id: c{id}\ndata: {{\"topic\":\"t\",\"event_id\":\"{id}\",\"timestamp\":\"x\",\"source\":\"s\",\
             \"payload\":{},\"seq\":{id},\"processed_at\":\"x\"}}\n\n",
            id - 1
        )
    };
    let stream = |body: String| Act::answer("200 OK", "content-type: text/event-stream\r\n", &body);
    let plan = [
        Act::answer("503 Service Unavailable", "", ""),
        Act::answer("429 Too Many Requests", "", ""),
        // The second event is cut off: it counts for nothing.
        stream(format!("retry: 3\n\n{}{}", event(1), event(2).trim_end())),
        Act::DropRequest,
        // Its position is behind events that were not asked for.
        stream(format!("{}id: c7\n\n", event(2))),
        Act::Silence,
    ];
    let peer = Peer::alone(move |n| plan[n.min(5)].clone()).await;
    let mut tail = client(peer.url()).tail(Query::new().topic("t").limit(7).wait(3).after("c0"));
    assert_eq!(until(&mut tail, 2).await, all(&["t"], 2));
    until_asked(&mut tail, &peer, 6).await;
    assert_eq!(tail.cursor(), Some("c7"));
    let requests = peer.requests();
    for (request, after) in requests.iter().zip(["c0", "c0", "c0", "c1", "c1", "c7"]) {
        let line = format!("GET /events/stream?topic=t&after={after} HTTP");
        assert!(request.starts_with(&line), "{request:?} is not {line}");
    }
    assert_eq!(requests.len(), 6);
}

#[tokio::test]
async fn an_event_without_end_is_refused_with_the_name_of_the_limit() {
    let peer =
        Peer::alone(|_| Act::AnswerWithoutEnd("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream")).await;
    let client = builder(peer.url()).max_reply_bytes(100_000).build().unwrap();
    let error = timeout(PATIENCE, client.tail(Query::new()).next()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::EventTooLong { limit: 100_000, .. }), "{error}");
    assert!(error.to_string().contains("max_reply_bytes"), "{error}");
}
