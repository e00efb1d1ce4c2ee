//! A server for a test, in this process or in one of its own.

pub(crate) mod asked;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{DedupStore, MemoryStore, SqliteStore};
use aggregator_server::{Config, RunError, run};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::signal;

/// Nothing here takes nearly as long; what does is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// What `doing` comes to.
pub(crate) async fn in_time<T>(what: &str, doing: impl Future<Output = T>) -> T {
    timeout(PATIENCE, doing).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A client for plain HTTP.
pub(crate) fn client() -> Client {
    crate::http_client::builder().build().unwrap()
}

/// A server in this process, on a free port.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) client: Client,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<Result<(), RunError>>,
}

impl Server {
    pub(crate) async fn start(store: Arc<dyn DedupStore>, config: Config) -> Self {
        Self::start_for(client(), store, config).await
    }

    /// A server, and this client to ask it with.
    pub(crate) async fn start_for(client: Client, store: Arc<dyn DedupStore>, config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if config.tls_cert.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let (shutdown, stopped) = oneshot::channel();
        let task = tokio::spawn(run(listener, store, config, async {
            let _ = stopped.await;
        }));
        Self { url, client, shutdown, task }
    }

    /// With an empty memory store.
    pub(crate) async fn volatile() -> Self {
        Self::start(Arc::new(MemoryStore::default()), Config::default()).await
    }

    pub(crate) async fn sqlite(path: &Path) -> Self {
        Self::start(Arc::new(SqliteStore::open(path).unwrap()), Config::default()).await
    }

    pub(crate) fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.client.get(format!("{}{path}", self.url)).send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request =
            self.client.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        Answer::of(request.body(body).send().await.unwrap()).await
    }

    /// Sends raw bytes; everything that comes back until the server closes.
    pub(crate) async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(read.is_ok(), "the server does not close after: {answer}");
        answer
    }

    pub(crate) async fn publish(&self, events: &Value) -> Answer {
        self.post("/publish", events.to_string()).await
    }

    pub(crate) async fn stats(&self) -> Value {
        self.get("/stats").await.json
    }

    /// Sends from another task; the answer's status.
    pub(crate) fn publish_later(&self, path: &str, events: &Value) -> JoinHandle<u16> {
        let request = self.client.post(format!("{}{path}", self.url)).json(events);
        tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
    }

    /// Asks for the statistics until they are as they should be.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) {
        until(what, async || condition(&self.stats().await)).await;
    }

    /// Asks the server to end, without waiting for it.
    pub(crate) fn begin_stop(self) -> JoinHandle<Result<(), RunError>> {
        let _ = self.shutdown.send(());
        self.task
    }

    pub(crate) async fn stop(self) -> Result<(), RunError> {
        self.begin_stop().await.unwrap()
    }
}

/// Waits for a condition. It is looked at now and then, so that looking does not keep the server from its work.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            sleep(PAUSE).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "waited in vain: {what}");
}

