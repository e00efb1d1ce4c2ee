//! What a server knows beside its events: identities, topics, totals, and whether it is ready.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::{Client, bad_reply, parse};
use crate::error::Error;

/// An identity to look up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    topic: String,
    event_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Identity {
    /// The identity of an event with this topic and id.
    #[must_use]
    pub fn new(topic: impl Into<String>, event_id: impl Into<String>) -> Self {
        Self { topic: topic.into(), event_id: event_id.into(), source: None }
    }

    /// With the source, which is a part of the identity in topics of scope `source`.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// Whether an identity was seen, and where.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Seen {
    /// The topic asked for.
    pub topic: String,
    /// The id asked for.
    pub event_id: String,
    /// Whether the identity was seen.
    pub seen: bool,
    /// The seq of the event that is stored under it: its place in the topic, from 1.
    pub seq: Option<u64>,
    /// When that event was stored (RFC 3339).
    pub processed_at: Option<String>,
    /// Whether its payload was removed by retention. The identity stays.
    #[serde(default)]
    pub purged: bool,
}

/// Some of the topics, by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct TopicsPage {
    /// The topics.
    pub topics: Vec<TopicTotals>,
    /// The name after which the next page begins, for [`Client::topics`]; `None` at the end.
    pub next: Option<String>,
}

/// A topic, and its totals over the store's life.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct TopicTotals {
    /// Its name.
    pub topic: String,
    /// The seq of the newest event; also the number of events stored.
    pub last_seq: u64,
    /// Retention removed the events up to this seq.
    pub purged_seq: u64,
    /// How many events are left.
    pub count: u64,
    /// When the oldest of them was stored (RFC 3339); `None` if there is none.
    pub first_processed_at: Option<String>,
    /// When the newest event was stored, even if retention removed it; `None` if there was none.
    pub last_processed_at: Option<String>,
    /// Repeats with the same payload.
    pub duplicates: u64,
    /// Repeats with another payload.
    pub conflicts: u64,
}

/// The totals over the store's life, whichever servers counted them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// Deliveries received: the three below, and what is queued.
    pub received: u64,
    /// Events stored.
    pub unique_processed: u64,
    /// Repeats with the same payload.
    pub duplicate_dropped: u64,
    /// Repeats with another payload.
    #[serde(default)]
    pub conflicts: u64,
}

impl Client {
    /// Asks which identities were seen. The answers come in the order of the questions.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for more than fit in a batch, [`Error::Refused`] with status 422 if an identity breaks a
    /// rule.
    pub async fn lookup(&self, identities: &[Identity]) -> Result<Vec<Seen>, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            ids: &'a [Identity],
        }
        #[derive(Deserialize)]
        struct Reply {
            results: Vec<Seen>,
        }
        let url = self.endpoint("/lookup");
        let body = self.encode("identities", identities.len(), &Body { ids: identities })?;
        let attempt = |limit| self.post_once(url.clone(), body.clone(), self.attempt_timeout(limit));
        let reply: Reply = parse(&self.with_retries(attempt).await?, &url)?;
        let asked = identities.iter().map(|id| (&id.topic, &id.event_id));
        if !asked.eq(reply.results.iter().map(|seen| (&seen.topic, &seen.event_id))) {
            return Err(bad_reply(&url, "it answers other questions than those asked"));
        }
        Ok(reply.results)
    }

    /// The topics that a selector means (`orders.eu`, `orders.*`), or all: those after a name, or the first ones. `limit`
    /// of them, 1 to 1,000.
    ///
    /// # Errors
    /// As any other read.
    pub async fn topics(
        &self,
        selector: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<TopicsPage, Error> {
        let mut url = self.endpoint("/topics");
        url.query_pairs_mut()
            .append_pair("limit", &limit.to_string())
            .extend_pairs(selector.map(|selector| ("topic", selector)))
            .extend_pairs(after.map(|after| ("after", after)));
        let attempt = |limit| self.get_once(url.clone(), self.attempt_timeout(limit));
        parse(&self.with_retries(attempt).await?, &url)
    }

    /// The totals.
    ///
    /// # Errors
    /// As any other read.
    pub async fn stats(&self) -> Result<Stats, Error> {
        let url = self.endpoint("/stats");
        let attempt = |limit| self.get_once(url.clone(), self.attempt_timeout(limit));
        parse(&self.with_retries(attempt).await?, &url)
    }

    /// Whether the server takes events now. It is asked once: a retry would answer another question.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 503 and the reason if it does not; others if there is no server.
    pub async fn ready(&self) -> Result<(), Error> {
        let limit = self.settings().request_timeout;
        self.get_once(self.endpoint("/readyz"), limit).await.map(drop)
    }

    /// Whether a server is there, whatever state it is in. It is asked once, and has `limit` to answer.
    ///
    /// # Errors
    /// As any other read, but without retries.
    pub async fn live(&self, limit: Duration) -> Result<(), Error> {
        self.get_once(self.endpoint("/livez"), limit).await.map(drop)
    }
}
