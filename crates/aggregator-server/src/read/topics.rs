//! `GET /topics`: the topics and their totals, by name, in pages.

use std::sync::Arc;

use aggregator_core::{Scope, Topic};
use axum::extract::State;
use axum::response::Response;
use hyper::Uri;
use serde::Serialize;

use crate::App;
use crate::http::link;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::routes::json;

#[derive(Serialize)]
struct Topics {
    count: usize,
    topics: Vec<TopicTotals>,
    /// The last name of this page: give it as `after` for the next one; null at the end.
    next: Option<String>,
}

#[derive(Serialize)]
struct TopicTotals {
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
    let after: Option<TopicName> = params.take("after")?;
    let limit = params.number("limit", 1..=1_000, 100)?;
    params.finish("after, limit")?;
    let mut found = app.reads.run(move |store| store.topics(after.map(|t| t.0).as_ref(), limit + 1)).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let topics: Vec<_> = found
        .into_iter()
        .map(|info| TopicTotals {
            topic: info.topic.to_string(),
            last_seq: info.last_seq,
            purged_seq: info.purged_seq,
            // A store counts conflicts among the repeats.
            duplicates: info.duplicates.saturating_sub(info.conflicts),
            conflicts: info.conflicts,
            scope: match info.scope {
                Scope::Topic => "topic",
                Scope::Source => "source",
            },
        })
        .collect();
    let next = topics.last().filter(|_| more).map(|last| last.topic.clone());
    let page = Topics { count: topics.len(), topics, next };
    let mut response = json(&page);
    if let Some(next) = &page.next {
        link::to_next(&mut response, &uri, next);
    }
    Ok(response)
}

struct TopicName(Topic);

impl std::str::FromStr for TopicName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Topic::new(text).map(Self).map_err(|error| error.reason)
    }
}
