//! `GET /events`: stored events, in pages.

use std::sync::Arc;

use aggregator_core::{
    Cursor, DedupStore, DedupStoreExt as _, EventId, Order, Page, Query, Source, StoreError, StoredEvent,
    Timestamp, TopicSelector,
};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use hyper::Uri;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::app::App;
use crate::http::link;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::response::json;

pub(crate) async fn events(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    let mut params = Params::of(&uri)?;
    let topics = params.take::<TopicSelector>("topic")?.unwrap_or(TopicSelector::All);
    let query = Query {
        event_id: params.take::<EventId>("event_id")?,
        source: params.take::<Source>("source")?,
        since: params.take::<Timestamp>("since")?,
        until: params.take::<Timestamp>("until")?,
        order: params
            .choose("order", &[("asc", Order::Ascending), ("desc", Order::Descending)])?
            .unwrap_or_default(),
        after: params.take::<Cursor>("after")?,
        limit: params.number("limit", 1..=Query::MAX_LIMIT, Query::DEFAULT_LIMIT)?,
        ..Query::of(topics)
    };
    params.finish("topic, event_id, source, since, until, order, after, limit")?;
    let topic = query.topics.to_string();
    // The page is rendered on that thread, too: it can be large, and those threads are counted.
    let read = move |store: &dyn DedupStore| {
        let page = store.read(&query)?;
        let known = is_known(store, &query, &page)?;
        let mut response = render(&topic, known, &page);
        link::to_next(&mut response, &uri, &page.next.to_string());
        Ok(response)
    };
    Ok(app.reads.run(read).await?)
}

/// Whether there is a topic that could have had events. The store is asked only if the page does not show it: then an
/// empty page may come from a misspelt name, or from a topic without matching events.
fn is_known(store: &dyn DedupStore, query: &Query, page: &Page) -> Result<bool, StoreError> {
    let begins = query.after.is_none() && query.topics != TopicSelector::All;
    Ok(!(begins && page.events.is_empty() && page.caught_up) || store.knows(&query.topics)?)
}

#[derive(Serialize)]
struct PageBody<'a> {
    topic: &'a str,
    /// Left out if it is `true`.
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
    // Checked again, because a disk may return something else than what was written.
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
