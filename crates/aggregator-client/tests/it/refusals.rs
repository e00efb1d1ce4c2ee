//! Peers that are no aggregator, or do not behave.

use std::time::{Duration, Instant};

use aggregator_client::{Error, Identity, Query, StatusCode};

use crate::peer::{Act, Peer};
use crate::{aggregator, builder, client, events};

#[tokio::test]
async fn a_reply_without_end_is_cut_off_whatever_its_status() {
    for head in ["HTTP/1.1 200 OK", "HTTP/1.1 503 Service Unavailable", "HTTP/1.1 404 Not Found"] {
        let peer = Peer::alone(move |_| Act::AnswerWithoutEnd(head)).await;
        let client = builder(peer.url()).max_reply_bytes(100_000).build().unwrap();
        let began = Instant::now();
        for error in [
            client.publish(&events("t", 1)).await.unwrap_err(),
            client.events(Query::new()).next().await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::ReplyTooLong { limit: 100_000, .. }), "{error}");
            assert!(error.to_string().contains("max_reply_bytes"), "{error}");
        }
        assert!(began.elapsed() < Duration::from_secs(9), "the timeout ended it");
        assert_eq!(peer.requests().len(), 2, "it is not retried");
    }
}

#[tokio::test]
async fn a_reply_that_takes_for_ever_ends_with_the_timeout() {
    let peer =
        Peer::alone(|_| Act::AnswerWithoutEnd("HTTP/1.1 200 OK\r\ncontent-length: 1000000000000")).await;
    let client = builder(peer.url())
        .max_reply_bytes(usize::MAX)
        .request_timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    let error = client.ready().await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn a_url_that_is_not_the_aggregator_s_says_so() {
    let aggregator = aggregator().await;
    let elsewhere = client(format!("{}/elsewhere/", aggregator.url()));
    let error = elsewhere.publish(&events("t", 1)).await.unwrap_err();
    assert!(matches!(error, Error::Refused { status: StatusCode::NOT_FOUND, .. }), "{error}");
    assert!(error.to_string().contains("/elsewhere/publish answered 404 Not Found: "), "{error}");
    let error = elsewhere.tail(Query::new()).next().await.unwrap_err();
    assert!(error.to_string().contains("/elsewhere/events answered 404 Not Found: "), "{error}");
    aggregator.stop().await;

    for (status, said) in [
        ("200 OK", "is not what an aggregator sends"),
        ("404 Not Found", "Is this the URL of one?"),
        ("302 Found", "Is this the URL of one?"),
    ] {
        let peer =
            Peer::alone(move |_| Act::answer(status, "location: /x\r\n", "<html>Welcome</html>")).await;
        let client = client(peer.url());
        for error in [
            client.publish(&events("t", 1)).await.unwrap_err(),
            client.events(Query::new()).next().await.unwrap_err(),
            client.stats().await.unwrap_err(),
        ] {
            assert!(error.to_string().contains(said) && error.to_string().contains(&peer.url()), "{error}");
        }
        assert_eq!(peer.requests().len(), 3, "it is not retried");
    }
}

#[tokio::test]
async fn an_answer_to_another_question_is_none() {
    let receipts = r#"{"durability":"fsync","received_at":"x","results":[]}"#;
    let peer = Peer::alone(move |_| Act::answer("202 Accepted", "", receipts)).await;
    let error = client(peer.url()).publish(&events("t", 1)).await.unwrap_err();
    assert!(error.to_string().contains("it has 0 receipts for 1 events"), "{error}");
    let peer = Peer::alone(|_| Act::answer("200 OK", "", r#"{"results":[]}"#)).await;
    let error = client(peer.url()).lookup(&[Identity::new("t", "1")]).await.unwrap_err();
    assert!(error.to_string().contains("other questions than those asked"), "{error}");
}
