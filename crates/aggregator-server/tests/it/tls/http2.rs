//! HTTP/2: several requests share a connection, and none can harm the others or the server.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use aggregator_server::Config;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Version;
use rustls::pki_types::ServerName;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::pki::Authority;
use super::{client, client_config, secure, start};
use crate::support::{Server, event, in_time, until};
use crate::tails::event_source::EventSource;

/// A connection of its own, whose streams have a window of this size.
async fn connect(
    server: &Server,
    authority: &Authority,
    window: u32,
) -> (SendRequest<Empty<Bytes>>, JoinHandle<()>) {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let tls = TlsConnector::from(Arc::new(client_config(authority, None, &["h2"])));
    let stream = tls.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(1 << 20)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    (sender, tokio::spawn(async move { drop(connection.await) }))
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("https://localhost{path}")).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn two_streams_and_a_publisher_share_a_connection_which_keeps_its_place() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let shared = client(&authority, &["h2"]);
    let config = Config { max_connections: NonZeroUsize::MIN, ..secure(&authority, directory.path()) };
    let server = start(shared.clone(), config).await;
    // With one place, whatever works is on one connection.
    let mut one = EventSource::open_with(&shared, &format!("{}/events/stream?topic=a", server.url)).await;
    let mut two = EventSource::open_with(&shared, &format!("{}/events/stream?topic=b", server.url)).await;
    assert_eq!((one.version(), two.version()), (Version::HTTP_2, Version::HTTP_2));
    one.caught_up().await;
    two.caught_up().await;
    for id in 1..=3 {
        assert_eq!(server.publish(&json!([event("a", id), event("b", id * 10)])).await.status, 202);
    }
    assert_eq!(one.event_ids(3).await, ["1", "2", "3"]);
    assert_eq!(two.event_ids(3).await, ["10", "20", "30"]);
    let another = client(&authority, &["h2"]).get(format!("{}/livez", server.url)).send().await;
    assert!(another.is_err(), "the place is still taken: {another:?}");
    drop(one);
    server.publish(&event("b", 40)).await;
    assert_eq!(two.event_ids(1).await, ["40"], "the end of one stream is not the end of the other");
    drop((two, shared));
    let stop = server.stop();
    in_time("the server ends", stop).await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_streams_and_connections() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let shared = client(&authority, &["h2"]);
    let config = Config { drain_timeout: Duration::from_secs(3_600), ..secure(&authority, directory.path()) };
    let server = start(shared.clone(), config).await;
    let mut stream = EventSource::open_with(&shared, &format!("{}/events/stream", server.url)).await;
    stream.caught_up().await;
    let stopping = server.begin_stop();
    assert!(stream.next().await.is_none());
    assert_eq!(stream.parser.retries.len(), 2, "it was told when to come again");
    in_time("the server ends", stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_without_a_request_is_ended_and_one_with_a_stream_is_not() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let shared = client(&authority, &["h2"]);
    let config =
        Config { header_timeout: Duration::from_millis(300), ..secure(&authority, directory.path()) };
    let server = start(shared.clone(), config).await;
    let (mut busy, mut busy_connection) = connect(&server, &authority, 65_535).await;
    let stream = busy.send_request(get("/events/stream")).await.unwrap();
    let (_idle, idle_connection) = connect(&server, &authority, 65_535).await;
    in_time("the idle connection ends", idle_connection).await.unwrap();
    let longer = tokio::time::timeout(Duration::from_millis(900), &mut busy_connection).await;
    assert!(longer.is_err(), "the stream is still open");
    assert_eq!(busy.send_request(get("/livez")).await.unwrap().status(), StatusCode::OK);
    drop((stream, busy));
    in_time("it ends after its stream", busy_connection).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_its_client_does_not_take_is_ended_and_the_connection_goes_on() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let config = Config {
        write_timeout: Duration::from_millis(500),
        response_bytes: "12MiB".parse().unwrap(),
        ..secure(&authority, directory.path())
    };
    let server = start(client(&authority, &["http/1.1"]), config).await;
    let mut large = event("t", 1);
    large["payload"] = json!("x".repeat(8 << 20));
    assert_eq!(server.publish(&large).await.status, 202);
    let (mut deaf, _connection) = connect(&server, &authority, 1_000).await;
    let mut held = deaf.send_request(get("/events?topic=t")).await.unwrap();
    assert_eq!(held.status(), StatusCode::OK);
    server.get("/events?topic=t").await.problem(503, "overloaded");
    until("the memory is free again", async || server.get("/events?topic=t").await.status == 200).await;
    let mut taken = 0;
    let end = loop {
        match in_time("the stream ends", held.frame()).await {
            Some(Ok(frame)) => taken += frame.into_data().unwrap().len(),
            end => break end,
        }
    };
    assert!(taken < 64 << 10 && matches!(end, Some(Err(_))), "{taken} bytes, and {end:?}");
    let answer = deaf.send_request(get("/livez")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "the connection goes on");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_answer_holds_no_memory_while_only_its_end_is_not_taken() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let config = Config { response_bytes: "3MiB".parse().unwrap(), ..secure(&authority, directory.path()) };
    let server = start(client(&authority, &["http/1.1"]), config).await;
    let mut large = event("t", 1);
    large["payload"] = json!("x".repeat((2 << 20) + 20_000));
    assert_eq!(server.publish(&large).await.status, 202);
    let (mut slow, _connection) = connect(&server, &authority, 4_000).await;
    let mut answer = slow.send_request(get("/events?topic=t")).await.unwrap();
    server.get("/events?topic=t").await.problem(503, "overloaded");
    let mut taken = 0;
    // An answer is handed over in pieces of 32 KiB: all of the last one but its begin waits.
    while taken < (2 << 20) + 5_000 {
        taken += answer.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    until("the memory is free again", async || server.get("/events?topic=t").await.status == 200).await;
    let rest = answer.collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"}\n"), "it was all there");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_takes_its_time_gets_all_of_a_large_answer() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let config = Config { write_timeout: Duration::from_millis(400), ..secure(&authority, directory.path()) };
    let server = start(client(&authority, &["http/1.1"]), config).await;
    let mut large = event("t", 1);
    large["payload"] = json!("x".repeat(1 << 20));
    assert_eq!(server.publish(&large).await.status, 202);
    let (mut slow, _connection) = connect(&server, &authority, 65_535).await;
    let mut answer = slow.send_request(get("/events?topic=t")).await.unwrap();
    let mut taken = 0;
    while let Some(frame) = answer.frame().await {
        let before = taken;
        taken += frame.unwrap().into_data().unwrap().len();
        // Longer than the limit in all, and never at one time.
        if before >> 17 != taken >> 17 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert!(taken > 1 << 20);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_head_too_large_or_with_two_hosts_is_refused() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let config = Config { max_head_bytes: "4KiB".parse().unwrap(), ..secure(&authority, directory.path()) };
    let server = start(client(&authority, &[]), config).await;
    let (mut sender, _connection) = connect(&server, &authority, 65_535).await;
    let mut send = async |name: &'static str, value: &str| {
        let mut request = get("/livez");
        request.headers_mut().insert(name, value.parse().unwrap());
        sender.send_request(request).await.map(|answer| answer.status().as_u16())
    };
    assert_eq!(send("x-large", &"x".repeat(2_000)).await.unwrap(), 200);
    assert_eq!(send("host", "localhost").await.unwrap(), 200);
    assert_eq!(send("host", "elsewhere").await.unwrap(), 400);
    assert_eq!(send("x-large", &"x".repeat(5_000)).await.unwrap(), 431);
    server.stop().await.unwrap();
}
