//! Answers to connections from which no request is read.

use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::problem::{self, Problem};
use crate::http::request_id::RequestId;

/// How long a client has to take its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers 503, and closes.
pub(super) async fn too_many(stream: TcpStream) {
    let response = problem::unread(
        Problem::overloaded("too many connections (--max-connections)"),
        RequestId::generate(),
    );
    let (head, body) = response.into_parts();
    let Ok(body) = body.collect().await else { return };
    let body = body.to_bytes();
    let mut text =
        format!("HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: {}\r\n", head.status, body.len());
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
    }
    text.push_str("\r\n");
    send(stream, &[text.as_bytes(), &body].concat()).await;
}

/// Tells a client that speaks plain HTTP to the port of TLS, and closes.
pub(super) async fn not_tls(stream: TcpStream) {
    const BODY: &str = "this port speaks TLS: use https://\n";
    let head = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8";
    let (id, length) = (RequestId::generate(), BODY.len());
    let answer = format!("{head}\r\nx-request-id: {id}\r\ncontent-length: {length}\r\n\r\n{BODY}");
    send(stream, answer.as_bytes()).await;
}

async fn send(mut stream: TcpStream, answer: &[u8]) {
    let exchange = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        // Closing with unread input would reset the connection before the client has read the answer.
        let mut rest = [0; 4096];
        for _ in 0..64 {
            if stream.read(&mut rest).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    let _ = timeout(PATIENCE, exchange).await;
}
