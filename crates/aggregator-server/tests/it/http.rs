//! HTTP itself: what every request must have and every answer has, whatever it is about.

use std::io::Read as _;
use std::sync::Arc;

use aggregator_core::MemoryStore;
use aggregator_core::store::faulty::{Failure, FaultyStore};
use aggregator_server::Config;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Answer, Server, event, events};

fn post(target: &str, headers: &str, bytes: usize) -> String {
    format!("POST {target} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {bytes}\r\n\r\n")
}

const EXPECT: &str = "expect: 100-continue\r\n";

/// The only thing that comes is the final answer, and the end.
#[track_caller]
fn assert_refused_at_once(answer: &str, status: u16) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[tokio::test]
async fn a_body_that_will_be_refused_is_never_asked_for() {
    let server = Server::volatile().await;
    const LARGE: usize = 40 << 20;
    for (target, headers, bytes, status) in [
        ("/publish", "", LARGE, 413),
        ("/lookup", "", LARGE, 413),
        ("/publish", "content-type: text/plain\r\n", 10, 415),
        ("/lookup", "content-encoding: br\r\n", 10, 415),
        ("/publish?colour=red", "", LARGE, 400),
        ("/publish/", "", LARGE, 404),
        ("/events", "", LARGE, 405),
    ] {
        let answer = server.raw(post(target, &format!("{EXPECT}{headers}"), bytes).as_bytes()).await;
        assert_refused_at_once(&answer, status);
    }
    let chunked =
        format!("POST /nowhere HTTP/1.1\r\nhost: localhost\r\n{EXPECT}transfer-encoding: chunked\r\n\r\n");
    assert_refused_at_once(&server.raw(chunked.as_bytes()).await, 404);
}

#[tokio::test]
async fn a_server_that_takes_no_events_asks_for_none() {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    let server = Server::start(Arc::clone(&faulty) as _, Config::default()).await;
    faulty.fail_nth(1, Failure::Corrupt);
    server.publish(&event("t", 1)).await.problem(503, "failed");
    assert_refused_at_once(&server.raw(post("/publish", EXPECT, 40 << 20).as_bytes()).await, 503);
}

#[tokio::test]
async fn a_body_that_has_no_room_is_not_asked_for() {
    let config = Config {
        request_bytes: "1KiB".parse().unwrap(),
        max_body_bytes: "1KiB".parse().unwrap(),
        ..Config::default()
    };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let mut slow = TcpStream::connect(server.address()).await.unwrap();
    slow.write_all(format!("{}[", post("/publish", "", 1_000)).as_bytes()).await.unwrap();
    // Its room is taken once the server has begun to read it.
    while server.publish(&event("t", 1)).await.status != 503 {}
    assert_refused_at_once(&server.raw(post("/publish", EXPECT, 1_000).as_bytes()).await, 503);
}

#[tokio::test]
async fn a_body_that_can_be_taken_is_asked_for() {
    let server = Server::volatile().await;
    let body = event("t", 1).to_string();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(post("/publish", EXPECT, body.len()).as_bytes()).await.unwrap();
    let mut asked = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut asked).await.unwrap();
    assert_eq!(asked, *b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(status, *b"HTTP/1.1 202");
}

#[tokio::test]
async fn a_request_names_one_host() {
    let server = Server::volatile().await;
    let body = event("t", 1).to_string();
    for hosts in [
        "",
        "host: a\r\nhost: a\r\n",
        "host: a b\r\n",
        "host: a/b\r\n",
        "host: user@a\r\n",
        "host: a:http\r\n",
        "host: a:8080:1\r\n",
        "host: [::1\r\n",
        "host: [::g]\r\n",
        "host: a%2\r\n",
        "host: \"a\"\r\n",
    ] {
        for request in [
            format!("GET /livez HTTP/1.1\r\n{hosts}\r\n"),
            format!("POST /publish HTTP/1.1\r\n{hosts}content-length: {}\r\n\r\n{body}", body.len()),
        ] {
            let answer = server.raw(request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{request}: {answer}");
            assert!(answer.contains("urn:aggregator:problem:bad-host"), "{request}: {answer}");
        }
    }
    for host in ["", "a", "a.b.c.", "127.0.0.1:8080", "[::1]", "[::1]:80", "a_b:", "a%2Cb", "localhost:8080"]
    {
        let request = format!("GET /livez HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = server.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host:?}: {answer}");
    }
    let answer = server.raw(b"GET /livez HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 "), "HTTP/1.0 knew no Host: {answer}");
    assert_eq!(server.stats().await["received"], 0);
}

