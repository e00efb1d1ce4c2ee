//! Follows the events as they are stored: `GET /events/stream`, or long polls where no stream gets through.
//!
//! A [`Tail`] moves its cursor only by what it has handed out, and by blocks of the stream that are complete. Both ways
//! lead along the same cursors, so it can connect again, and change between them, at any place.

mod stream;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::Xoshiro256PlusPlus;
use reqwest::Url;
use tokio::time::{Instant, sleep_until};

use self::stream::{Piece, Stream};
use crate::backoff::Retries;
use crate::client::{Client, Opened, parse};
use crate::error::Error;
use crate::pages::{Page, Query, StoredEvent};
use crate::retry::{AttemptError as _, Retry};

/// How long a long poll waits, in seconds, unless the query says another number.
const POLL_WAIT: u32 = 50;

/// A poll that has nothing and does not wait, as that of a server that shuts down, is not repeated before this.
const EMPTY_POLL_PAUSE: Duration = Duration::from_secs(1);

/// The longest wait that a stream can ask for before the next connection.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// A stream that lasted so long was no failure, whatever it brought.
const SETTLED: Duration = Duration::from_secs(5);

/// What a [`Tail`] has next.
///
/// All of it has to be acted on, so the enum is closed: a new kind would be a breaking change.
#[derive(Debug, Clone)]
pub enum TailItem {
    /// Events, in the order of each topic, and the cursor behind them.
    Events(Events),
    /// Everything that was stored when the tail began has been handed out. What follows is new. It comes once.
    CaughtUp {
        /// The cursor behind it.
        cursor: String,
    },
    /// Retention removed events that were not handed out, and never will be. The tail goes on with the oldest event that
    /// is left.
    Gap {
        /// The cursor that it goes on from.
        oldest: String,
    },
}

/// Some events that a [`Tail`] hands out: those of one page, or all that came together, at least one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Events {
    /// The events.
    pub events: Vec<StoredEvent>,
    /// The cursor behind the last one. Store it in the same transaction as what the events mean.
    pub cursor: String,
}

/// How a [`Tail`] gets its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Server-Sent Events: they come as soon as they are stored.
    Stream,
    /// Long polls, because no stream gets through, for example past a proxy that keeps replies back until they end. The
    /// stream is tried again after [`stream_retry_interval`](crate::Builder::stream_retry_interval).
    LongPoll,
}

/// Follows the events of a query, made by [`Client::tail`].
pub struct Tail {
    client: Client,
    /// Its cursor is behind what was handed out.
    query: Query,
    state: State,
    transport: Transport,
    /// While it polls: when it tries the stream again.
    stream_again: Instant,
    /// Whether the caller was told.
    caught_up: bool,
    /// Comes before anything else.
    next: Option<TailItem>,
    /// The failures since there was progress.
    failing: Option<Failing>,
}

struct Failing {
    since: Instant,
    retries: Retries<Xoshiro256PlusPlus>,
}

type Attempt<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// What the tail is about to do. It is kept here and not in a future of [`Tail::next`], so that dropping that one loses
/// nothing: neither a reply nor the time that was waited.
enum State {
    /// To ask.
    Idle,
    /// To ask then.
    Waiting(Instant),
    Opening(Attempt<Opened>),
    Streaming(Box<Stream>),
    Polling {
        attempt: Attempt<Bytes>,
        began: Instant,
    },
}

impl Client {
    /// Follows the events that a query asks for: those that are stored, and then those that come. Begin with
    /// [`Query::latest`] for new ones alone, and with [`Query::after`] to go on.
    ///
    /// The query's limit and wait are those of the long polls it may fall back to; `until` and a descending order are
    /// refused by the server. Nothing is asked before the first call of [`Tail::next`].
    ///
    /// ```no_run
    /// # use aggregator_client::{Client, Error, Query, TailItem};
    /// # fn load_cursor() -> Option<String> { None }
    /// # fn store(_: &[aggregator_client::StoredEvent], _: &str) {}
    /// # async fn example(client: Client) -> Result<(), Error> {
    /// let query = Query::new().topic("orders.*");
    /// let query = load_cursor().into_iter().fold(query, Query::after);
    /// let mut tail = client.tail(query);
    /// loop {
    ///     match tail.next().await? {
    ///         // Both in one transaction: then the effect is exactly once.
    ///         TailItem::Events(new) => store(&new.events, &new.cursor),
    ///         TailItem::CaughtUp { .. } => println!("what follows is new"),
    ///         TailItem::Gap { oldest } => eprintln!("retention was faster; going on from {oldest}"),
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn tail(&self, query: Query) -> Tail {
        Tail {
            client: self.clone(),
            query,
            state: State::Idle,
            transport: Transport::Stream,
            stream_again: Instant::now(),
            caught_up: false,
            next: None,
            failing: None,
        }
    }
}

