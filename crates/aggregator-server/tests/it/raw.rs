//! Requests as no library sends them, byte by byte.
//!
//! Each begins a connection, and a good request follows on the same one. A server that finds another end of the first
//! request than a proxy before it takes a part of the first one for a request, or a request for a part of the first one:
//! request smuggling. So what is asserted of each is how many requests the server saw, and what it answered.

mod corpus;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::Server;

use self::corpus::CASES;

/// A good request. It closes the connection, so that the end of the answers is seen.
const NEXT: &str = "GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// The statuses of the answers to these bytes, until the server closes.
async fn statuses(server: &Server, bytes: &[u8]) -> Vec<u16> {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    answers(stream).await
}

/// The statuses of all that is answered, if nothing more is sent.
async fn answers(mut stream: TcpStream) -> Vec<u16> {
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(read.is_ok(), "it does not close: {answer:?}");
    // Every body ends with a newline.
    let lines =
        answer.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ").or(line.strip_prefix("HTTP/1.0 ")));
    lines.map(|line| line[..3].parse().unwrap()).collect()
}

#[tokio::test]
async fn every_request_of_the_corpus_ends_where_it_ends() {
    let server = Server::volatile().await;
    let mut wrong = BTreeMap::new();
    for case in CASES {
        let answers = statuses(&server, &[case.bytes, NEXT.as_bytes()].concat()).await;
        if answers != case.answers {
            wrong.insert(case.name, format!("{answers:?}, and not {:?}", case.answers));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(CASES.len() >= 100, "{}", CASES.len());
    // What was hidden in one of them is a part of it, and was never a request.
    let stored = server.get("/events?topic=hidden").await;
    assert_eq!(stored.json["count"], 0, "{}", stored.json);
    server.stop().await.unwrap();
}

/// The same in two pieces, cut anywhere: what a server sees first must not matter.
#[tokio::test]
async fn where_a_request_is_cut_does_not_matter() {
    let server = Server::volatile().await;
    for case in CASES.iter().filter(|case| case.bytes.len() < 300).step_by(9) {
        for at in (1..case.bytes.len()).step_by(7) {
            let (first, rest) = case.bytes.split_at(at);
            let mut stream = TcpStream::connect(server.address()).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let _ = stream.write_all(first).await;
            tokio::task::yield_now().await;
            let _ = stream.write_all(&[rest, NEXT.as_bytes()].concat()).await;
            let answers = answers(stream).await;
            // A connection that is closed with unread bytes may lose the answer on its way.
            let is_lost = answers.is_empty() && case.answers.len() == 1;
            assert!(is_lost || answers == case.answers, "{}, cut at {at}: {answers:?}", case.name);
        }
    }
    server.stop().await.unwrap();
}
