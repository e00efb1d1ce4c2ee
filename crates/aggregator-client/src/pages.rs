//! `GET /events`: the stored events, page by page.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::{Client, parse};
use crate::error::Error;

/// After this many pages without progress of the cursor, reading is reported as stuck.
const MAX_PAGES_WITHOUT_PROGRESS: u32 = 10;

/// Stands for a cursor behind everything that is stored.
const LATEST: &str = "latest";

/// Which events to read. Without any filter it is all events, the oldest one first, 100 to a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    topics: Vec<String>,
    event_id: Option<String>,
    source: Option<String>,
    since: Option<String>,
    until: Option<String>,
    order: Order,
    limit: Option<u32>,
    after: Option<String>,
    wait: Option<u32>,
}

/// The order in which events are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest one first.
    #[default]
    Ascending,
    /// The newest one first.
    Descending,
}

impl Query {
    /// All events.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only events of a topic, `orders.eu`, or of all topics below one, `orders.*`. Called again, also events of those; the
    /// server takes up to 100.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topics.push(topic.into());
        self
    }

    /// Only the event with this id. The query must name one topic, too.
    #[must_use]
    pub fn event_id(mut self, event_id: impl Into<String>) -> Self {
        self.event_id = Some(event_id.into());
        self
    }

    /// Only events that this publisher published.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Only events that were stored at this time or later (`processed_at`, RFC 3339).
    #[must_use]
    pub fn since(mut self, time: impl Into<String>) -> Self {
        self.since = Some(time.into());
        self
    }

    /// Only events that were stored before this time (`processed_at`, RFC 3339).
    #[must_use]
    pub fn until(mut self, time: impl Into<String>) -> Self {
        self.until = Some(time.into());
        self
    }

    /// In this order.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// The most events on a page, 1 to 1,000.
    #[must_use]
    pub fn limit(mut self, events: u32) -> Self {
        self.limit = Some(events);
        self
    }

    /// Only events after a cursor: [`Page::next`] of an earlier page of the same query.
    #[must_use]
    pub fn after(mut self, cursor: impl Into<String>) -> Self {
        self.after = Some(cursor.into());
        self
    }

    /// Only events that are stored from now on: after everything that is stored when the server is first asked.
    #[must_use]
    pub fn latest(self) -> Self {
        self.after(LATEST)
    }

    /// The server keeps a page that would be empty back until there is an event for it, up to so many seconds, 0 to 55.
    /// Only for pages in ascending order. The client's `request_timeout` is longer by it.
    #[must_use]
    pub fn wait(mut self, seconds: u32) -> Self {
        self.wait = Some(seconds);
        self
    }

    /// Where a reader goes on; `None` where that depends on when it asks.
    pub(crate) fn cursor(&self) -> Option<&str> {
        self.after.as_deref().filter(|after| *after != LATEST)
    }

    pub(crate) fn set_cursor(&mut self, cursor: String) {
        self.after = Some(cursor);
    }

    /// The same for a long poll of up to `seconds`, unless the query says another number.
    pub(crate) fn polling(&self, seconds: u32) -> Self {
        let wait = if self.cursor().is_some() { self.wait.or(Some(seconds)) } else { None };
        Self { wait, ..self.clone() }
    }

    /// The same for a stream, which knows neither pages nor waits.
    pub(crate) fn streaming(&self) -> Self {
        Self { limit: None, wait: None, ..self.clone() }
    }

    pub(crate) fn write_to(&self, url: &mut Url) {
        let order = (self.order == Order::Descending).then_some("desc");
        let limit = self.limit.map(|limit| limit.to_string());
        let wait = self.wait.map(|wait| wait.to_string());
        let parameters = [
            ("event_id", self.event_id.as_deref()),
            ("source", self.source.as_deref()),
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
            ("order", order),
            ("limit", limit.as_deref()),
            ("after", self.after.as_deref()),
            ("wait", wait.as_deref()),
        ];
        let topics = self.topics.iter().map(|topic| ("topic", topic.as_str()));
        let given = topics.chain(parameters.into_iter().filter_map(|(name, value)| Some((name, value?))));
        url.query_pairs_mut().extend_pairs(given);
    }
}

/// Some of the events that a query asks for.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Page {
    /// The events. There may be none although more follow, because a page also ends after a bounded search.
    pub events: Vec<StoredEvent>,
    /// The cursor behind them. Keep it to go on later, after a restart for example.
    pub next: String,
    /// Whether these are the last events for now.
    pub caught_up: bool,
    /// `false` if there is no topic of that name, or none below the pattern: look for a slip.
    #[serde(default = "known")]
    pub known: bool,
}

fn known() -> bool {
    true
}