/// A response with its JSON body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        assert!(text.is_empty() || text.ends_with("}\n"), "a body ends with a newline: {text:.2000}");
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        let request_id = headers["x-request-id"].to_str().unwrap();
        if headers["content-type"] == "application/problem+json" {
            assert_eq!(json["request_id"], request_id, "{text:.2000}");
        }
        Self { status, headers, json }
    }

    pub(crate) fn outcomes(&self) -> Vec<&str> {
        let results = self.json["results"].as_array().unwrap();
        results.iter().map(|result| result["outcome"].as_str().unwrap()).collect()
    }

    /// Asserts that the problem's detail has all these parts.
    #[track_caller]
    pub(crate) fn tells(&self, parts: &[&str]) {
        let detail = self.json["detail"].as_str().unwrap();
        for part in parts {
            assert!(detail.contains(part), "{part:?} is missing in {detail:?}");
        }
    }

    /// Asserts that this is a problem of this kind, and returns the named errors as (index, field).
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, kind: &str) -> Vec<(Option<u64>, String)> {
        assert_eq!(self.status, status, "{:.2000}", self.json.to_string());
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.json["type"], format!("urn:aggregator:problem:{kind}"));
        assert_eq!(self.json["status"], status);
        assert!(self.json["title"].is_string() && self.json["detail"].is_string(), "{:?}", self.json);
        assert_eq!(self.json["retryable"].as_bool().unwrap(), status >= 500 || [408, 429].contains(&status));
        assert_eq!(self.headers.contains_key("retry-after"), [429, 503].contains(&status));
        let errors = self.json["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|e| (e["index"].as_u64(), e["field"].as_str().unwrap().to_owned())).collect()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "numbers and string literals read best as they are")]
pub(crate) fn event(topic: &str, id: impl ToString) -> Value {
    json!({"topic": topic, "event_id": id.to_string(), "payload": {"id": id.to_string()}})
}

pub(crate) fn events(topic: &str, ids: std::ops::Range<u32>) -> Value {
    json!({"events": ids.map(|id| event(topic, id)).collect::<Vec<_>>()})
}

/// Options of whoever runs the tests are none of the program's.
pub(crate) fn forget_options(command: &mut Command) {
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.as_encoded_bytes().starts_with(b"AGGREGATOR_")) {
        command.env_remove(name);
    }
}

/// Runs a command that ends by itself; its exit code, and what it wrote to standard error.
pub(crate) fn refused(args: &[&str]) -> (i32, String) {
    Process::run(Process::command(args))
}

/// The real program. Killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) url: String,
    pub(crate) first_line: String,
}

impl Process {
    pub(crate) fn command(args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aggregator-server"));
        command.args(args);
        forget_options(&mut command);
        command
    }

    /// Runs a command that ends by itself; its exit code, and what it wrote to standard error.
    pub(crate) fn run(mut command: Command) -> (i32, String) {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first_line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first_line).unwrap();
        if first_line.starts_with("listening") {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        assert!(!first_line.starts_with("listening"), "{command:?} serves");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Starts it on a free port and waits for its first line.
    pub(crate) fn start(store: &Path, args: &[&str]) -> Self {
        Self::start_with(&format!("sqlite:{}", store.display()), args)
    }

    /// The same with any kind of store.
    pub(crate) fn start_with(store: &str, args: &[&str]) -> Self {
        let mut command = Self::command(&["--listen", "127.0.0.1:0", "--store", store]);
        command.args(args).stderr(Stdio::null());
        Self::spawn(command)
    }

    /// Starts a command that serves, and waits for its first line.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut first_line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first_line).unwrap();
        let address = first_line.split([' ', ',']).find(|word| word.contains("://"));
        let url = address.expect("the first line names the address").to_owned();
        Self { child, url, first_line }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The JSON that it answers.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = client().get(format!("{}{path}", self.url)).send().await.unwrap();
        answer.json().await.unwrap()
    }

    pub(crate) async fn publish(&self, events: &Value) -> Value {
        self.publish_with("", events).await
    }

    /// With these parameters, `?ack=queued` for example.
    pub(crate) async fn publish_with(&self, query: &str, events: &Value) -> Value {
        let request = client().post(format!("{}/publish{query}", self.url)).json(events);
        request.send().await.unwrap().json().await.unwrap()
    }

    pub(crate) fn signal(&self, signal: &str) {
        signal::send(signal, &self.child);
    }

    /// The most memory it has held so far, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// The first line with this part that it writes to standard error, which its command piped.
    pub(crate) fn line_of_stderr(&mut self, part: &str) -> String {
        let mut lines = BufReader::new(self.child.stderr.as_mut().unwrap()).lines().map(Result::unwrap);
        lines.find(|line| line.contains(part)).unwrap()
    }

    /// Ends it in order; what it wrote to standard error, which its command piped.
    pub(crate) fn stop_and_read_stderr(mut self) -> String {
        self.signal("-TERM");
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
        text
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
