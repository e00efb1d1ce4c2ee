//! A client of Server-Sent Events, as the standard describes it.

use std::time::Duration;

use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::support::in_time;

/// An event that was dispatched.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    /// The last event id when it was dispatched.
    pub(crate) id: String,
    /// `message` unless it has another name.
    pub(crate) kind: String,
    pub(crate) data: Value,
}

/// What a client makes of the bytes of a stream. A block that is not complete counts for nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parser {
    rest: Vec<u8>,
    id: String,
    kind: String,
    data: String,
    pub(crate) last_id: String,
    /// What it was told of waiting before it connects again, one after the other.
    pub(crate) retries: Vec<Duration>,
    /// How many blocks had an id and no data.
    pub(crate) positions: usize,
}

impl Parser {
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.rest.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            messages.extend(self.line(std::str::from_utf8(&line[..end]).unwrap()));
        }
        messages
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            self.last_id.clone_from(&self.id);
            let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            if data.is_empty() {
                self.positions += 1;
                return None;
            }
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            return Some(Message {
                id: self.last_id.clone(),
                kind,
                data: serde_json::from_str(&data).unwrap(),
            });
        }
        let (field, value) = line.split_once(": ").unwrap();
        match field {
            "id" => value.clone_into(&mut self.id),
            "event" => value.clone_into(&mut self.kind),
            "data" => value.clone_into(&mut self.data),
            "retry" => self.retries.push(Duration::from_millis(value.parse().unwrap())),
            _ => panic!("{line}"),
        }
        None
    }
}

/// A connection to a stream.
pub(crate) struct EventSource {
    response: Response,
    pub(crate) parser: Parser,
    messages: std::collections::VecDeque<Message>,
}

impl EventSource {
    pub(crate) async fn open(url: &str, last_id: &str) -> Self {
        let response = Self::request(url, last_id).await;
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, parser: Parser::default(), messages: Default::default() }
    }

    /// Over a connection of this client.
    pub(crate) async fn open_with(client: &reqwest::Client, url: &str) -> Self {
        let response = client.get(url).header("accept", "text/event-stream").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, parser: Parser::default(), messages: Default::default() }
    }

    pub(crate) fn version(&self) -> reqwest::Version {
        self.response.version()
    }

    pub(crate) async fn request(url: &str, last_id: &str) -> Response {
        let mut request = crate::support::client().get(url).header("accept", "text/event-stream");
        if !last_id.is_empty() {
            request = request.header("last-event-id", last_id);
        }
        request.send().await.unwrap()
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        while self.messages.is_empty() {
            // A stream that is cut is at its end, too.
            let chunk = in_time("a piece of the stream", self.response.chunk()).await.ok().flatten()?;
            let messages = self.parser.feed(&chunk);
            self.messages.extend(messages);
        }
        self.messages.pop_front()
    }

    /// The next message, which has to be an event of a topic.
    pub(crate) async fn event(&mut self) -> Message {
        let message = self.next().await.expect("the stream goes on");
        assert_eq!(message.kind, "message", "{message:?}");
        message
    }

    /// The ids of the next events.
    pub(crate) async fn event_ids(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.event().await.data["event_id"].as_str().unwrap().to_owned());
        }
        ids
    }

    /// Asserts that the stream has caught up and nothing else before.
    pub(crate) async fn caught_up(&mut self) {
        let message = self.next().await.expect("the stream goes on");
        assert_eq!(message.kind, "caught_up", "{message:?}");
        assert_eq!(message.data["next"], message.id.as_str());
    }

    /// Reads until the server ends the stream in order, which must have no further message.
    pub(crate) async fn end(mut self) -> Parser {
        while let Some(chunk) = in_time("the end of the stream", self.response.chunk()).await.unwrap() {
            assert_eq!(self.parser.feed(&chunk), []);
        }
        self.parser
    }

    /// Waits for a block that moves the client's position without an event.
    pub(crate) async fn position(&mut self) -> String {
        let before = self.parser.positions;
        while self.parser.positions == before {
            let chunk = in_time("a heartbeat", self.response.chunk()).await.unwrap().unwrap();
            assert_eq!(self.parser.feed(&chunk), []);
        }
        self.parser.last_id.clone()
    }
}
