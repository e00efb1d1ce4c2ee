//! What may pass is retried, safely and within bounds.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aggregator_client::{Backoff, Error, Outcome, Query, StatusCode};
use aggregator_core::store::faulty::FaultyStore;
use aggregator_core::{DedupStore as _, MemoryStore};
use aggregator_server::Config;
use tokio::net::TcpListener;

use crate::peer::{Act, Peer};
use crate::server::Aggregator;
use crate::{aggregator, builder, client, events, http_client};

/// What becomes of three events if this happens to the first request, and how many requests it took.
async fn after(act: Act) -> (Vec<Outcome>, usize) {
    let aggregator = aggregator().await;
    let peer = Peer::before(aggregator.address, move |n| if n == 0 { act.clone() } else { Act::Pass }).await;
    let client = client(peer.url());
    let published = client.publish(&events("t", 3)).await.unwrap();
    let requests = peer.requests();
    assert!(
        requests.iter().all(|request| request.body() == requests[0].body()),
        "a retry sends the same bytes"
    );
    assert_eq!(client.stats().await.unwrap().unique_processed, 3);
    aggregator.stop().await;
    (published.receipts.iter().map(|receipt| receipt.outcome).collect(), requests.len())
}

#[tokio::test]
async fn after_a_lost_reply_the_retry_is_told_duplicate_and_nothing_is_stored_twice() {
    for act in [Act::LoseReply, Act::CutReply] {
        assert_eq!(after(act).await, (vec![Outcome::Duplicate; 3], 2));
    }
}

#[tokio::test]
async fn after_a_connection_that_broke_before_the_request_got_through_the_retry_stores_it() {
    assert_eq!(after(Act::DropRequest).await, (vec![Outcome::Stored; 3], 2));
}

#[tokio::test]
async fn a_server_or_a_balancer_that_says_not_now_is_asked_again() {
    for status in [
        "408 Request Timeout",
        "429 Too Many Requests",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
    ] {
        assert_eq!(after(Act::answer(status, "", "<html>")).await, (vec![Outcome::Stored; 3], 2), "{status}");
    }
}

#[tokio::test]
async fn retry_after_is_obeyed_in_seconds_and_as_a_date() {
    let began = Instant::now();
    let seconds = Act::answer("503 Service Unavailable", "retry-after: 1\r\n", "");
    assert_eq!(after(seconds).await, (vec![Outcome::Stored; 3], 2));
    assert!(began.elapsed() >= Duration::from_secs(1));

    let began = Instant::now();
    // Two seconds later, by a clock that is an hour slow.
    let at = |seconds: u64| httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(3600 - seconds));
    let headers = format!("date: {}\r\nretry-after: {}\r\n", at(0), at(2));
    assert_eq!(
        after(Act::answer("503 Service Unavailable", &headers, "")).await,
        (vec![Outcome::Stored; 3], 2)
    );
    assert!(began.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn a_retry_after_beyond_the_deadline_is_not_waited_for() {
    let busy = r#"{"title":"Queue full","detail":"the queue of events is full","retryable":true}"#;
    let peer = Peer::alone(|_| Act::answer("503 Service Unavailable", "retry-after: 3600\r\n", busy)).await;
    let error = client(peer.url()).publish(&events("t", 1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "gave up after 1 attempt; the last one ended with: {}/publish answered 503 Service Unavailable \
             (Retry-After: 3600 s): the queue of events is full",
            peer.url()
        )
    );
}

#[tokio::test]
async fn it_gives_up_after_so_many_attempts_and_says_how_the_last_one_ended() {
    let peer = Peer::alone(|n| match n {
        0 => Act::DropRequest,
        1 => Act::answer("500 Internal Server Error", "", ""),
        _ => Act::answer("503 Service Unavailable", "", ""),
    })
    .await;
    let ms = Duration::from_millis;
    let client =
        builder(peer.url()).backoff(Backoff::new(ms(1), ms(2), 4, ms(20_000)).unwrap()).build().unwrap();
    let error = client.publish(&events("t", 1)).await.unwrap_err();
    let Error::GaveUp { attempts: 4, last } = &error else { panic!("{error}") };
    assert!(matches!(**last, Error::Refused { status: StatusCode::SERVICE_UNAVAILABLE, .. }), "{error}");
    assert_eq!(peer.requests().len(), 4);
}

#[tokio::test]
async fn a_server_that_never_answers_ends_the_attempt_and_the_deadline_ends_the_call() {
    let peer = Peer::alone(|_| Act::Silence).await;
    let ms = Duration::from_millis;
    let deadline = Backoff::new(ms(1), ms(2), 1000, ms(300)).unwrap();
    let client = builder(peer.url()).request_timeout(ms(50)).backoff(deadline).build().unwrap();
    let began = Instant::now();
    let error = client.publish(&events("t", 1)).await.unwrap_err();
    assert!(
        matches!(&error, Error::GaveUp { last, .. } if matches!(**last, Error::Timeout { .. })),
        "{error}"
    );
    assert!(error.to_string().contains(&peer.url()), "{error}");
    assert!(began.elapsed() >= ms(250), "it gave up after {:?}", began.elapsed());
    let requests = peer.requests().len();
    assert!((2..=7).contains(&requests), "{requests} attempts of 50 ms in 300 ms");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = client(url.clone()).events(Query::new()).next().await.unwrap_err();
    let Error::GaveUp { attempts: 10, last } = &error else { panic!("{error}") };
    assert!(matches!(**last, Error::Connect { .. }), "{error}");
    assert!(
        error.to_string().contains(&format!("no connection to {url}/events: Connection refused")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_of_the_server_is_waited_for() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    store.hold();
    let config = Config { queue_events: 1, max_batch_events: NonZeroUsize::MIN, ..Config::default() };
    let aggregator = Aggregator::start(Arc::clone(&store) as _, config).await;
    let held = client(aggregator.url());
    let held = tokio::spawn(async move { held.publish(&events("held", 1)).await });
    let peer = Peer::before(aggregator.address, |_| Act::Pass).await;
    let refused = client(peer.url());
    // The queue has room for one, so one of the two is refused until the store goes on.
    let waiting = tokio::spawn(async move { refused.publish(&events("waiting", 1)).await });
    let stats = format!("{}/stats", aggregator.url());
    loop {
        let asked = http_client().get(&stats).send().await;
        let answer = asked.unwrap().bytes().await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        if answer["queue"]["refused"].as_u64().unwrap() >= 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.go_on();
    for publisher in [held, waiting] {
        assert_eq!(publisher.await.unwrap().unwrap().count(Outcome::Stored), 1);
    }
    aggregator.stop().await;
    assert_eq!(store.stats().unwrap().stored, 2);
}
