//! Bodies that come compressed.

use std::io::Write as _;
use std::sync::Arc;

use aggregator_core::MemoryStore;
use aggregator_server::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Answer, Server, events};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

async fn send(server: &Server, path: &str, encoding: &str, body: Vec<u8>) -> Answer {
    let request = server.client.post(format!("{}{path}", server.url)).header("content-encoding", encoding);
    Answer::of(request.header("content-type", "application/json").body(body).send().await.unwrap()).await
}

#[tokio::test]
async fn events_come_compressed() {
    let server = Server::volatile().await;
    for (round, (encoding, body)) in
        [("gzip", gzip as fn(&[u8]) -> _), ("zstd", zstd), ("X-GZIP", gzip)].into_iter().enumerate()
    {
        let from = u32::try_from(round).unwrap() * 1_000;
        let text = events("t", from..from + 1_000).to_string();
        let answer = send(&server, "/publish", encoding, body(text.as_bytes())).await;
        assert_eq!(answer.json["stored"], 1_000, "{encoding}: {}", answer.json);
        let ids = json!({"ids": [{"topic": "t", "event_id": "7"}]}).to_string();
        let answer = send(&server, "/lookup", encoding, body(ids.as_bytes())).await;
        assert_eq!(answer.json["results"][0]["seen"], true, "{encoding}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_body_counts_as_what_it_stands_for() {
    let config = Config { max_body_bytes: "64KiB".parse().unwrap(), ..Config::default() };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let event = |bytes: usize| {
        let around = json!({"topic": "t", "event_id": bytes.to_string(), "payload": ""}).to_string().len();
        json!({"topic": "t", "event_id": bytes.to_string(), "payload": "x".repeat(bytes - around)})
            .to_string()
    };
    for encode in [gzip, zstd] {
        let encoding = if encode(b"")[0] == 0x1f { "gzip" } else { "zstd" };
        let whole = send(&server, "/publish", encoding, encode(event(64 << 10).as_bytes())).await;
        assert_eq!(whole.status, 202, "{encoding}: {}", whole.json);
        let more = send(&server, "/publish", encoding, encode(event((64 << 10) + 1).as_bytes())).await;
        more.problem(413, "too-large");
        more.tells(&["--max-body-bytes"]);
        // The connection is good for the next request.
        let bomb = send(&server, "/publish", encoding, encode(&vec![b' '; 256 << 20])).await;
        bomb.problem(413, "too-large");
        let cut = encode(event(1_000).as_bytes());
        send(&server, "/publish", encoding, cut[..cut.len() / 2].to_vec())
            .await
            .problem(400, "malformed-body");
    }
    let stats: Value = server.stats().await;
    assert_eq!((&stats["unique_processed"], &stats["duplicate_dropped"]), (&json!(1), &json!(1)));
    server.stop().await.unwrap();
}

/// Decoders take memory of their own, so there are not as many of them as anybody likes: here, one. A body takes it once all
/// of it is there, so clients that are slow hold up nobody.
#[tokio::test]
async fn a_body_that_comes_slowly_holds_up_no_other() {
    let config = Config {
        max_body_bytes: "1MiB".parse().unwrap(),
        request_bytes: "16MiB".parse().unwrap(),
        ..Config::default()
    };
    let server = Server::start(Arc::new(MemoryStore::default()), config).await;
    let body = zstd(events("t", 0..10).to_string().as_bytes());
    let head = format!(
        "POST /publish HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: zstd\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(&[head.as_bytes(), &body[..10]].concat()).await.unwrap();
        slow.push(stream);
    }
    assert_eq!(send(&server, "/publish", "zstd", body.clone()).await.json["stored"], 10);
    for mut stream in slow {
        stream.write_all(&body[10..]).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 202");
    }
    server.stop().await.unwrap();
}
