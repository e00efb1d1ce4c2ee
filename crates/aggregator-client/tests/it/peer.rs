//! A network between the client and a server, in which a plan says what happens to each request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

#[path = "../../../publisher-sim/tests/it/proxy/message.rs"]
mod message;

pub(crate) use self::message::Message;

type Connection = BufReader<TcpStream>;

/// What happens to a request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// It gets through, and so does its reply.
    Pass,
    /// The connection breaks before any of it gets through.
    DropRequest,
    /// It gets through; the connection breaks in place of a reply.
    LoseReply,
    /// It gets through; the connection breaks in the middle of the reply.
    CutReply,
    /// It does not get through; this is the reply.
    Answer(String),
    /// It does not get through; this is the reply's head, and its body never ends.
    AnswerWithoutEnd(&'static str),
    /// It does not get through, and there is no reply.
    Silence,
}

impl Act {
    /// A reply with this status and these headers (each with its line end), and this body.
    pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Answer(format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}"))
    }
}

pub(crate) struct Peer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    server: SocketAddr,
    plan: Box<dyn Fn(usize) -> Act + Send + Sync>,
    requests: Mutex<Vec<Message>>,
}

impl Peer {
    /// Before `server`, with `plan(n)` for request number `n`, from 0.
    pub(crate) async fn before(
        server: SocketAddr,
        plan: impl Fn(usize) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { server, plan: Box::new(plan), requests: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    /// With no server behind it.
    pub(crate) async fn alone(plan: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        Self::before("127.0.0.1:1".parse().unwrap(), plan).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let mut connection = BufReader::new(stream);
            while let Ok(Some(request)) = Message::read(&mut connection).await {
                if shared.suffer(&mut connection, request).await.is_none() {
                    break;
                }
            }
        });
    }
}

impl Shared {
    /// `None` if the connection does not survive it.
    async fn suffer(&self, client: &mut Connection, request: Message) -> Option<()> {
        let number = {
            let mut requests = self.requests.lock().unwrap();
            requests.push(request.clone());
            requests.len() - 1
        };
        match (self.plan)(number) {
            Act::Pass => {
                let reply = self.ask(&request).await?;
                client.write_all(reply.bytes()).await.ok()
            }
            Act::DropRequest => None,
            Act::LoseReply => {
                self.ask(&request).await?;
                None
            }
            Act::CutReply => {
                let reply = self.ask(&request).await?;
                client.write_all(reply.part(0.7)).await.ok()?;
                None
            }
            Act::Answer(reply) => client.write_all(reply.as_bytes()).await.ok(),
            Act::AnswerWithoutEnd(head) => {
                client.write_all(format!("{head}\r\n\r\n").as_bytes()).await.ok()?;
                // Ends when the client has had enough.
                while client.write_all(&[b' '; 4096]).await.is_ok() {}
                None
            }
            Act::Silence => std::future::pending().await,
        }
    }

    async fn ask(&self, request: &Message) -> Option<Message> {
        let mut server = BufReader::new(TcpStream::connect(self.server).await.ok()?);
        server.write_all(request.bytes()).await.ok()?;
        Message::read(&mut server).await.ok()?
    }
}
