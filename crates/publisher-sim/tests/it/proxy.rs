//! A network that cannot be trusted: a TCP proxy between publishers and a server that loses, cuts, delays
//! and repeats what passes through it, and remembers all of it.
//!
//! It reads whole HTTP messages (with `Content-Length`, as both sides send them) and does one thing to
//! each exchange, by a plan. `POST /publish` and `GET /events` suffer; the probe and the counters, which
//! are asked for once and not retried, do not.

mod fault;
mod message;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

pub(crate) use self::fault::{Fault, Mishap};
pub(crate) use self::message::Message;

/// Nothing of one exchange takes longer, unless the server is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the network did to one publish request, and what it saw.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) fault: Fault,
    pub(crate) request: Message,
    /// All replies that the server gave to it, whoever got them.
    pub(crate) replies: Vec<Reply>,
    /// Whole copies that reached the server, and whose replies not even the network got.
    pub(crate) unheard: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) message: Message,
    /// Whether it reached the publisher, whole.
    pub(crate) arrived: bool,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

struct Shared {
    server: SocketAddr,
    plan: Box<dyn Fn(usize) -> Mishap + Send + Sync>,
    next: AtomicUsize,
    exchanges: Mutex<Vec<Exchange>>,
}

type Connection = BufReader<TcpStream>;

impl Proxy {
    /// A network before `server`, in which `plan(n)` happens to exchange number `n`, from 0.
    pub(crate) async fn start(
        server: SocketAddr,
        plan: impl Fn(usize) -> Mishap + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server,
            plan: Box::new(plan),
            next: AtomicUsize::new(0),
            exchanges: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, shared.clone(), stopped));
        Self { address, shared, stop, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets the exchanges under way end, those too whose publisher is gone, and tells of all.
    pub(crate) async fn finish(self) -> Vec<Exchange> {
        self.stop.send_replace(true);
        self.accepting.await.unwrap();
        std::mem::take(&mut *self.shared.exchanges.lock().unwrap())
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let mut stop = stopped.clone();
    loop {
        let stream = tokio::select! {
            // An error means that the proxy was dropped without being finished: a test has failed.
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted.unwrap().0,
        };
        connections.spawn(shared.clone().serve(BufReader::new(stream), stopped.clone()));
    }
    drop(listener);
    connections.join_all().await;
}

impl Shared {
    /// One exchange after the other, until the publisher closes or the network cuts.
    async fn serve(self: Arc<Self>, publisher: Connection, mut stopped: watch::Receiver<bool>) {
        let mut open = Some(publisher);
        while let Some(mut publisher) = open.take() {
            let request = tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                request = Message::read(&mut publisher) => request,
            };
            // A publisher may well go away in the middle of a request: its deadline, not ours.
            let Ok(Some(request)) = request else { return };
            open = self.exchange(publisher, request).await;
        }
    }

    /// Lets one exchange suffer its fate, and gives the connection back if it survives.
    async fn exchange(&self, publisher: Connection, request: Message) -> Option<Connection> {
        let publishing = request.starts_with("POST /publish ");
        let mishap = if publishing || request.starts_with("GET /events?") {
            (self.plan)(self.next.fetch_add(1, Ordering::Relaxed))
        } else {
            Mishap::NONE
        };
        let mut exchange = Exchange { fault: mishap.fault, request, replies: Vec::new(), unheard: 0 };
        let survivor = self.suffer(mishap, publisher, &mut exchange).await;
        if publishing {
            self.exchanges.lock().unwrap().push(exchange);
        }
        survivor
    }

    async fn suffer(
        &self,
        mishap: Mishap,
        publisher: Connection,
        exchange: &mut Exchange,
    ) -> Option<Connection> {
        match mishap.fault {
            Fault::None => {
                let reply = self.ask(exchange).await;
                exchange.pass_on(reply, publisher).await
            }
            Fault::Delay => {
                sleep(mishap.pause).await;
                let reply = self.ask(exchange).await;
                sleep(mishap.pause).await;
                exchange.pass_on(reply, publisher).await
            }
            Fault::DropRequest => None,
            Fault::CutRequest => {
                // What the server makes of a part is not counted as anything: it has to be nothing.
                let _ = self.send(exchange.request.part(mishap.cut)).await;
                None
            }
            Fault::Stall => {
                exchange.unheard += 1;
                let _server = self.send(exchange.request.bytes()).await;
                sleep(mishap.pause).await;
                None
            }
            Fault::DropReply => {
                self.ask(exchange).await;
                None
            }
            Fault::CutReply => {
                let reply = self.ask(exchange).await?;
                exchange.pass_on_part(reply, mishap.cut, publisher).await;
                None
            }
            Fault::TwiceInTurn => {
                let first = self.ask(exchange).await;
                let second = self.ask(exchange).await;
                exchange.pass_on(if mishap.second { second } else { first }, publisher).await
            }
            Fault::TwiceAtOnce => {
                let request = &exchange.request;
                let (first, second) = tokio::join!(self.reply_to(request), self.reply_to(request));
                let (first, second) = (exchange.heard(first), exchange.heard(second));
                exchange.pass_on(if mishap.second { second } else { first }, publisher).await
            }
            Fault::AgainLater => {
                let reply = self.ask(exchange).await;
                let survivor = exchange.pass_on(reply, publisher).await;
                sleep(mishap.pause).await;
                self.ask(exchange).await;
                survivor
            }
            Fault::Overtaken => {
                drop(publisher);
                sleep(mishap.pause).await;
                self.ask(exchange).await;
                None
            }
        }
    }

    /// Lets a copy of the request through, and returns which of the replies is its own.
    async fn ask(&self, exchange: &mut Exchange) -> Option<usize> {
        let reply = self.reply_to(&exchange.request).await;
        exchange.heard(reply)
    }

    async fn reply_to(&self, request: &Message) -> io::Result<Message> {
        let mut server = self.send(request.bytes()).await?;
        let reply = timeout(PATIENCE, Message::read(&mut server)).await??;
        reply.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// A connection of its own to the server, with these bytes sent over it.
    async fn send(&self, bytes: &[u8]) -> io::Result<Connection> {
        let sending = async {
            let mut server = BufReader::new(TcpStream::connect(self.server).await?);
            server.write_all(bytes).await?;
            Ok(server)
        };
        timeout(PATIENCE, sending).await?
    }
}

impl Exchange {
    fn heard(&mut self, reply: io::Result<Message>) -> Option<usize> {
        match reply {
            Ok(message) => {
                self.replies.push(Reply { message, arrived: false });
                Some(self.replies.len() - 1)
            }
            Err(_) => {
                self.unheard += 1;
                None
            }
        }
    }

    /// Sends the reply on, whole; the connection is closed where there is none.
    async fn pass_on(&mut self, reply: Option<usize>, mut publisher: Connection) -> Option<Connection> {
        let reply = &mut self.replies[reply?];
        timeout(PATIENCE, publisher.write_all(reply.message.bytes())).await.ok()?.ok()?;
        reply.arrived = true;
        Some(publisher)
    }

    async fn pass_on_part(&self, reply: usize, share: f64, mut publisher: Connection) {
        // The publisher may have given up by now.
        let _ = timeout(PATIENCE, publisher.write_all(self.replies[reply].message.part(share))).await;
    }
}
