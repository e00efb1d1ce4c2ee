//! `GET /topics`: the topics by name, with their totals and times, in pages.

use std::sync::Arc;

use aggregator_core::{Scope, Topic, TopicInfo, TopicQuery, TopicSelector};
use axum::extract::State;
use axum::response::Response;
use hyper::Uri;
use serde::Serialize;

use crate::app::App;
use crate::auth::Principal;
use crate::http::link;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::response::json;

use super::filters;

#[derive(Serialize)]
struct TopicsBody {
    /// Left out if it is `true`.
    #[serde(skip_serializing_if = "Clone::clone")]
    known: bool,
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
    /// Events that still have their payloads.
    count: u64,
    duplicates: u64,
    conflicts: u64,
    /// When the oldest event that still has its payload was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_processed_at: Option<String>,
    /// When the newest event was stored, purged or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_processed_at: Option<String>,
    /// What makes two of its events the same: `topic` (the id) or `source` (the id and the source).
    scope: &'static str,
}

impl From<TopicInfo> for TopicBody {
    fn from(info: TopicInfo) -> Self {
        Self {
            count: info.count(),
            topic: info.topic.to_string(),
            last_seq: info.last_seq,
            purged_seq: info.purged_seq,
            // A store counts conflicts as repeats, too.
            duplicates: info.duplicates.saturating_sub(info.conflicts),
            conflicts: info.conflicts,
            first_processed_at: info.first_processed_at.map(|time| time.to_string()),
            last_processed_at: info.last_processed_at.map(|time| time.to_string()),
            scope: match info.scope {
                Scope::Topic => "topic",
                Scope::Source => "source",
            },
        }
    }
}

pub(crate) async fn topics(
    State(app): State<Arc<App>>,
    reader: Principal,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut params = Params::of(&uri)?;
    let asked = filters::topics(&mut params)?;
    // All topics are all that the reader may know of.
    let selected = asked.as_ref().map_or_else(|| reader.readable(), Ok)?.clone();
    reader.check_readable(&selected)?;
    let after: Option<Topic> = params.take("after")?;
    let limit = params.number("limit", 1..=1_000, TopicQuery::DEFAULT_LIMIT)?;
    params.finish("topic, after, limit")?;
    // An empty page may come from a misspelt name.
    let begins = after.is_none() && asked.is_some_and(|asked| asked != TopicSelector::All);
    let query = TopicQuery { topics: selected, after, limit: limit + 1, times: true };
    let mut found = app.reads.run(reader.flow(), move |store| store.topics(&query)).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let known = !(begins && found.is_empty());
    let topics: Vec<_> = found.into_iter().map(TopicBody::from).collect();
    let next = topics.last().filter(|_| more).map(|last| last.topic.clone());
    let page = TopicsBody { known, count: topics.len(), topics, next };
    let mut response = json(&page);
    if let Some(next) = &page.next {
        link::to_next(&mut response, &uri, next);
    }
    Ok(response)
}
