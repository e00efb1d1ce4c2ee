//! One connection to `GET /events/stream`: turns its blocks into what a tail hands out.

use std::time::Duration;

use reqwest::{Response, Url};
use tokio::time::{Instant, timeout_at};

use super::{Events, TailItem};
use crate::client::{Client, bad_reply, without_query};
use crate::error::Error;
use crate::pages::StoredEvent;
use crate::sse::{Block, Parser, TooLong};

/// The most events that are handed out together.
const MAX_EVENTS: usize = 1000;

/// A stream that was answered 200.
pub(super) struct Stream {
    response: Response,
    url: Url,
    parser: Parser,
    opened: Instant,
    /// Whether anything came.
    began: bool,
    /// Since when it is waited for the next piece. A wait that is dropped counts.
    waiting: Option<Instant>,
    /// Was read, and comes behind the events before it.
    held: Option<Block>,
}

/// What a stream has next.
pub(super) enum Piece {
    /// Its first byte.
    Began,
    /// Something to hand out.
    Item(TailItem),
    /// The cursor behind what was read, where nothing is to be handed out.
    Moved(String),
    /// The head came and nothing else: something on the way keeps it back.
    KeptBack,
    /// No more of this stream.
    Ended {
        error: Error,
        /// How long the server asked to wait, if it was the server that ended it.
        retry: Option<Duration>,
        lasted: Duration,
    },
}

impl Stream {
    pub(super) fn new(response: Response, client: &Client, url: Url) -> Self {
        let parser = Parser::new(client.settings().max_reply_bytes);
        Self { response, url, parser, opened: Instant::now(), began: false, waiting: None, held: None }
    }

    /// What is next; waits for it. The future can be dropped without a loss.
    pub(super) async fn next(&mut self, client: &Client, caught_up: bool) -> Result<Piece, Error> {
        loop {
            if let Some(piece) = self.read(client, caught_up)? {
                return Ok(piece);
            }
            let settings = client.settings();
            let limit = if self.began { settings.silence_timeout } else { settings.first_byte_timeout };
            let since = *self.waiting.get_or_insert_with(Instant::now);
            let chunk = timeout_at(since + limit, self.response.chunk()).await;
            self.waiting = None;
            let url = without_query(&self.url);
            let (error, retry) = match chunk {
                Ok(Ok(Some(chunk))) => {
                    self.parser.push(&chunk);
                    if std::mem::replace(&mut self.began, true) {
                        continue;
                    }
                    return Ok(Piece::Began);
                }
                Ok(Ok(None)) => {
                    (Error::Reset { url, reason: "the stream ended".to_owned() }, self.parser.retry())
                }
                Ok(Err(error)) => (client.transport_error(&error, &url, limit), None),
                Err(_) if !self.began => return Ok(Piece::KeptBack),
                Err(_) => (Error::Timeout { url, limit }, None),
            };
            return Ok(Piece::Ended { error, retry, lasted: self.opened.elapsed() });
        }
    }

    /// What the blocks that came have to hand out.
    fn read(&mut self, client: &Client, caught_up: bool) -> Result<Option<Piece>, Error> {
        let (mut events, mut moved) = (Vec::new(), None);
        while events.len() < MAX_EVENTS
            && let Some(block) = self.next_block(client)?
        {
            let Block { id, event, data: Some(data) } = &block else {
                moved = block.id;
                continue;
            };
            let item = match event.as_str() {
                "" | "message" => None,
                "caught_up" if !caught_up => Some(TailItem::CaughtUp { cursor: self.id(id.as_ref())? }),
                "gap" => Some(TailItem::Gap { oldest: self.id(id.as_ref())? }),
                // Known already, or of a later version.
                _ => {
                    moved = block.id.or(moved);
                    continue;
                }
            };
            match item {
                None => {
                    moved = Some(self.id(id.as_ref())?);
                    events.push(self.event(data)?);
                }
                Some(_) if !events.is_empty() => {
                    self.held = Some(block);
                    break;
                }
                Some(item) => return Ok(Some(Piece::Item(item))),
            }
        }
        Ok(match moved {
            Some(cursor) if events.is_empty() => Some(Piece::Moved(cursor)),
            Some(cursor) => Some(Piece::Item(TailItem::Events(Events { events, cursor }))),
            None => None,
        })
    }

    fn next_block(&mut self, client: &Client) -> Result<Option<Block>, Error> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        self.parser.next_block().map_err(|TooLong| Error::EventTooLong {
            url: without_query(&self.url),
            limit: client.settings().max_reply_bytes,
        })
    }

    /// The cursor of a block that is an event. Without one of its own the event would come again after a reconnection.
    fn id(&self, id: Option<&String>) -> Result<String, Error> {
        id.cloned().ok_or_else(|| bad_reply(&self.url, "an event of the stream has no id"))
    }

    fn event(&self, data: &[u8]) -> Result<StoredEvent, Error> {
        serde_json::from_slice(data).map_err(|error| bad_reply(&self.url, format!("an event: {error}")))
    }
}
