//! A small aggregator in memory, honest unless told to lie.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A page never holds more than this, so that every test reads several.
const PAGE_EVENTS: usize = 7;

/// What every stored event says about when it was stored.
const PROCESSED_AT: &str = "2026-01-01T00:00:00.000001Z";

/// How the peer breaks its promises. The place is the number of a stored event, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    /// Acknowledges an event and does not keep it.
    Loses(usize),
    /// Keeps an event twice.
    Doubles(usize),
    /// Leaves a seq out.
    SkipsSeq(usize),
    /// Gives events back in another order than they were accepted in.
    ReadsBackwards,
    /// Parses payloads and prints them again.
    RewritesPayloads,
    /// Does not remember what it stored: every repeat is new.
    Forgets,
    /// Names another seq for repeats than for originals.
    MisquotesSeqs,
    /// Names another time for repeats than for originals.
    MisquotesTimes,
    /// Calls everything stored, repeats too, and keeps it once all the same.
    CallsAllStored,
    /// Calls everything a duplicate, the first delivery too.
    CallsAllDuplicates,
    /// Answers for one event less than it was sent.
    OmitsReceipt,
    /// Never says that the end is reached.
    NeverCaughtUp,
}

/// What goes wrong although the peer is honest. Each trouble lasts for the first so many publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// Refuses to take more for now: a status, and `Retry-After` in seconds.
    Busy {
        times: usize,
        status: u16,
        retry_after: &'static str,
    },
    /// Stores the batch and breaks the connection in the middle of the reply.
    CutsReply {
        times: usize,
    },
    /// Finds every batch invalid.
    RefusesAll,
    /// Never answers.
    Hangs,
}

#[derive(Debug)]
pub(crate) struct Peer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    lie: Lie,
    trouble: Trouble,
    state: Mutex<State>,
    publishes: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<String, Topic>,
    bodies: Vec<Bytes>,
    stored: usize,
    duplicates: usize,
    conflicts: usize,
}

#[derive(Debug, Default)]
struct Topic {
    seen: HashMap<String, (u64, String)>,
    rows: Vec<Value>,
    last_seq: u64,
}

/// An event as it is published.
#[derive(Debug, Deserialize)]
pub(crate) struct Published<'a> {
    pub(crate) topic: String,
    pub(crate) event_id: String,
    timestamp: String,
    pub(crate) source: String,
    pub(crate) sequence: Option<u64>,
    #[serde(borrow)]
    pub(crate) payload: &'a RawValue,
}

#[derive(Deserialize)]
struct PublishedBatch<'a> {
    #[serde(borrow)]
    events: Vec<Published<'a>>,
}

/// The events of a request: a batch, or one alone.
pub(crate) fn published(body: &[u8]) -> Vec<Published<'_>> {
    match serde_json::from_slice::<PublishedBatch<'_>>(body) {
        Ok(batch) => batch.events,
        Err(_) => vec![serde_json::from_slice(body).unwrap()],
    }
}

type Reply = Response<BoxBody<Bytes, io::Error>>;

impl Peer {
    pub(crate) async fn honest() -> Self {
        Self::start(Lie::None, Trouble::None).await
    }

    pub(crate) async fn lying(lie: Lie) -> Self {
        Self::start(lie, Trouble::None).await
    }

    pub(crate) async fn troubled(trouble: Trouble) -> Self {
        Self::start(Lie::None, trouble).await
    }

