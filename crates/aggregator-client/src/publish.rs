//! `POST /publish`: events out, receipts back.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::client::{Client, bad_reply, parse};
use crate::error::{Error, ItemError};
use crate::event::Event;

/// When the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ack {
    /// After the commit that holds the events: whatever happens then, they are stored. Receipts say what became of them.
    #[default]
    Durable,
    /// Before the commit. Quicker, but a server that crashes may lose the events, and nobody is told. Receipts say
    /// [`Outcome::Queued`].
    Queued,
}

/// What becomes of a batch in which an event breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnInvalid {
    /// All of it is refused, with [`Error::Refused`] (422), whose problem names every fault.
    #[default]
    Reject,
    /// The good events are stored, the bad ones get receipts with [`Outcome::Rejected`].
    Skip,
}

/// What a publisher can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PublishOptions {
    /// When the server answers.
    pub ack: Ack,
    /// What becomes of a batch in which an event breaks a rule.
    pub on_invalid: OnInvalid,
}

impl PublishOptions {
    /// The defaults: the answer comes after the commit, and a batch is taken as a whole or not at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// When the server answers.
    #[must_use]
    pub fn ack(mut self, ack: Ack) -> Self {
        self.ack = ack;
        self
    }

    /// What becomes of a batch in which an event breaks a rule.
    #[must_use]
    pub fn on_invalid(mut self, on_invalid: OnInvalid) -> Self {
        self.on_invalid = on_invalid;
        self
    }
}

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Outcome {
    /// It is new, and stored.
    Stored,
    /// It was stored before, with the same payload. That is a success: a retry gets it if an earlier attempt had
    /// worked.
    Duplicate,
    /// Another event has its identity: the same topic and id with another payload. That one stays.
    Conflict,
    /// It breaks a rule, and was skipped: see [`Receipt::errors`].
    Rejected,
    /// It was taken, and not yet committed ([`Ack::Queued`]).
    Queued,
}

/// What became of one event, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Its topic, as it was published.
    pub topic: String,
    /// Its id, as it was published.
    pub event_id: String,
    /// What became of it.
    pub outcome: Outcome,
    /// The place in its topic, from 1, of the event that is stored under its identity. Missing if it was rejected or
    /// queued, and where the store knows the identity alone.
    pub seq: Option<u64>,
    /// When the event that is stored under its identity was stored (RFC 3339).
    pub processed_at: Option<String>,
    /// What is wrong with a rejected event.
    pub errors: Vec<ItemError>,
}

/// The answer to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// A receipt for each event, in the order of the batch.
    pub receipts: Vec<Receipt>,
    /// What the acknowledgement stands for, such as `fsync`, or `queued`.
    pub durability: String,
    /// When the server received the batch (RFC 3339).
    pub received_at: String,
}

impl Published {
    /// How many events had this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.receipts.iter().filter(|receipt| receipt.outcome == outcome).count()
    }
}

impl Client {
    /// Publishes a batch, and returns a receipt for each of its events when all of them are durable.
    ///
    /// One call is one request: it takes up to 10,000 events and 16 MiB. Cut what is larger, for example with `chunks`.
    ///
    /// Failures that may pass are retried with the same bytes. That is safe, since the server stores an identity once:
    /// if it had stored the events and its reply was lost, the retry is told [`Outcome::Duplicate`]. For the same reason
    /// it is safe to call this again with the same events after any error.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 422 if an event breaks a rule; nothing was stored then, and the problem names every
    /// fault. [`Error::GaveUp`] after the last retry; some of the events, or all of them, may be stored then.
    pub async fn publish(&self, events: &[Event]) -> Result<Published, Error> {
        self.publish_with(events, PublishOptions::default()).await
    }

    /// Publishes a batch as [`Client::publish`] does, but with options.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn publish_with(&self, events: &[Event], options: PublishOptions) -> Result<Published, Error> {
        let body = self.encode_batch(events)?;
        let reply = self.with_retries(|limit| self.publish_once(body.clone(), options, limit)).await?;
        receipts(&self.publish_url(), &reply, events)
    }

    /// One attempt to publish a body that is encoded already, without retries, and the reply's bytes as they came.
    ///
    /// It is for publishers that inject faults into attempts, count them, or judge replies by themselves; they can retry
    /// with [`Retries::run`](crate::backoff::Retries::run). The attempt ends after `limit`, or after the client's
    /// `request_timeout` if that is shorter. `body` is what `POST /publish` takes.
    ///
    /// # Errors
    /// For anything but a complete 2xx reply.
    pub async fn publish_once(
        &self,
        body: Bytes,
        options: PublishOptions,
        limit: Duration,
    ) -> Result<Bytes, Error> {
        let mut url = self.publish_url();
        if options.ack == Ack::Queued {
            url.query_pairs_mut().append_pair("ack", "queued");
        }
        if options.on_invalid == OnInvalid::Skip {
            url.query_pairs_mut().append_pair("on_invalid", "skip");
        }
        self.post_once(url, body, self.attempt_timeout(limit)).await
    }

    fn encode_batch(&self, events: &[Event]) -> Result<Bytes, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            events: &'a [Event],
        }
        self.encode("events", events.len(), &Body { events })
    }
}

