//! Asks a server over its admin socket.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest line of an answer that is made of lines.
const MAX_LINE_BYTES: usize = 4 << 20;
/// Longer than any answer.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Why there is no answer, or no good one.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The socket cannot be used.
    #[error("the admin socket {path}", path = path.display())]
    Socket {
        /// Where it is.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The server has refused it.
    #[error("{0}")]
    Refused(String),
    /// What should tell the end never came.
    #[error("the server has ended before it was done")]
    CutOff,
}

/// A server that listens at an admin socket.
pub(super) struct Socket {
    path: PathBuf,
    runtime: Runtime,
}

impl Socket {
    /// The server that listens there, if one does.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, SocketError> {
        let failed = |source| SocketError::Socket { path: path.to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        match runtime.block_on(UnixStream::connect(path)) {
            Ok(_) => Ok(Some(Self { path: path.to_owned(), runtime })),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The answer to a request, which is JSON.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        body: Option<String>,
    ) -> Result<T, SocketError> {
        let failed = |source| SocketError::Socket { path: self.path.clone(), source };
        let exchange = async { timeout(PATIENCE, self.exchange(method, path, body)).await };
        let (status, answer) =
            self.runtime.block_on(exchange).map_err(|error| failed(error.into()))?.map_err(failed)?;
        if !status.is_success() {
            return Err(SocketError::Refused(reason(status, &answer)));
        }
        serde_json::from_slice(&answer).map_err(|error| failed(error.into()))
    }

    /// Reads an answer that comes in lines of JSON, each within the usual time, until `on_line` returns something.
    pub(super) fn ask_lines<L: DeserializeOwned, T>(
        &self,
        path: &str,
        body: String,
        mut on_line: impl FnMut(L) -> Option<T>,
    ) -> Result<T, SocketError> {
        let failed = |source| SocketError::Socket { path: self.path.clone(), source };
        self.runtime.block_on(async {
            let sent = timeout(PATIENCE, self.send("POST", path, Some(body))).await;
            let response = sent.map_err(|error| failed(error.into()))?.map_err(failed)?;
            let status = response.status();
            let mut body = response.into_body();
            let mut text = Vec::new();
            while let Some(frame) =
                timeout(PATIENCE, body.frame()).await.map_err(|error| failed(error.into()))?
            {
                let frame = frame.map_err(|error| failed(io::Error::other(error)))?;
                text.extend_from_slice(&frame.into_data().unwrap_or_default());
                while status.is_success()
                    && let Some(end) = text.iter().position(|&byte| byte == b'\n')
                {
                    let line = text.drain(..=end).collect::<Vec<_>>();
                    let line = serde_json::from_slice(&line).map_err(|error| failed(error.into()))?;
                    if let Some(done) = on_line(line) {
                        return Ok(done);
                    }
                }
                if text.len() > MAX_LINE_BYTES {
                    return Err(failed(io::Error::other("a line of the answer does not end")));
                }
            }
            Err(if status.is_success() {
                SocketError::CutOff
            } else {
                SocketError::Refused(reason(status, &text))
            })
        })
    }

    async fn exchange(
        &self,
        method: &'static str,
        path: &str,
        body: Option<String>,
    ) -> io::Result<(StatusCode, Bytes)> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok((status, body.map_err(io::Error::other)?.to_bytes()))
    }

    async fn send(
        &self,
        method: &'static str,
        path: &str,
        body: Option<String>,
    ) -> io::Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.path).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::<Bytes>::from(body.unwrap_or_default()))
            .map_err(io::Error::other)?;
        sender.send_request(request).await.map_err(io::Error::other)
    }
}

/// The detail of a problem (RFC 9457).
fn reason(status: StatusCode, answer: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    match serde_json::from_slice(answer) {
        Ok(Problem { detail }) => detail,
        Err(_) => format!("the server answers {status}"),
    }
}
