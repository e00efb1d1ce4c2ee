//! Events as lines of JSON: more of them than a page holds, written while they are read.
//!
//! The body is made of pages, each read by itself, so no snapshot waits for a client. Its last line says where to go on;
//! a body without that line was cut off.

use std::convert::Infallible;
use std::sync::Arc;

use aggregator_core::{Cursor, DedupStore, Page, Query};
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use hyper::HeaderMap;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use tokio::time::Instant;
use tracing::debug;

use super::events::is_known;
use super::{event_json, tail};
use crate::app::App;
use crate::auth::Principal;
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::read_pool::ReadError;

pub(super) const MEDIA_TYPE: &str = "application/x-ndjson";

/// The most events of one answer.
pub(super) const MAX_EVENTS: usize = 1_000_000;

/// The events of the first page. Each further page has twice as many, up to [`Query::MAX_LIMIT`]: a client that asks and does
/// not read costs little.
const FIRST_PAGE: usize = 100;

pub(super) fn is_accepted(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|accepted| accepted.contains(MEDIA_TYPE))
}

/// The end of the body.
#[derive(Serialize)]
struct LastLine<'a> {
    next: &'a str,
    caught_up: bool,
    /// Left out if it is `true`.
    #[serde(skip_serializing_if = "Clone::clone")]
    known: bool,
}

/// Some lines of the body: a page.
struct Lines {
    bytes: Bytes,
    events: usize,
    next: Cursor,
    caught_up: bool,
    known: bool,
}

/// Answers with up to `query.limit` events. If there is none, waits for one until `until`.
pub(super) async fn respond(
    app: &Arc<App>,
    reader: Principal,
    request_id: RequestId,
    query: Query,
    until: Option<Instant>,
) -> Result<Response, Problem> {
    let mut walk =
        Walk { app: Arc::clone(app), reader, request_id, left: query.limit, page: FIRST_PAGE, query };
    let mut first = walk.read().await?;
    if let Some(until) = until
        && first.events == 0
        && first.caught_up
    {
        walk.query.after = Some(first.next);
        walk.query = tail::until_event(app, &walk.reader, walk.query, until).await?;
        first = walk.read().await?;
    }
    let body = unfold(Some((walk, Some(first))), async |state| {
        let (mut walk, lines) = state?;
        let lines = match lines {
            Some(lines) => Ok(lines),
            None => walk.read().await,
        };
        let (bytes, goes_on) = walk.next_piece(lines);
        Some((Ok::<_, Infallible>(bytes), goes_on.then_some((walk, None))))
    })
    // Compression asks once more behind the end.
    .fuse();
    let mut response = Body::from_stream(body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    Ok(response)
}

/// A walk over the pages of one answer.
struct Walk {
    app: Arc<App>,
    reader: Principal,
    request_id: RequestId,
    query: Query,
    /// How many events may still come.
    left: usize,
    /// How many events the next page may have.
    page: usize,
}

impl Walk {
    /// The next page. Its reader may have lost its credential since the one before.
    async fn read(&self) -> Result<Lines, Problem> {
        self.reader.check()?;
        let query = Query { limit: self.left.min(self.page), ..self.query.clone() };
        let read = move |store: &dyn DedupStore| {
            let page = store.read(&query)?;
            let known = is_known(store, &query, &page)?;
            Ok(render(known, page))
        };
        let mut lines = self.app.reads.run(self.reader.flow(), read).await??;
        lines.bytes = self.app.hold(lines.bytes).ok_or(ReadError::NoRoom)?;
        Ok(lines)
    }

    /// The text of a page, with the last line if it is the last one. False if nothing follows.
    fn next_piece(&mut self, lines: Result<Lines, Problem>) -> (Bytes, bool) {
        let lines = match lines {
            Ok(lines) => lines,
            // The status is sent already. The client is told where to go on, and if it is still wrong then, what is.
            Err(problem) => {
                debug!(request_id = %self.request_id, detail = problem.detail(), "lines of events end early");
                let after = self.query.after.as_ref();
                let next = after.map(|cursor| self.reader.show_cursor(cursor)).unwrap_or_default();
                return (last_line(&next, false, true), false);
            }
        };
        self.left -= lines.events;
        self.page = (self.page * 2).min(Query::MAX_LIMIT);
        let next = self.reader.show_cursor(&lines.next);
        self.query.after = Some(lines.next);
        if self.left > 0 && !lines.caught_up {
            return (lines.bytes, true);
        }
        (Bytes::from([lines.bytes, last_line(&next, lines.caught_up, lines.known)].concat()), false)
    }
}

fn render(known: bool, page: Page) -> Result<Lines, Problem> {
    let mut text = String::new();
    for event in &page.events {
        text.push_str(&event_json::line(event)?);
        text.push('\n');
    }
    let (events, next, caught_up) = (page.events.len(), page.next, page.caught_up);
    Ok(Lines { bytes: text.into(), events, next, caught_up, known })
}

fn last_line(next: &str, caught_up: bool, known: bool) -> Bytes {
    let mut line = serde_json::to_vec(&LastLine { next, caught_up, known }).expect("a cursor is a string");
    line.push(b'\n');
    line.into()
}
