//! `GET /duplicates`: the newest repeats and conflicts, one by one.

use std::cmp::Reverse;
use std::sync::Arc;

use aggregator_core::{EventId, Timestamp};
use axum::extract::State;
use axum::response::Response;
use hyper::Uri;
use serde::Serialize;

use super::differences::Difference;
use super::latest::{MAX_KEPT, Repeat};
use super::report::asked_topics;
use super::{follow, lock};
use crate::app::App;
use crate::auth::Principal;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::response::json;

#[derive(Serialize)]
struct DuplicatesBody {
    count: usize,
    /// From the newest to the oldest.
    duplicates: Vec<RepeatBody>,
}

#[derive(Serialize)]
struct RepeatBody {
    outcome: &'static str,
    topic: Box<str>,
    event_id: Box<str>,
    /// Of the repeat, as the next.
    source: Box<str>,
    timestamp: Box<str>,
    /// When it came.
    at: String,
    /// When the first event with the identity was stored.
    first_at: String,
    /// How much later it came.
    late_seconds: f64,
    /// Of the stored event.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    /// Of a conflict: the fields in which it differs from the stored event. Left out if it was not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    differences: Option<Vec<Difference>>,
}

pub(crate) async fn duplicates(
    State(app): State<Arc<App>>,
    reader: Principal,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut params = Params::of(&uri)?;
    let topics = asked_topics(&mut params, &reader)?;
    let event_id: Option<EventId> = params.take("event_id")?;
    let conflicts = params.choose("outcome", &[("duplicate", false), ("conflict", true)])?;
    let limit = params.number("limit", 1..=MAX_KEPT, 100)?;
    params.finish("topic, event_id, outcome, limit")?;
    let is_asked = move |repeat: &Repeat| {
        conflicts.is_none_or(|conflicts| repeat.is_conflict == conflicts)
            && event_id.as_ref().is_none_or(|id| id.as_str() == &*repeat.event_id)
            && topics.matches(&repeat.topic)
    };
    let shared = Arc::clone(&app);
    let found = app.reads.run(reader.flow(), move |store| {
        let others = follow::others(&shared, store)?;
        let mut latest = lock(&shared.insight.observed).latest.all();
        latest.extend(others.iter().flat_map(|other| &other.latest).cloned());
        latest.sort_by_key(|repeat| Reverse(repeat.at));
        Ok(latest.into_iter().filter(is_asked).take(limit).map(RepeatBody::of).collect::<Vec<_>>())
    });
    let duplicates = found.await?;
    Ok(json(&DuplicatesBody { count: duplicates.len(), duplicates }))
}

impl RepeatBody {
    #[expect(clippy::cast_precision_loss, reason = "nobody needs the microseconds of a hundred years")]
    fn of(repeat: Repeat) -> Self {
        Self {
            outcome: if repeat.is_conflict { "conflict" } else { "duplicate" },
            topic: repeat.topic,
            event_id: repeat.event_id,
            source: repeat.source,
            timestamp: repeat.timestamp,
            at: Timestamp::from_micros(repeat.at).to_string(),
            first_at: Timestamp::from_micros(repeat.first_at).to_string(),
            late_seconds: repeat.at.saturating_sub(repeat.first_at).max(0) as f64 / 1e6,
            seq: repeat.seq,
            differences: repeat.differences,
        }
    }
}
