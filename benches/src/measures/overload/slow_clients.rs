//! Clients that hold a connection and do as little as they can with it. One that is sent away comes back at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The pause between two bytes of one that is slow.
const PAUSE: Duration = Duration::from_millis(500);
/// They begin one after the other within this time, and so they are not all sent away at once.
const SPREAD: Duration = Duration::from_secs(8);

#[derive(Clone, Copy)]
enum Kind {
    /// Sends the head of a request byte by byte.
    Head,
    /// Sends a head, and the body byte by byte.
    Body,
    /// Asks for a long answer, and reads none of it.
    Answer,
}

/// The clients, and the thread that drives them.
pub(super) struct SlowClients {
    stop: watch::Sender<bool>,
    ended: Arc<AtomicU64>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl SlowClients {
    /// Connects so many of each kind, and waits until all are there.
    pub(super) fn start(address: SocketAddr, each: u16) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (there, mut all_there) = mpsc::channel(1);
        let ended = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(all(address, each, there, stopped, counted))
        });
        all_there.blocking_recv().context("a slow client cannot connect")?;
        Ok(Self { stop, ended, thread })
    }

    /// Ends them. Returns how often the server ended one.
    pub(super) fn finish(self) -> anyhow::Result<u64> {
        self.stop.send_replace(true);
        self.thread.join().map_err(|_| anyhow!("the slow clients panicked"))??;
        Ok(self.ended.load(Ordering::Relaxed))
    }
}

async fn all(
    address: SocketAddr,
    each: u16,
    there: mpsc::Sender<()>,
    mut stopped: watch::Receiver<bool>,
    ended: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut clients = JoinSet::new();
    for n in 0..each {
        for kind in [Kind::Head, Kind::Body, Kind::Answer] {
            // One after the other, because a listener's backlog is short.
            let stream = connect(address).await?;
            let ended = Arc::clone(&ended);
            clients.spawn(async move {
                sleep(SPREAD * n.into() / u32::from(each)).await;
                let mut stream = Some(stream);
                loop {
                    if let Some(stream) = stream.take() {
                        let _ = be_slow(stream, kind).await;
                        ended.fetch_add(1, Ordering::Relaxed);
                    }
                    sleep(PAUSE).await;
                    stream = connect(address).await.ok();
                }
            });
        }
    }
    there.send(()).await?;
    let _ = stopped.wait_for(|stopped| *stopped).await;
    Ok(())
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4 << 10)?;
    Ok(socket.connect(address).await?)
}

/// Returns once the server has ended the connection.
async fn be_slow(mut stream: TcpStream, kind: Kind) -> std::io::Result<()> {
    match kind {
        Kind::Head => dribble(stream, b"GET /events HTTP/1.1\r\nx-slow: ").await,
        Kind::Body => {
            stream
                .write_all(
                    b"POST /publish HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                      content-length: 100000\r\n\r\n",
                )
                .await?;
            dribble(stream, b"[").await
        }
        Kind::Answer => {
            stream
                .write_all(
                    b"GET /events?limit=100000 HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n",
                )
                .await?;
            loop {
                sleep(PAUSE).await;
                // Writes show whether the server is still there.
                stream.write_all(b"\r\n").await?;
            }
        }
    }
}

/// Sends these bytes, and then spaces, one after a pause each, and looks for an answer or an end.
async fn dribble(mut stream: TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut answer = [0; 1];
    for byte in bytes.iter().chain(std::iter::repeat(&b' ')) {
        stream.write_all(&[*byte]).await?;
        if tokio::time::timeout(PAUSE, stream.read(&mut answer)).await.is_ok() {
            return Ok(());
        }
    }
    Ok(())
}
