//! `POST /lookup`: which identities were seen. Ids may hold any character, so they come in a body.

use std::sync::Arc;

use aggregator_core::{EventId, Identity, InvalidField, Seen, Source, Topic};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::{HeaderMap, Uri};
use serde::{Deserialize, Serialize};

use super::params::Params;
use super::{body, json};
use crate::App;
use crate::problem::{ItemError, Problem};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    ids: Vec<RequestedId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestedId {
    topic: String,
    event_id: String,
    source: Option<String>,
}

#[derive(Serialize)]
struct Reply {
    count: usize,
    results: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    topic: String,
    event_id: String,
    seen: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processed_at: Option<String>,
    /// Whether only the identity is left, since the payload was purged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    purged: bool,
}

pub(super) async fn lookup(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    let received = body::json(&app, &headers, body).await?;
    let limit = app.config.max_batch_events.get();
    // Decoded and rendered there, too: bodies can be large, and these threads are counted.
    app.reads
        .run(move |store| {
            let ids = match identities(&received.bytes, limit) {
                Ok(ids) => ids,
                Err(problem) => return Ok(Err(problem)),
            };
            drop(received);
            let seen = store.lookup(&ids)?;
            let results: Vec<_> = ids.iter().zip(seen).map(|(id, seen)| found(id, seen)).collect();
            Ok(Ok(json(&Reply { count: results.len(), results })))
        })
        .await?
}

fn found(id: &Identity, seen: Option<Seen>) -> Found {
    Found {
        topic: id.topic.to_string(),
        event_id: id.event_id.to_string(),
        seen: seen.is_some(),
        seq: seen.and_then(|seen| seen.seq),
        processed_at: seen.map(|seen| seen.processed_at.to_string()),
        purged: seen.is_some_and(|seen| seen.purged),
    }
}

/// What a body asks for, `limit` identities at most.
fn identities(body: &[u8], limit: usize) -> Result<Vec<Identity>, Problem> {
    let requested: Request = serde_json::from_slice(body).map_err(|error| {
        Problem::malformed_json(r#"the body is not {"ids":[{"topic","event_id"}]}"#, &error)
    })?;
    if requested.ids.len() > limit {
        return Err(Problem::too_large(format!(
            "the request has more than {limit} ids (--max-batch-events)"
        )));
    }
    let mut errors = Vec::new();
    let mut ids = Vec::with_capacity(requested.ids.len());
    for (index, id) in requested.ids.into_iter().enumerate() {
        match identity(id) {
            Ok(id) => ids.push(id),
            Err(error) => {
                errors.push(ItemError {
                    index: Some(index),
                    field: error.field.into(),
                    detail: error.reason,
                });
            }
        }
    }
    if errors.is_empty() { Ok(ids) } else { Err(Problem::invalid(errors, "id")) }
}

fn identity(id: RequestedId) -> Result<Identity, InvalidField> {
    Ok(Identity {
        topic: Topic::new(id.topic)?,
        event_id: EventId::new(id.event_id)?,
        source: id.source.map(Source::new).transpose()?,
    })
}