    async fn start(lie: Lie, trouble: Trouble) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, lie, trouble)
    }

    pub(crate) fn start_on(listener: TcpListener, lie: Lie, trouble: Trouble) -> Self {
        let address = listener.local_addr().unwrap();
        let (publishes, _) = watch::channel(0);
        let shared = Arc::new(Shared { lie, trouble, state: Mutex::default(), publishes });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { address, shared, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many events it holds.
    pub(crate) fn rows(&self) -> usize {
        self.shared.state().topics.values().map(|topic| topic.rows.len()).sum()
    }

    /// All publish bodies so far.
    pub(crate) fn bodies(&self) -> Vec<Bytes> {
        self.shared.state().bodies.clone()
    }

    /// Waits until so many publishes have come in.
    pub(crate) async fn published(&self, count: usize) {
        self.shared.publishes.subscribe().wait_for(|publishes| *publishes >= count).await.unwrap();
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
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, io::Error>(shared.answer(request).await) }
            });
            // Ends with an error when the client goes away or a reply is cut on purpose.
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        });
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let url = reqwest::Url::parse("http://peer").unwrap().join(&request.uri().to_string()).unwrap();
        match (request.method(), url.path()) {
            (&Method::POST, "/publish") => {
                let Ok(body) = request.into_body().collect().await else {
                    return json_reply(StatusCode::BAD_REQUEST, &json!({"title": "Cut off", "status": 400}));
                };
                self.publish(&body.to_bytes()).await
            }
            (&Method::GET, "/events") => self.events(&url),
            (&Method::GET, "/stats") => self.stats(),
            (&Method::GET, "/livez") => json_reply(StatusCode::OK, &json!({"status": "ok"})),
            _ => json_reply(StatusCode::NOT_FOUND, &json!({"title": "Not found", "status": 404})),
        }
    }

    async fn publish(&self, body: &Bytes) -> Reply {
        self.state().bodies.push(body.clone());
        self.publishes.send_modify(|publishes| *publishes += 1);
        let number = self.state().bodies.len();
        match self.trouble {
            Trouble::Busy { times, status, retry_after } if number <= times => {
                let mut reply = json_reply(
                    StatusCode::from_u16(status).unwrap(),
                    &json!({"title": "Busy", "status": status, "detail": "the queue is full", "retryable": true}),
                );
                reply.headers_mut().insert("retry-after", retry_after.parse().unwrap());
                reply
            }
            Trouble::RefusesAll => json_reply(
                StatusCode::UNPROCESSABLE_ENTITY,
                &json!({"title": "Invalid event", "status": 422, "detail": "nothing was stored", "retryable": false,
                        "errors": [{"index": 0, "field": "topic", "detail": "is not to my taste"}]}),
            ),
            Trouble::Hangs => std::future::pending().await,
            Trouble::CutsReply { times } if number <= times => cut(self.store(body)),
            _ => self.store(body),
        }
    }

    fn store(&self, body: &[u8]) -> Reply {
        let mut state = self.state();
        let mut results: Vec<_> = published(body).iter().map(|event| state.store(event, self.lie)).collect();
        if self.lie == Lie::OmitsReceipt {
            results.pop();
        }
        json_reply(StatusCode::ACCEPTED, &json!({"status": "accepted", "results": results}))
    }

    fn events(&self, url: &reqwest::Url) -> Reply {
        let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
        let state = self.state();
        let Some(topic) = state.topics.get(&query["topic"]) else {
            return json_reply(StatusCode::OK, &json!({"events": [], "next": "c0", "caught_up": true}));
        };
        let Some(after) = query.get("after") else {
            // Nothing found so far, and not at the end: a reader must go on.
            return json_reply(StatusCode::OK, &json!({"events": [], "next": "c0", "caught_up": false}));
        };
        let start: usize = after.strip_prefix('c').unwrap().parse().unwrap();
        let limit = query["limit"].parse::<usize>().unwrap().min(PAGE_EVENTS);
        let rows: Vec<_> = match self.lie {
            Lie::ReadsBackwards => topic.rows.iter().rev().skip(start).take(limit).collect(),
            _ => topic.rows.iter().skip(start).take(limit).collect(),
        };
        let end = start + rows.len();
        let caught_up = end >= topic.rows.len() && self.lie != Lie::NeverCaughtUp;
        // By hand, because payloads are kept as text.
        let rows = rows.iter().map(|row| row.as_str().unwrap()).collect::<Vec<_>>().join(",");
        let page = format!(r#"{{"events":[{rows}],"next":"c{end}","caught_up":{caught_up}}}"#);
        reply(StatusCode::OK, page.into())
    }

    fn stats(&self) -> Reply {
        let State { stored, duplicates, conflicts, .. } = *self.state();
        json_reply(
            StatusCode::OK,
            &json!({"received": stored + duplicates, "unique_processed": stored,
                    "duplicate_dropped": duplicates - conflicts, "conflicts": conflicts}),
        )
    }
}

impl State {
    fn store(&mut self, event: &Published<'_>, lie: Lie) -> Value {
        let Published { topic: name, event_id, timestamp, source, sequence, payload } = event;
        let topic = self.topics.entry(name.clone()).or_default();
        let receipt = |outcome: &str, seq: u64| {
            let other_time = lie == Lie::MisquotesTimes && outcome != "stored";
            json!({"topic": name, "event_id": event_id, "outcome": outcome, "seq": seq,
                   "processed_at": if other_time { "2026-01-01T00:00:00.000002Z" } else { PROCESSED_AT }})
        };
        if let Some((seq, kept)) = topic.seen.get(event_id)
            && lie != Lie::Forgets
        {
            self.duplicates += 1;
            let outcome = if kept == payload.get() { "duplicate" } else { "conflict" };
            self.conflicts += usize::from(outcome == "conflict");
            let outcome = if lie == Lie::CallsAllStored { "stored" } else { outcome };
            return receipt(outcome, seq + u64::from(lie == Lie::MisquotesSeqs));
        }
        let number = self.stored;
        self.stored += 1;
        topic.last_seq += if lie == Lie::SkipsSeq(number) { 2 } else { 1 };
        topic.seen.insert(event_id.clone(), (topic.last_seq, payload.get().to_owned()));
        let payload = match lie {
            Lie::RewritesPayloads => serde_json::from_str::<Value>(payload.get()).unwrap().to_string(),
            _ => payload.get().to_owned(),
        };
        let sequence = sequence.map(|number| format!(r#""sequence":{number},"#)).unwrap_or_default();
        let row = |seq: u64| {
            Value::String(format!(
                r#"{{"topic":"{name}","event_id":"{event_id}","timestamp":"{timestamp}","source":"{source}",
                    {sequence}"payload":{payload},"seq":{seq},"processed_at":"{PROCESSED_AT}"}}"#
            ))
        };
        let seq = topic.last_seq;
        if lie != Lie::Loses(number) {
            topic.rows.push(row(seq));
        }
        if lie == Lie::Doubles(number) {
            topic.last_seq += 1;
            topic.rows.push(row(topic.last_seq));
        }
        receipt(if lie == Lie::CallsAllDuplicates { "duplicate" } else { "stored" }, seq)
    }
}

fn json_reply(status: StatusCode, body: &Value) -> Reply {
    reply(status, body.to_string().into())
}

fn reply(status: StatusCode, body: Bytes) -> Reply {
    let body = Full::new(body).map_err(|never| match never {}).boxed();
    Response::builder().status(status).header("content-type", "application/json").body(body).unwrap()
}

/// The same reply, broken off after a few bytes.
fn cut(reply: Reply) -> Reply {
    reply.map(|_| CutShort { sent: false }.boxed())
}

struct CutShort {
    sent: bool,
}

impl Body for CutShort {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.sent {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
        }
        self.sent = true;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"{\"status\":")))))
    }
}
