//! Readers of streams, which share one thread.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aggregator_core::Timestamp;
use anyhow::{Context as _, anyhow, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::load::histogram;
use crate::wire::find;
use crate::workload::topic_name;

/// How long to wait for events that are still missing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Streams, and the thread that reads them.
pub(in crate::measures) struct Readers {
    received: Arc<Received>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<anyhow::Result<()>>,
}

/// The events of all streams.
struct Received {
    events: AtomicU64,
    /// The delays of the events, in µs.
    delays: Mutex<Histogram<u64>>,
}

impl Readers {
    /// Opens `streams` streams over `topics` topics, each behind everything that is stored, and waits until all are there.
    pub(in crate::measures) fn start(address: SocketAddr, streams: u16, topics: u16) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (open, opened) = oneshot::channel();
        let received = Arc::new(Received { events: AtomicU64::new(0), delays: Mutex::new(histogram()) });
        let counted = Arc::clone(&received);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(read_all(address, streams, topics, &counted, open, stopped))
        });
        opened.blocking_recv().map_err(|_| anyhow!("a stream could not be opened"))?;
        Ok(Self { received, stop, thread })
    }

    /// Waits until `expected` events have come. Fails if there are more or fewer. Returns their delays, in µs.
    pub(in crate::measures) fn finish(self, expected: u64) -> anyhow::Result<Histogram<u64>> {
        let began = Instant::now();
        while self.received.events.load(Ordering::Relaxed) < expected && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.stop.send_replace(true);
        self.thread.join().map_err(|_| anyhow!("the readers panicked"))??;
        let received = self.received.events.load(Ordering::Relaxed);
        ensure!(received == expected, "the streams delivered {received} events, but {expected} were due");
        let delays = self.received.delays.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(delays.clone())
    }
}

async fn read_all(
    address: SocketAddr,
    streams: u16,
    topics: u16,
    received: &Arc<Received>,
    open: oneshot::Sender<()>,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for number in 0..streams {
        // Streams are opened one after the other, because a listener's backlog is short.
        let stream = Stream::open(address, number % topics).await?;
        tasks.spawn(stream.read(Arc::clone(received), stopped.clone()));
    }
    let _ = open.send(());
    while let Some(task) = tasks.join_next().await {
        task.context("a reader")??;
    }
    Ok(())
}

struct Stream {
    connection: TcpStream,
    buffer: Vec<u8>,
}

impl Stream {
    /// Opens the stream behind what is stored.
    async fn open(address: SocketAddr, topic: u16) -> anyhow::Result<Self> {
        let mut connection = TcpStream::connect(address).await?;
        let request = format!(
            "GET /events/stream?topic={}&after=latest HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n",
            topic_name(topic.into())
        );
        connection.write_all(request.as_bytes()).await?;
        let mut buffer = Vec::with_capacity(1024);
        while find(&buffer, b"event: caught_up\n").is_none() {
            ensure!(connection.read_buf(&mut buffer).await? > 0, "{}", String::from_utf8_lossy(&buffer));
        }
        ensure!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
        Ok(Self { connection, buffer: Vec::new() })
    }

    /// Reads until it is stopped.
    async fn read(
        mut self,
        received: Arc<Received>,
        mut stopped: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        loop {
            let read = tokio::select! {
                read = self.connection.read_buf(&mut self.buffer) => read?,
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            };
            ensure!(read > 0, "a stream ended");
            let mut delays = received.delays.lock().unwrap_or_else(PoisonError::into_inner);
            let events = self.take_events(&mut delays)?;
            received.events.fetch_add(events, Ordering::Relaxed);
        }
    }

    /// Takes whole events from the buffer. Returns how many.
    fn take_events(&mut self, delays: &mut Histogram<u64>) -> anyhow::Result<u64> {
        const TIME: &[u8] = b"\"processed_at\":\"";
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
        let (mut events, mut at) = (0, 0);
        while let Some(found) = find(&self.buffer[at..], TIME) {
            let start = at + found + TIME.len();
            let Some(length) = find(&self.buffer[start..], b"\"}\n\n") else { break };
            let time: Timestamp = std::str::from_utf8(&self.buffer[start..start + length])?.parse()?;
            let delay = now.saturating_sub(u128::try_from(time.as_micros()).unwrap_or(0));
            delays.saturating_record(u64::try_from(delay).unwrap_or(u64::MAX));
            events += 1;
            at = start + length;
        }
        self.buffer.drain(..at);
        Ok(events)
    }
}
