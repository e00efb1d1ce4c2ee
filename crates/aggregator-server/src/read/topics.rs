//! `GET /topics`: the topics by name, with their totals, in pages.

use std::sync::Arc;

use aggregator_core::{Scope, Topic};
use axum::extract::State;
use axum::response::Response;
use hyper::Uri;
use serde::Serialize;

use crate::app::App;
use crate::http::link;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::response::json;

#[derive(Serialize)]
struct TopicsBody {
    count: usize,
    topics: Vec<TopicBody>,
    /// The last name of this page, to be given as `after` for the next page. `null` at the end.
    next: Option<String>,
}

#[derive(Serialize)]
struct TopicBody {
    topic: String,
    /// Events stored, purged ones included; the newest event's seq.
    last_seq: u64,
    /// Events up to this seq were purged.
    purged_seq: u64,
    duplicates: u64,
    conflicts: u64,
    /// What makes two of its events the same: `topic` (the id) or `source` (the id and the source).
    scope: &'static str,
}

pub(crate) async fn topics(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    let mut params = Params::of(&uri)?;
    let after: Option<Topic> = params.take("after")?;
    let limit = params.number("limit", 1..=1_000, 100)?;
    params.finish("after, limit")?;
    let mut found = app.reads.run(move |store| store.topics(after.as_ref(), limit + 1)).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let topics: Vec<_> = found
        .into_iter()
        .map(|info| TopicBody {
            topic: info.topic.to_string(),
            last_seq: info.last_seq,
            purged_seq: info.purged_seq,
            // A store counts conflicts as repeats, too.
            duplicates: info.duplicates.saturating_sub(info.conflicts),
            conflicts: info.conflicts,
            scope: match info.scope {
                Scope::Topic => "topic",
                Scope::Source => "source",
            },
        })
        .collect();
    let next = topics.last().filter(|_| more).map(|last| last.topic.clone());
    let page = TopicsBody { count: topics.len(), topics, next };
    let mut response = json(&page);
    if let Some(next) = &page.next {
        link::to_next(&mut response, &uri, next);
    }
    Ok(response)
}