#[tokio::test]
async fn a_path_that_is_nearly_right_is_told_the_right_one() {
    let server = Server::volatile().await;
    for (path, meant) in [
        ("/publish/", "/publish"),
        ("//publish", "/publish"),
        ("/Publish", "/publish"),
        ("/publsih", "/publish"),
        ("/event", "/events"),
        ("/events/", "/events"),
        ("/topic", "/topics"),
        ("/stat", "/stats"),
        ("/look-up", "/lookup"),
        ("/ready", "/readyz"),
        ("/healthz", "/health"),
    ] {
        for answer in [server.get(path).await, server.post(path, "{}").await] {
            answer.problem(404, "not-found");
            answer.tells(&[path, &format!("did you mean {meant}?")]);
        }
    }
    let answer = server.get("/nothing/like/it").await;
    answer.problem(404, "not-found");
    answer.tells(&["/publish", "/events", "/lookup", "/topics", "/stats"]);
    let answer = server.get(&format!("/{}", "x".repeat(30_000))).await;
    answer.problem(404, "not-found");
    assert!(answer.json.to_string().len() < 1_000);
}

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
    let server = Server::volatile().await;
    server.publish(&event("t", 1)).await;
    let topics = |count: usize| {
        let others: String = (1..count).map(|n| format!("&topic={}.{n}", "long".repeat(20))).collect();
        format!("/events?topic=t{others}")
    };
    let answer = server.get(&topics(30)).await;
    assert_eq!((answer.json["count"].as_u64(), next(&answer)), (Some(1), None));
    assert!(next(&server.get(&topics(3)).await).is_some());
    let answer = server.get(&topics(100)).await;
    assert_eq!(answer.json["count"], 1);
    assert_eq!(server.get(&topics(101)).await.problem(400, "bad-parameter"), [(None, "topic".into())]);
}

/// The body of an answer to a client that accepts these encodings, as it came, with its encoding.
async fn encoded(server: &Server, path: &str, accept: &str, encodings: &str) -> (String, Vec<u8>) {
    let request = server.client.get(format!("{}{path}", server.url)).header("accept", accept);
    let answer = request.header("accept-encoding", encodings).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let encoding = answer.headers().get("content-encoding").map(|value| value.to_str().unwrap().to_owned());
    (encoding.unwrap_or_default(), answer.bytes().await.unwrap().to_vec())
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_accept_it() {
    let server = Server::volatile().await;
    server.publish(&events("t", 0..3_000)).await;
    for (path, accept) in [
        ("/events?topic=t&limit=1000", "application/json"),
        ("/events?topic=t&limit=3000", "application/x-ndjson"),
    ] {
        let (none, plain) = encoded(&server, path, accept, "br").await;
        assert_eq!(none, "");
        let (gzip, body) = encoded(&server, path, accept, "gzip").await;
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut unpacked).unwrap();
        assert!((gzip.as_str(), &unpacked) == ("gzip", &plain) && body.len() * 4 < plain.len());
        let (zstd, body) = encoded(&server, path, accept, "gzip;q=0.5, zstd").await;
        assert!(zstd == "zstd" && zstd::decode_all(&body[..]).unwrap() == plain);
        assert_eq!(encoded(&server, path, accept, "gzip;q=0, identity").await.0, "");
    }
    assert_eq!(encoded(&server, "/events?topic=t&limit=1", "*/*", "gzip").await.0, "", "it is small");
    let stream = server.client.get(format!("{}/events/stream?topic=t", server.url));
    let stream = stream.header("accept-encoding", "gzip, zstd").send().await.unwrap();
    assert_eq!(stream.headers().get("content-encoding"), None, "an event would wait for the next one");
}

#[tokio::test]
async fn every_body_ends_with_a_newline() {
    let server = Server::volatile().await;
    let ends = async |request: reqwest::RequestBuilder| {
        let text = request.send().await.unwrap().text().await.unwrap();
        assert!(text.ends_with("}\n") && !text.ends_with("\n\n"), "{text:?}");
    };
    for path in ["/", "/health", "/livez", "/readyz", "/stats", "/topics", "/events", "/nothing", "/events?x"]
    {
        ends(server.client.get(format!("{}{path}", server.url))).await;
    }
    let post = |path: &str| server.client.post(format!("{}{path}", server.url));
    ends(post("/events")).await;
    for query in ["", "?results=none", "?ack=queued"] {
        ends(post(&format!("/publish{query}")).json(&event("t", 1))).await;
    }
    ends(post("/publish").body("{")).await;
    ends(post("/lookup").json(&json!({"ids": [{"topic": "t", "event_id": "1"}]}))).await;
}

#[tokio::test]
async fn a_chunked_body_is_bounded_as_it_comes() {
    let config = Config { max_body_bytes: "2KiB".parse().unwrap(), ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let mut request =
        b"POST /publish HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..3 {
        request.extend(format!("3e8\r\n{}\r\n", " ".repeat(1_000)).bytes());
    }
    request.extend(b"0\r\n\r\n");
    let answer = server.raw(&request).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("--max-body-bytes"), "{answer}");

    let body = event("t", 1).to_string();
    let (head, tail) = body.split_at(10);
    let request = format!(
        "POST /publish HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{head}\r\n{:x}\r\n{tail}\r\n0\r\n\r\n",
        head.len(),
        tail.len()
    );
    assert!(server.raw(request.as_bytes()).await.starts_with("HTTP/1.1 202 "));
}

#[tokio::test]
async fn a_body_that_breaks_off_stores_nothing() {
    let server = Server::volatile().await;
    let body = event("t", 1).to_string();
    let request = format!(
        "POST /publish HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len() + 1
    );
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(server.stats().await["received"], 0);
}