/// Reads the receipts of a batch: one for each event, in order, each about its event. Any other reply acknowledges
/// nothing.
pub(crate) fn receipts(url: &Url, reply: &[u8], events: &[Event]) -> Result<Published, Error> {
    let reply: Reply<'_> = parse(reply, url)?;
    if reply.results.len() != events.len() {
        let (sent, told) = (events.len(), reply.results.len());
        return Err(bad_reply(url, format!("it has {told} receipts for {sent} events")));
    }
    let pairs = reply.results.into_iter().zip(events).enumerate();
    let receipts = pairs
        .map(|(index, (item, event))| {
            item.receipt_of(event).map_err(|why| bad_reply(url, format!("receipt {index} {why}")))
        })
        .collect::<Result<_, _>>()?;
    Ok(Published { receipts, durability: reply.durability, received_at: reply.received_at })
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    results: Vec<Item<'a>>,
    durability: String,
    received_at: String,
}

#[derive(Deserialize)]
struct Item<'a> {
    /// Missing for a rejected event whose topic and id the server cannot tell.
    #[serde(borrow)]
    topic: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event_id: Option<Cow<'a, str>>,
    outcome: Outcome,
    seq: Option<u64>,
    processed_at: Option<String>,
    #[serde(default)]
    errors: Vec<ItemError>,
}

impl Item<'_> {
    fn receipt_of(self, event: &Event) -> Result<Receipt, &'static str> {
        let about = (self.topic.as_deref(), self.event_id.as_deref());
        let unnamed = self.outcome == Outcome::Rejected && about == (None, None);
        if !unnamed && about != (Some(event.topic()), Some(event.event_id())) {
            return Err("is about another event than the one sent");
        }
        if matches!(self.outcome, Outcome::Stored) && self.seq.is_none() {
            return Err("says stored, but not where");
        }
        Ok(Receipt {
            topic: event.topic().to_owned(),
            event_id: event.event_id().to_owned(),
            outcome: self.outcome,
            seq: self.seq,
            processed_at: self.processed_at,
            errors: self.errors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(results: &[&str]) -> Result<Published, Error> {
        let url = Url::parse("http://127.0.0.1:1/publish").unwrap();
        let reply = format!(
            r#"{{"status":"accepted","durability":"fsync","received_at":"2026-01-31T12:00:00Z","results":[{}]}}"#,
            results.join(",")
        );
        receipts(&url, reply.as_bytes(), &[Event::new("t", "\"a\""), Event::new("t", "b")])
    }

    const A: &str = r#"{"topic":"t","event_id":"\"a\"","outcome":"stored","seq":1,"processed_at":"x"}"#;
    const B: &str = r#"{"topic":"t","event_id":"b","outcome":"conflict","seq":7,"processed_at":"y"}"#;
    const REJECTED: &str =
        r#"{"outcome":"rejected","errors":[{"index":1,"field":"topic","detail":"is bad"}]}"#;

    #[test]
    fn receipts_must_be_about_the_events_that_were_sent_in_their_order() {
        let good = read(&[A, B]).unwrap();
        assert_eq!(
            (good.receipts[0].outcome, good.receipts[1].outcome),
            (Outcome::Stored, Outcome::Conflict)
        );
        assert_eq!((good.receipts[0].event_id.as_str(), good.receipts[1].seq), ("\"a\"", Some(7)));
        assert_eq!(read(&[A, REJECTED]).unwrap().receipts[1].errors[0].field, "topic");
        for (results, why) in [
            (&[A][..], "it has 1 receipts for 2 events"),
            (&[B, A], "receipt 0 is about another event"),
            (&[REJECTED, A], "receipt 1 is about another event"),
            (
                &[A, r#"{"topic":"t","event_id":"b","outcome":"stored"}"#],
                "receipt 1 says stored, but not where",
            ),
            (&[A, r#"{"topic":"t","event_id":"b","outcome":"lost"}"#], "unknown variant `lost`"),
        ] {
            let error = read(results).unwrap_err();
            assert!(matches!(error, Error::BadReply { .. }) && error.to_string().contains(why), "{error}");
        }
    }

    /// A page of somebody else's may be a value where a word is expected.
    #[test]
    fn a_reply_that_is_refused_is_shown_on_a_short_line() {
        let long =
            format!(r#"{{"topic":"t","event_id":"b","outcome":"lost\n\u001b[2J{}"}}"#, "x".repeat(5_000));
        let error = read(&[A, &long]).unwrap_err().to_string();
        assert!(error.len() < 500 && !error.contains(char::is_control), "{error:?}");
    }

    #[test]
    fn a_batch_over_a_limit_is_not_sent() {
        let builder = || Client::builder("http://127.0.0.1:1");
        let few = builder().max_batch_events(1).build().unwrap();
        let error = few.encode_batch(&[Event::new("t", "1"), Event::new("t", "2")]).unwrap_err().to_string();
        assert!(error.contains("2 events, 1 is the limit") && error.contains("max_batch_events"), "{error}");
        let short = builder().max_batch_bytes(20).build().unwrap();
        let error = short.encode_batch(&[Event::new("t", "1")]).unwrap_err().to_string();
        assert!(error.contains("20 is the limit") && error.contains("max_batch_bytes"), "{error}");
    }
}
