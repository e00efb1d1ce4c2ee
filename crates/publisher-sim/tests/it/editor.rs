//! A proxy before the aggregator that edits its streams of events: it leaves out, repeats, moves, changes and cuts.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What happens to a stream. The place is the number of an event among all that pass, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The event is left out.
    Drop(usize),
    /// The event comes twice.
    Repeat(usize),
    /// The event comes behind the next one.
    Delay(usize),
    /// The payload of the event is another one.
    Change(usize),
    /// The connection breaks in the middle of every so many events.
    CutEach(usize),
    /// From this event on, nothing passes any more over the first connection, which stays.
    Hold(usize),
}

pub(crate) struct Editor {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

struct Shared {
    server: SocketAddr,
    edit: Edit,
    /// Events that passed.
    number: Mutex<usize>,
}

impl Editor {
    pub(crate) async fn before(server: SocketAddr, edit: Edit) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { server, edit, number: Mutex::default() });
        Self { address, accepting: tokio::spawn(accept(listener, shared)) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        connections.spawn(async move { shared.connect(client).await.unwrap_or_default() });
    }
}

impl Shared {
    async fn connect(&self, client: TcpStream) -> std::io::Result<()> {
        let (from_client, mut to_client) = client.into_split();
        let mut from_client = BufReader::new(from_client);
        let mut line = String::new();
        from_client.read_line(&mut line).await?;
        let (from_server, mut to_server) = TcpStream::connect(self.server).await?.into_split();
        let mut from_server = BufReader::new(from_server);
        let is_stream = line.starts_with("GET /events/stream");
        if is_stream {
            // An answer to HTTP/1.0 has no chunks: its body is the text of the events.
            line = line.replace("HTTP/1.1", "HTTP/1.0");
        }
        to_server.write_all(line.as_bytes()).await?;
        let forth = async { copy(&mut from_client, &mut to_server).await.map(drop) };
        let back = async {
            if is_stream {
                to_client.write_all(&block(&mut from_server, b"\r\n\r\n").await?).await?;
                self.edit(&mut from_server, &mut to_client).await
            } else {
                copy(&mut from_server, &mut to_client).await.map(drop)
            }
        };
        // The first end to close ends both.
        tokio::select! {
            ended = forth => ended,
            ended = back => ended,
        }
    }

    async fn edit(
        &self,
        from: &mut (impl AsyncBufRead + Unpin),
        to: &mut (impl tokio::io::AsyncWrite + Unpin),
    ) -> std::io::Result<()> {
        let mut delayed = Vec::new();
        loop {
            let block = block(from, b"\n\n").await?;
            if block.is_empty() {
                return Ok(());
            }
            let text = String::from_utf8(block).unwrap();
            if text.starts_with("retry: ") {
                // Then the next connection follows at once.
                continue;
            }
            if text.contains("\nevent: ") || !text.contains("\ndata: ") {
                to.write_all(text.as_bytes()).await?;
                continue;
            }
            let number = {
                let mut number = self.number.lock().unwrap();
                *number += 1;
                *number - 1
            };
            match self.edit {
                Edit::Drop(place) if place == number => {}
                Edit::Repeat(place) if place == number => to.write_all(text.repeat(2).as_bytes()).await?,
                Edit::Delay(place) if place == number => delayed = text.into_bytes(),
                Edit::Change(place) if place == number => {
                    to.write_all(text.replacen("\"name\":\"", "\"name\":\"x", 1).as_bytes()).await?;
                }
                Edit::CutEach(events) if number % events == events - 1 => {
                    return to.write_all(&text.as_bytes()[..text.len() / 2]).await;
                }
                Edit::Hold(place) if place == number => return std::future::pending().await,
                _ => {
                    to.write_all(text.as_bytes()).await?;
                    to.write_all(&std::mem::take(&mut delayed)).await?;
                }
            }
        }
    }
}

/// What comes up to `end`, and with it; nothing at the end of the connection.
async fn block(from: &mut (impl AsyncBufRead + Unpin), end: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut block = Vec::new();
    while !block.ends_with(end) && from.read_until(b'\n', &mut block).await? > 0 {}
    Ok(block)
}