impl Tail {
    /// What comes next; waits until there is something.
    ///
    /// Whatever may pass is retried from where the tail stands: streams that end or break or fall silent, failed
    /// connections, and the statuses 408, 429 and 5xx. The waits are those of the client's [`Backoff`](crate::Backoff),
    /// and start anew after progress. After a stream that the server ended they are what it asked for, up to a minute.
    ///
    /// The future may be dropped at any time, as in `tokio::select!`: the next call goes on where it was. Nothing runs
    /// between the calls.
    ///
    /// # Errors
    /// [`Error::GaveUp`] beyond the limits of the [`Backoff`](crate::Backoff). Call again to go on trying.
    /// [`Error::Refused`] for a cursor or a query that the server refuses, and other errors that stay: see [`Error`].
    pub async fn next(&mut self) -> Result<TailItem, Error> {
        loop {
            if let Some(item) = self.next.take() {
                return Ok(self.hand_out(item));
            }
            match &mut self.state {
                State::Idle => self.ask(),
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    self.state = State::Idle;
                }
                State::Opening(attempt) => {
                    let opened = attempt.as_mut().await;
                    self.state = State::Idle;
                    self.opened(opened)?;
                }
                State::Streaming(stream) => {
                    let piece = stream.next(&self.client, self.caught_up).await;
                    self.take(piece)?;
                }
                State::Polling { attempt, began } => {
                    let (page, began) = (attempt.as_mut().await, *began);
                    self.state = State::Idle;
                    self.polled(page, began)?;
                }
            }
        }
    }

    /// The cursor behind what was handed out, and behind what was skipped because the query does not ask for it; `None`
    /// at the start. Another tail of the same query goes on from it.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.query.cursor()
    }

    /// How the events come at present.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    fn hand_out(&mut self, item: TailItem) -> TailItem {
        self.caught_up |= matches!(item, TailItem::CaughtUp { .. });
        let (TailItem::Events(Events { cursor, .. })
        | TailItem::CaughtUp { cursor }
        | TailItem::Gap { oldest: cursor }) = &item;
        self.query.set_cursor(cursor.clone());
        item
    }

    fn ask(&mut self) {
        let client = self.client.clone();
        self.state = if self.transport == Transport::LongPoll && Instant::now() < self.stream_again {
            let query = self.query.polling(POLL_WAIT);
            let attempt = Box::pin(async move { client.page_once(&query, Duration::MAX).await });
            State::Polling { attempt, began: Instant::now() }
        } else {
            let mut url = self.stream_url();
            self.query.streaming().write_to(&mut url);
            let limit = client.settings().request_timeout;
            State::Opening(Box::pin(async move { client.open_stream(url, limit).await }))
        };
    }

    fn stream_url(&self) -> Url {
        self.client.endpoint("/events/stream")
    }

    fn opened(&mut self, opened: Result<Opened, Error>) -> Result<(), Error> {
        match opened {
            Ok(Opened::Stream(response)) => {
                self.state =
                    State::Streaming(Box::new(Stream::new(response, &self.client, self.stream_url())));
                Ok(())
            }
            Ok(Opened::Nothing) => {
                self.fall_back();
                Ok(())
            }
            Err(error) => self.failed(error, None),
        }
    }

    fn take(&mut self, piece: Result<Piece, Error>) -> Result<(), Error> {
        match piece {
            Ok(Piece::Began) => self.transport = Transport::Stream,
            Ok(Piece::Item(item)) => {
                self.failing = None;
                self.next = Some(item);
            }
            Ok(Piece::Moved(cursor)) => {
                if self.query.cursor() != Some(&cursor) {
                    self.failing = None;
                    self.query.set_cursor(cursor);
                }
            }
            Ok(Piece::KeptBack) => self.fall_back(),
            Ok(Piece::Ended { error, retry, lasted }) => {
                if lasted >= SETTLED {
                    self.failing = None;
                }
                return self.failed(error, retry.map(|asked| asked.min(MAX_RETRY)));
            }
            Err(error) => {
                self.state = State::Idle;
                return Err(error);
            }
        }
        Ok(())
    }

    fn polled(&mut self, page: Result<Bytes, Error>, began: Instant) -> Result<(), Error> {
        let page = match page {
            Ok(page) => page,
            Err(error) => return self.failed(error, None),
        };
        let Page { events, next: cursor, caught_up, .. } = parse(&page, &self.client.endpoint("/events"))?;
        self.failing = None;
        if !events.is_empty() {
            self.next = Some(TailItem::Events(Events { events, cursor }));
        } else if caught_up && !self.caught_up {
            self.next = Some(TailItem::CaughtUp { cursor });
        } else if self.query.cursor() != Some(&cursor) {
            self.query.set_cursor(cursor);
        } else {
            // At once after a poll that has waited.
            self.state = State::Waiting(began + EMPTY_POLL_PAUSE);
        }
        Ok(())
    }

    fn fall_back(&mut self) {
        self.state = State::Idle;
        self.transport = Transport::LongPoll;
        self.stream_again = Instant::now() + self.client.settings().stream_retry_interval;
    }

    /// Plans the next attempt after an error that may pass. `asked` is how long the server wants to be left alone.
    fn failed(&mut self, error: Error, asked: Option<Duration>) -> Result<(), Error> {
        self.state = State::Idle;
        let after = match (error.retry(), error) {
            (_, Error::Purged { oldest, .. }) => {
                self.next = Some(TailItem::Gap { oldest });
                return Ok(());
            }
            (Retry::Never, error) => return Err(error),
            (Retry::Allowed { after }, error) => (asked.or(after), error),
        };
        let (after, last) = after;
        let failing = self.failing.get_or_insert_with(|| {
            let rng = Xoshiro256PlusPlus::seed_from_u64(rand::random());
            Failing { since: Instant::now(), retries: self.client.settings().backoff.start(rng) }
        });
        match failing.retries.next_wait(failing.since.elapsed(), after) {
            Some(wait) => {
                self.state = State::Waiting(Instant::now() + wait);
                Ok(())
            }
            None => {
                let attempts = failing.retries.failed();
                self.failing = None;
                Err(Error::GaveUp { attempts, last: Box::new(last) })
            }
        }
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { query, transport, caught_up, .. } = self;
        let mut shown = f.debug_struct("Tail");
        shown.field("query", query).field("transport", transport).field("caught_up", caught_up);
        shown.finish_non_exhaustive()
    }
}
