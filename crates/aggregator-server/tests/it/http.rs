//! HTTP itself: what every request must have and every answer has, whatever it is about.

use std::sync::Arc;

use aggregator_core::{MemoryStore, Partitions};
use aggregator_server::Config;
use serde_json::json;

use crate::support::{Answer, Server, event, events};

/// The target of the link to the next page.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.headers.get("link")?.to_str().unwrap();
    let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(r#">; rel="next""#));
    Some(target.unwrap_or_else(|| panic!("{link}")).to_owned())
}

#[tokio::test]
async fn the_cursor_of_a_page_is_in_its_head_too() {
    let server = Server::volatile().await;
    server.publish(&events("a/b.c", 0..5)).await;
    let id = "é<>\"+&=#%";
    server.publish(&json!({"topic": "t", "event_id": id, "source": "s p"})).await;

    let mut target = "/events?limit=2&topic=a/b.*&order=desc".to_owned();
    for expected in [vec!["4", "3"], vec!["2", "1"], vec!["0"], vec![]] {
        let answer = server.get(&target).await;
        let found: Vec<_> =
            answer.json["events"].as_array().unwrap().iter().map(|e| &e["event_id"]).collect();
        assert_eq!(found, expected, "{target}");
        target = next(&answer).unwrap();
        let cursor = answer.json["next"].as_str().unwrap();
        assert_eq!(target, format!("/events?limit=2&topic=a/b.*&order=desc&after={cursor}"));
    }

    // Whatever the query is made of, what the link says can be asked for.
    let encoded = "%C3%A9%3c%3E%22%2B%26%3D%23%25";
    for query in [format!("?topic=t&event_id={encoded}&source=s+p&"), format!("?&event_id={encoded}&topic=t")]
    {
        let answer = server.get(&format!("/events{query}")).await;
        assert_eq!(answer.json["events"][0]["event_id"], id, "{query}");
        let again = server.get(&next(&answer).unwrap()).await;
        assert_eq!((again.status.as_u16(), &again.json["caught_up"]), (200, &json!(true)));
    }
}

#[tokio::test]
async fn the_next_page_of_topics_is_in_the_head_too() {
    let server = Server::volatile().await;
    server.publish(&json!([event("a", 1), event("b", 1), event("c", 1)])).await;
    let answer = server.get("/topics?limit=2").await;
    assert_eq!(next(&answer).unwrap(), "/topics?limit=2&after=b");
    let answer = server.get("/topics?after=b&limit=2").await;
    assert_eq!((answer.json["topics"][0]["topic"].as_str(), next(&answer)), (Some("c"), None));
}

#[tokio::test]
async fn a_link_too_long_for_a_head_is_left_out() {
    let store = MemoryStore::new(Partitions::new(1024).unwrap());
    let server = Server::start(Arc::new(store), Config::default()).await;
    server.publish(&event("t", 1)).await;
    let answer = server.get("/events").await;
    assert_eq!((answer.json["count"].as_u64(), next(&answer)), (Some(1), None));
    assert!(next(&server.get("/events?topic=t").await).is_some(), "one topic lies in one partition");
}
