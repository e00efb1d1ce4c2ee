//! `GET /events`: the clean stream, in pages.

use std::str::FromStr;
use std::sync::Arc;

use aggregator_core::{
    Cursor, DedupStore, DedupStoreExt as _, EventId, InvalidField, Order, Page, Query, Source, StoreError,
    StoredEvent, Timestamp, TopicSelector,
};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use hyper::Uri;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::App;
use crate::http::link;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::routes::json;

pub(crate) async fn events(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    let mut params = Params::of(&uri)?;
    let topics = params.take::<Checked<TopicSelector>>("topic")?.map_or(TopicSelector::All, |t| t.0);
    let query = Query {
        event_id: params.take::<Checked<EventId>>("event_id")?.map(|id| id.0),
        source: params.take::<Checked<Source>>("source")?.map(|source| source.0),
        since: params.take::<Checked<Timestamp>>("since")?.map(|since| since.0),
        until: params.take::<Checked<Timestamp>>("until")?.map(|until| until.0),
        order: params
            .choose("order", &[("asc", Order::Ascending), ("desc", Order::Descending)])?
            .unwrap_or_default(),
        after: params.take::<Checked<Cursor>>("after")?.map(|cursor| cursor.0),
        limit: params.number("limit", 1..=Query::MAX_LIMIT, Query::DEFAULT_LIMIT)?,
        ..Query::of(topics)
    };
    params.finish("topic, event_id, source, since, until, order, after, limit")?;
    let topic = query.topics.to_string();
    // Rendered there, too: a page can be large, and these threads are counted.
    let read = move |store: &dyn DedupStore| {
        let page = store.read(&query)?;
        let known = is_known(store, &query, &page)?;
        let mut response = render(&topic, known, &page);
        link::to_next(&mut response, &uri, &page.next.to_string());
        Ok(response)
    };
    app.reads.run(read).await
}

/// Whether there is a topic that could have had events. Only asked where nothing else can tell a misspelt name from a
/// topic in which nothing was found.
fn is_known(store: &dyn DedupStore, query: &Query, page: &Page) -> Result<bool, StoreError> {
    let begins = query.after.is_none() && query.topics != TopicSelector::All;
    Ok(!(begins && page.events.is_empty() && page.caught_up) || store.knows(&query.topics)?)
}

#[derive(Serialize)]
struct PageBody<'a> {
    topic: &'a str,
    /// Missing where it is.
    #[serde(skip_serializing_if = "Clone::clone")]
    known: bool,
    count: usize,
    events: Vec<EventBody<'a>>,
    next: String,
    caught_up: bool,
}

#[derive(Serialize)]
struct EventBody<'a> {
    topic: &'a str,
    event_id: &'a str,
    timestamp: &'a str,
    source: &'a str,
    payload: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<&'a RawValue>,
    seq: u64,
    processed_at: String,
}

fn render(topic: &str, known: bool, page: &Page) -> Response {
    match page.events.iter().map(event_body).collect::<Result<Vec<_>, _>>() {
        Ok(events) => json(&PageBody {
            topic,
            known,
            count: events.len(),
            events,
            next: page.next.to_string(),
            caught_up: page.caught_up,
        }),
        Err(problem) => problem.into_response(),
    }
}

fn event_body(event: &StoredEvent) -> Result<EventBody<'_>, Problem> {
    // Checked once more: what came from a disk may not be what was put there.
    let json = |field, text| {
        serde_json::from_str::<&RawValue>(text).map_err(|_| {
            Problem::internal(format!(
                "the {field} of {} seq {} is corrupt in the store",
                event.topic, event.seq
            ))
        })
    };
    Ok(EventBody {
        topic: &event.topic,
        event_id: &event.event_id,
        timestamp: &event.timestamp,
        source: &event.source,
        payload: json("payload", &event.payload)?,
        sequence: event.sequence,
        content_type: event.content_type.as_deref(),
        attributes: event.attributes.as_deref().map(|text| json("attributes", text)).transpose()?,
        seq: event.seq,
        processed_at: event.processed_at.to_string(),
    })
}

/// A parameter whose complaint does not name the field of an event: the parameter's own name is said
/// with it already.
struct Checked<T>(T);

/// What can be made from a parameter's text.
trait FromParam: Sized {
    fn from_param(text: &str) -> Result<Self, InvalidField>;
}

impl FromParam for EventId {
    fn from_param(text: &str) -> Result<Self, InvalidField> {
        Self::new(text)
    }
}

impl FromParam for Source {
    fn from_param(text: &str) -> Result<Self, InvalidField> {
        Self::new(text)
    }
}

impl FromParam for TopicSelector {
    fn from_param(text: &str) -> Result<Self, InvalidField> {
        text.parse()
    }
}

impl FromParam for Timestamp {
    fn from_param(text: &str) -> Result<Self, InvalidField> {
        text.parse().map_err(|error| match text.rsplit_once(' ') {
            Some((local, offset)) if format!("{local}+{offset}").parse::<Self>().is_ok() => {
                let reason = format!(
                    "has no offset, for a plus sign in a URL stands for a space: write {local}%2B{offset}"
                );
                InvalidField::new("timestamp", reason)
            }
            _ => error,
        })
    }
}

impl FromParam for Cursor {
    fn from_param(text: &str) -> Result<Self, InvalidField> {
        text.parse()
    }
}

impl<T: FromParam> FromStr for Checked<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        T::from_param(text).map(Self).map_err(|error| error.reason)
    }
}
