//! Publishes events to an aggregator, with retries that are safe, and reads them back.
//!
//! ```no_run
//! use aggregator_client::{Client, Event, Outcome, Query};
//! use serde_json::json;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("http://127.0.0.1:8080").build()?;
//!
//! let events = [
//!     Event::new("orders.eu", "order-1").with_source("shop").with_payload(&json!({"total": 12.5}))?,
//!     Event::new("orders.us", "order-2").with_json_payload(r#"{"total": 99.90}"#)?,
//! ];
//! let published = client.publish(&events).await?;
//! for receipt in &published.receipts {
//!     println!("{} {}: {:?}, seq {:?}", receipt.topic, receipt.event_id, receipt.outcome, receipt.seq);
//! }
//! assert_eq!(published.count(Outcome::Conflict), 0);
//!
//! let mut pages = client.events(Query::new().topic("orders.*"));
//! while let Some(page) = pages.next().await? {
//!     for event in &page.events {
//!         println!("{} {}", event.seq, event.payload.get());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Publishing
//!
//! [`Client::publish`] returns when all events of a batch are durable, with a [`Receipt`] for each of them, in order. A
//! [`Outcome::Duplicate`] is a success. A [`Outcome::Conflict`] says that an id was used twice.
//!
//! **Retries are safe.** A lost reply leaves a publisher in doubt whether its events were stored. The server stores each
//! pair of topic and event id once, so the client sends the same bytes again, and is told `duplicate` if they were. It
//! retries failed connections, timeouts, and the statuses 408, 429 and 5xx, waits as long as `Retry-After` says, and
//! gives up within the bounds of its [`Backoff`]. It never retries what is refused for a reason that stays, such as 422.
//! After any error, publishing the same events again is safe as well.
//!
//! # Reading
//!
//! [`Client::events`] gives the [`Pages`] of a [`Query`]. A page has the cursor behind it: keep it, to go on later. If
//! retention has removed events behind a cursor, reading says so with [`Error::Purged`], which has the cursor to go on
//! with:
//!
//! ```no_run
//! # use aggregator_client::{Client, Error, Query};
//! # async fn example(client: Client, kept: String) -> Result<(), Error> {
//! let query = Query::new().topic("orders.*");
//! let mut pages = client.events(query.clone().after(kept));
//! let page = match pages.next().await {
//!     Err(Error::Purged { oldest, .. }) => {
//!         // Some events are gone, and are not going to be seen. Those that are left come next.
//!         pages = client.events(query.after(oldest));
//!         pages.next().await?
//!     }
//!     page => page?,
//! };
//! # drop(page);
//! # Ok(())
//! # }
//! ```
//!
//! # Following
//!
//! [`Client::tail`] gives what is stored and then what comes, as a [`Tail`]. It connects again by itself, and neither
//! repeats nor misses an event.
//!
//! # Security
//!
//! A URL that begins with `https://` is asked over TLS. The client trusts whom the system trusts, and whom
//! [`Builder::ca_certificates`] adds. [`Builder::key`] proves who it is, and so does [`Builder::client_certificate`] to a
//! server that asks for certificates. What a server refuses with 401 or 403 is never tried again.
//!
//! # Bounds
//!
//! Every attempt has a timeout, every call a deadline and a number of attempts, every batch and every reply a greatest
//! size. [`Builder`] has them all, with their defaults.

pub mod backoff;
mod builder;
mod client;
mod error;
mod event;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod pages;
mod publish;
mod queries;
pub mod retry;
mod retry_after;
mod security;
mod sse;
mod tail;
mod url;

/// The status of a reply.
pub use reqwest::StatusCode;

pub use crate::backoff::{Backoff, BackoffError};
pub use crate::builder::{BuildError, Builder};
pub use crate::client::Client;
pub use crate::error::{Error, ItemError, Problem};
pub use crate::event::Event;
pub use crate::pages::{Order, Page, Pages, Query, StoredEvent};
pub use crate::publish::{Ack, OnInvalid, Outcome, PublishOptions, Published, Receipt};
pub use crate::queries::{Identity, Seen, Stats, TopicTotals, TopicsPage};
pub use crate::tail::{Events, Tail, TailItem, Transport};
pub use crate::url::{ServerUrl, ServerUrlError};
