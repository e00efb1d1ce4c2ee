//! Tails where no stream gets through.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aggregator_client::{Query, TailItem, Transport};

use crate::peer::{Act, Peer};
use crate::tail::{all, until, until_asked};
use crate::wire::{Wire, Wires};
use crate::{aggregator, builder, client, events};

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_that_keeps_streams_back_it_polls_and_goes_back_to_the_stream_when_it_can() {
    let aggregator = aggregator().await;
    let publisher = client(aggregator.url());
    let events = events("t", 30);
    publisher.publish(&events[..10]).await.unwrap();
    let buffers = Arc::new(AtomicBool::new(true));
    let plan = Arc::clone(&buffers);
    let wires = Wires::to(aggregator.address, move |_, request| {
        let kept = request.starts_with("GET /events/stream") && plan.load(Ordering::SeqCst);
        if kept { Wire::KeepBody } else { Wire::Pass }
    })
    .await;
    let ms = Duration::from_millis;
    // Without idle connections each request has one of its own, and suffers its own fate.
    let client = builder(wires.url())
        .idle_connections(0)
        .first_byte_timeout(ms(100))
        .stream_retry_interval(ms(500))
        .build()
        .unwrap();
    let mut tail = client.tail(Query::new().topic("t").limit(4).wait(1));
    assert_eq!(tail.transport(), Transport::Stream);
    assert_eq!(until(&mut tail, 10).await, all(&["t"], 10));
    assert_eq!(tail.transport(), Transport::LongPoll);
    publisher.publish(&events[10..20]).await.unwrap();
    assert_eq!(until(&mut tail, 10).await["t"], (11..=20).collect::<Vec<_>>());

    buffers.store(false, Ordering::SeqCst);
    let mut caught_up = 0;
    let going_back = async {
        while tail.transport() == Transport::LongPoll {
            // It changes on the way, without an item.
            if let Ok(item) = tokio::time::timeout(ms(50), tail.next()).await {
                assert!(matches!(item, Ok(TailItem::CaughtUp { .. })), "{item:?}");
                caught_up += 1;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), going_back).await.unwrap();
    assert!(caught_up <= 1);
    publisher.publish(&events[20..]).await.unwrap();
    assert_eq!(until(&mut tail, 10).await["t"], (21..=30).collect::<Vec<_>>());
    assert_eq!(tail.transport(), Transport::Stream);
    assert!(wires.requests().iter().any(|request| request.contains("wait=1")));
    aggregator.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_no_stream_is_no_error_as_long_as_pages_are_there() {
    let page = r#"{"events":[{"topic":"t","event_id":"1","timestamp":"x","source":"s","payload":0,"seq":1,
                   "processed_at":"x"}],"next":"c1","caught_up":true}"#;
    for first in [
        Act::answer("404 Not Found", "", "<html>"),
        Act::answer("405 Method Not Allowed", "", "<html>"),
        Act::answer("501 Not Implemented", "", "<html>"),
        Act::answer("200 OK", "content-type: text/html\r\n", "<html>"),
        Act::answer("200 OK", "", "<html>"),
        // Not even its head comes.
        Act::Silence,
    ] {
        let answer = first.clone();
        let peer = Peer::alone(move |n| match n {
            0 => answer.clone(),
            1 => Act::answer("200 OK", "", page),
            2 => Act::answer("410 Gone", "", r#"{"oldest":"c9"}"#),
            _ => Act::Silence,
        })
        .await;
        let limit = Duration::from_millis(if matches!(first, Act::Silence) { 500 } else { 10_000 });
        let client = builder(peer.url()).request_timeout(limit).build().unwrap();
        let mut tail = client.tail(Query::new().topic("t").latest());
        assert_eq!(until(&mut tail, 1).await, all(&["t"], 1));
        assert_eq!(tail.transport(), Transport::LongPoll, "{first:?}");
        let gap = tail.next().await.unwrap();
        assert!(matches!(&gap, TailItem::Gap { oldest } if oldest == "c9"), "{gap:?}");
        until_asked(&mut tail, &peer, 4).await;
        let requests = peer.requests();
        for (request, line) in requests.iter().zip([
            "GET /events/stream?topic=t&after=latest HTTP",
            // It does not wait before it knows where it stands.
            "GET /events?topic=t&after=latest HTTP",
            "GET /events?topic=t&after=c1&wait=50 HTTP",
            "GET /events?topic=t&after=c9&wait=50 HTTP",
        ]) {
            assert!(request.starts_with(line), "{request:?} is not {line}");
        }
        assert_eq!(requests.len(), 4, "{first:?}");
    }
}
