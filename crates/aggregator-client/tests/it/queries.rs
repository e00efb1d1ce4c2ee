//! What a server knows beside its events.

use std::time::Duration;

use aggregator_client::{Error, Identity, StatusCode};

use crate::peer::{Act, Peer};
use crate::{aggregator, client, events};

#[tokio::test]
async fn identities_topics_and_totals_are_told() {
    let aggregator = aggregator().await;
    let client = client(aggregator.url());
    for topic in ["a", "b", "c", "a"] {
        client.publish(&events(topic, 2)).await.unwrap();
    }
    let asked =
        [Identity::new("a", "1"), Identity::new("b", "7"), Identity::new("b", "0").with_source("any")];
    let seen = client.lookup(&asked).await.unwrap();
    assert_eq!(seen.iter().map(|seen| seen.seen).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!((seen[0].seq, seen[0].purged, seen[1].seq), (Some(2), false, None));

    let first = client.topics(None, None, 2).await.unwrap();
    let names = |page: &aggregator_client::TopicsPage| -> Vec<String> {
        page.topics.iter().map(|topic| topic.topic.clone()).collect()
    };
    assert_eq!((names(&first), first.topics[0].duplicates), (vec!["a".to_owned(), "b".to_owned()], 2));
    let second = client.topics(None, first.next.as_deref(), 2).await.unwrap();
    assert_eq!((names(&second), second.next), (vec!["c".to_owned()], None));
    let selected = client.topics(Some("b"), None, 2).await.unwrap();
    assert_eq!(names(&selected), ["b"]);
    assert_eq!((selected.topics[0].count, selected.topics[0].first_processed_at.is_some()), (2, true));
    assert_eq!(selected.topics[0].first_processed_at, selected.topics[0].last_processed_at);

    let stats = client.stats().await.unwrap();
    assert_eq!(
        (stats.received, stats.unique_processed, stats.duplicate_dropped, stats.conflicts),
        (8, 6, 2, 0)
    );
    aggregator.stop().await;
}

#[tokio::test]
async fn a_server_that_is_not_ready_says_why_at_once() {
    let aggregator = aggregator().await;
    client(aggregator.url()).ready().await.unwrap();
    client(aggregator.url()).live(Duration::from_secs(5)).await.unwrap();
    aggregator.stop().await;
    let draining = r#"{"title":"Shutting down","detail":"the server is shutting down"}"#;
    let peer = Peer::alone(|_| Act::answer("503 Service Unavailable", "retry-after: 1\r\n", draining)).await;
    let error = client(peer.url()).ready().await.unwrap_err();
    assert!(matches!(error, Error::Refused { status: StatusCode::SERVICE_UNAVAILABLE, .. }), "{error}");
    assert!(error.to_string().contains("the server is shutting down"), "{error}");
    assert_eq!(peer.requests().len(), 1);
}

#[tokio::test]
async fn an_identity_that_breaks_a_rule_is_named_and_too_many_are_refused() {
    let aggregator = aggregator().await;
    let error = client(aggregator.url()).lookup(&[Identity::new("a a", "1")]).await.unwrap_err();
    assert!(error.to_string().contains("id 0: topic"), "{error}");
    let many = vec![Identity::new("a", "1"); 10_001];
    let error = client(aggregator.url()).lookup(&many).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "identities", size: 10_001, .. }), "{error}");
    aggregator.stop().await;
}
