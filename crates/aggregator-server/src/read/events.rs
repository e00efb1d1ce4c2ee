//! `GET /events`: stored events, in pages; long polls, which wait for a page that is not empty.

use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{
    Cursor, DedupStore, DedupStoreExt as _, Order, Page, Query, StoreError, TopicSelector,
};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{HeaderMap, Uri};
use serde::Serialize;
use tokio::time::Instant;

use crate::app::App;
use crate::auth::Principal;
use crate::http::link;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::http::response::json;
use crate::read_pool::ReadError;

use super::event_json::EventJson;
use super::filters::{self, After};
use super::{ndjson, tail};

/// The longest wait of a long poll, in seconds. Proxies cut requests that are silent for a minute.
pub(super) const MAX_WAIT: usize = 55;

/// What is asked for.
pub(super) struct Request {
    pub(super) query: Query,
    /// Begin behind everything that is stored.
    pub(super) latest: bool,
    /// How long an empty page may wait for an event.
    pub(super) wait: Duration,
}

pub(crate) async fn events(
    State(app): State<Arc<App>>,
    reader: Principal,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let lines = ndjson::is_accepted(&headers);
    let mut request = request(&uri, &reader, if lines { ndjson::MAX_EVENTS } else { Query::MAX_LIMIT })?;
    if request.latest {
        let query = request.query.clone();
        request.query.after = Some(app.reads.run(reader.flow(), move |store| store.end(&query)).await?);
    }
    let until = (!request.wait.is_zero()).then(|| Instant::now() + request.wait);
    let mut response = if lines {
        ndjson::respond(&app, reader, RequestId::of(&headers), request.query, until).await?
    } else {
        page(&app, &reader, request.query, until, &uri).await?
    };
    // An answer is as of now.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

pub(super) fn request(uri: &Uri, reader: &Principal, max_limit: usize) -> Result<Request, Problem> {
    let mut params = Params::of(uri)?;
    let mut query = filters::take(&mut params, reader)?;
    query.order = params
        .choose("order", &[("asc", Order::Ascending), ("desc", Order::Descending)])?
        .unwrap_or_default();
    query.limit = params.number("limit", 1..=max_limit, Query::DEFAULT_LIMIT)?;
    let wait = params.number("wait", 0..=MAX_WAIT, 0)?;
    let after = filters::take_after(&mut params, reader)?;
    params.finish("topic, event_id, source, since, until, order, after, limit, wait")?;
    let latest = matches!(after, Some(After::Latest));
    if query.order == Order::Descending && (wait > 0 || latest) {
        let name = if latest { "after" } else { "wait" };
        return Err(Problem::parameter(name, "is for order=asc: nothing is ever stored at the other end"));
    }
    if let Some(After::Cursor(cursor)) = after {
        query.after = Some(cursor);
    }
    Ok(Request { query, latest, wait: Duration::from_secs(wait as u64) })
}

async fn page(
    app: &Arc<App>,
    reader: &Principal,
    mut query: Query,
    until: Option<Instant>,
    uri: &Uri,
) -> Result<Response, Problem> {
    let (response, end) = read_page(app, reader, query.clone(), uri).await?;
    let (Some(end), Some(until)) = (end, until) else { return Ok(response) };
    query.after = Some(end);
    let query = tail::until_event(app, reader, query, until).await?;
    reader.check()?;
    let (response, _) = read_page(app, reader, query, uri).await?;
    Ok(response)
}

/// A page as a response, and the end of the stream if the page is empty because it stands there.
async fn read_page(
    app: &App,
    reader: &Principal,
    query: Query,
    uri: &Uri,
) -> Result<(Response, Option<Cursor>), ReadError> {
    let (flow, uri, reader) = (reader.flow(), uri.clone(), reader.clone());
    // The page is rendered on that thread, too: it can be large, and those threads are counted.
    let read = move |store: &dyn DedupStore| {
        let page = store.read(&query)?;
        let known = is_known(store, &query, &page)?;
        let next = reader.show_cursor(&page.next);
        let mut response = render(&query.topics.to_string(), known, &page, &next);
        link::to_next(&mut response, &uri, &next);
        let end = (page.events.is_empty() && page.caught_up).then_some(page.next);
        Ok((response, end))
    };
    app.reads.run(flow, read).await
}

/// Whether there is a topic that could have had events. The store is asked only if the page does not show it: then an
/// empty page may come from a misspelt name, or from a topic without matching events.
pub(super) fn is_known(store: &dyn DedupStore, query: &Query, page: &Page) -> Result<bool, StoreError> {
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
    events: Vec<EventJson<'a>>,
    next: &'a str,
    caught_up: bool,
}

fn render(topic: &str, known: bool, page: &Page, next: &str) -> Response {
    match page.events.iter().map(EventJson::of).collect::<Result<Vec<_>, _>>() {
        Ok(events) => {
            json(&PageBody { topic, known, count: events.len(), events, next, caught_up: page.caught_up })
        }
        Err(problem) => problem.into_response(),
    }
}