/// An event as it is stored.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct StoredEvent {
    /// Its topic.
    pub topic: String,
    /// Its id.
    pub event_id: String,
    /// When it happened, as it was published.
    pub timestamp: String,
    /// Who published it.
    pub source: String,
    /// What happened, as it was spelled.
    pub payload: Box<RawValue>,
    /// The publisher's own counter.
    pub sequence: Option<u64>,
    /// The media type of the payload, where an import brought one.
    pub content_type: Option<String>,
    /// Further attributes, where an import brought them.
    pub attributes: Option<Box<RawValue>>,
    /// Its place in the topic, from 1, without gaps.
    pub seq: u64,
    /// When it was stored (RFC 3339).
    pub processed_at: String,
}

impl StoredEvent {
    /// Reads the payload into a type.
    ///
    /// # Errors
    /// [`Error::Payload`] if it is no value of that type.
    pub fn payload_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_json::from_str(self.payload.get()).map_err(Error::Payload)
    }
}

/// The pages of a query, made by [`Client::events`].
#[derive(Debug, Clone)]
pub struct Pages {
    client: Client,
    query: Query,
    /// Whether the newest page was caught up.
    caught_up: bool,
    without_progress: u32,
}

impl Pages {
    /// The next page, or `None` at the end. Call it again after a while to ask for what was stored since; with
    /// [`Query::wait`], at once.
    ///
    /// Failures that may pass are retried. After an error the same page can be asked for again.
    ///
    /// # Errors
    /// [`Error::Purged`] if retention removed events behind the cursor. Begin anew with its cursor then.
    pub async fn next(&mut self) -> Result<Option<Page>, Error> {
        if std::mem::take(&mut self.caught_up) {
            return Ok(None);
        }
        let (client, query) = (&self.client, &self.query);
        let body = client.with_retries(|limit| client.page_once(query, limit)).await?;
        let page: Page = parse(&body, &client.endpoint("/events"))?;
        self.caught_up = page.caught_up;
        let moved = page.caught_up || self.query.after.as_ref() != Some(&page.next);
        self.without_progress = if moved { 0 } else { self.without_progress + 1 };
        if self.without_progress >= MAX_PAGES_WITHOUT_PROGRESS {
            return Err(Error::Stuck { pages: std::mem::take(&mut self.without_progress) });
        }
        self.query.after = Some(page.next.clone());
        Ok(Some(page))
    }

    /// The cursor behind what was read so far; `None` before the first page of a query without one.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.query.cursor()
    }
}

impl Client {
    /// Reads the events that a query asks for, page by page. Nothing is asked before the first call of [`Pages::next`].
    #[must_use]
    pub fn events(&self, query: Query) -> Pages {
        Pages { client: self.clone(), query, caught_up: false, without_progress: 0 }
    }

    /// One attempt to read the page after the query's cursor, without retries, and the reply's bytes as they came.
    ///
    /// It is for readers that judge replies by themselves; they can retry with
    /// [`Retries::run`](crate::backoff::Retries::run). The attempt ends after `limit`, or after the client's
    /// `request_timeout` and the query's wait if that is shorter.
    ///
    /// # Errors
    /// For anything but a complete 2xx reply.
    pub async fn page_once(&self, query: &Query, limit: Duration) -> Result<Bytes, Error> {
        let mut url = self.endpoint("/events");
        query.write_to(&mut url);
        let wait = Duration::from_secs(query.wait.unwrap_or(0).into());
        self.get_once(url, limit.min(self.settings().request_timeout.saturating_add(wait))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_in_the_url_and_nothing_else() {
        let url = |query: &Query| {
            let mut url = Url::parse("http://host/events").unwrap();
            query.write_to(&mut url);
            url.query().unwrap_or_default().to_owned()
        };
        assert_eq!(url(&Query::new()), "");
        let query = Query::new()
            .topic("orders.*")
            .topic("bills")
            .event_id("a&b")
            .source("shop")
            .since("2026-01-31T12:00:00+01:00")
            .until("2026-02-01T00:00:00Z")
            .order(Order::Descending)
            .limit(7)
            .after("c")
            .wait(9);
        assert_eq!(
            url(&query),
            "topic=orders.*&topic=bills&event_id=a%26b&source=shop&since=2026-01-31T12%3A00%3A00%2B01%3A00&\
             until=2026-02-01T00%3A00%3A00Z&order=desc&limit=7&after=c&wait=9"
        );
        assert_eq!(
            url(&query.streaming().order(Order::Ascending)),
            url(&query).replace("&order=desc&limit=7&after=c&wait=9", "&after=c")
        );
        assert_eq!(url(&Query::new().latest()), "after=latest");
    }
}
