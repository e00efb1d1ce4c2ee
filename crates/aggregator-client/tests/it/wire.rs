//! A wire between the client and a server that knows nothing of replies: a plan says what happens to each connection.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of the bytes from the server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wire {
    /// They pass.
    Pass,
    /// The connection breaks after so many.
    Cut(usize),
    /// So many pass, and then nothing; the connection stays.
    Stall(usize),
    /// The head of the first reply passes, and its body is kept until it ends: a proxy that buffers.
    KeepBody,
}

pub(crate) struct Wires {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

type Plan = dyn Fn(usize, &str) -> Wire + Send + Sync;

struct Shared {
    server: Mutex<SocketAddr>,
    plan: Box<Plan>,
    requests: Mutex<Vec<String>>,
}

impl Wires {
    /// To `server`, with `plan(n, line)` for the connection number `n`, from 0, whose first request has this first line.
    pub(crate) async fn to(
        server: SocketAddr,
        plan: impl Fn(usize, &str) -> Wire + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { server: Mutex::new(server), plan: Box::new(plan), requests: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on connections go there.
    pub(crate) fn lead_to(&self, server: SocketAddr) {
        *self.shared.server.lock().unwrap() = server;
    }

    /// The first line of the first request of each connection so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for Wires {
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
        // What breaks is what a client has to live with.
        connections.spawn(async move { shared.connect(client).await.unwrap_or_default() });
    }
}

impl Shared {
    async fn connect(&self, client: TcpStream) -> std::io::Result<()> {
        let (from_client, mut to_client) = client.into_split();
        let mut from_client = BufReader::new(from_client);
        let mut line = String::new();
        from_client.read_line(&mut line).await?;
        let number = {
            let mut requests = self.requests.lock().unwrap();
            requests.push(line.clone());
            requests.len() - 1
        };
        let wire = (self.plan)(number, &line);
        let address = *self.server.lock().unwrap();
        let (from_server, mut to_server) = TcpStream::connect(address).await?.into_split();
        to_server.write_all(line.as_bytes()).await?;
        let mut from_server = BufReader::new(from_server);
        let forth = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
        let back = async {
            match wire {
                Wire::Pass => tokio::io::copy(&mut from_server, &mut to_client).await.map(drop),
                Wire::Cut(bytes) => {
                    tokio::io::copy(&mut from_server.take(bytes as u64), &mut to_client).await.map(drop)
                }
                Wire::Stall(bytes) => {
                    tokio::io::copy(&mut from_server.take(bytes as u64), &mut to_client).await?;
                    std::future::pending().await
                }
                Wire::KeepBody => {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        from_server.read_until(b'\n', &mut head).await?;
                    }
                    to_client.write_all(&head).await?;
                    let mut body = Vec::new();
                    from_server.read_to_end(&mut body).await?;
                    to_client.write_all(&body).await
                }
            }
        };
        // The first end to close ends both.
        tokio::select! {
            ended = forth => ended,
            ended = back => ended,
        }
    }
}
