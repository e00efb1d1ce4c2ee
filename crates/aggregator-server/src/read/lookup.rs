//! `POST /lookup`: which identities were seen. Ids may have any character, so they come in a body.

use std::sync::Arc;

use aggregator_core::{Identity, Seen};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::{HeaderMap, Uri};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::auth::Principal;
use crate::http::identities::{self, Object, RequestedIdentity};
use crate::http::params::Params;
use crate::http::problem::{ItemError, Problem};
use crate::http::response::json;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LookupRequest {
    ids: Vec<Object<RequestedIdentity>>,
}

/// The form of a body, for error messages.
const EXPECTED: &str = r#"{"ids":[{"topic":…,"event_id":…},…]}"#;

#[derive(Serialize)]
struct LookupBody {
    count: usize,
    results: Vec<LookupResult>,
}

#[derive(Serialize)]
struct LookupResult {
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

pub(crate) async fn lookup(
    State(app): State<Arc<App>>,
    reader: Principal,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    let received = app.bodies.json(reader.flow(), &headers, body).await?;
    reader.check()?;
    let limit = app.config.max_batch_events.get();
    // Bodies are decoded and answers rendered on that thread, too: they can be large, and those threads are counted.
    app.reads
        .run(reader.flow(), move |store| {
            let ids = match requested_ids(&received.bytes, limit) {
                Ok(ids) => ids,
                Err(problem) => return Ok(Err(problem)),
            };
            drop(received);
            if let Err(problem) = check_readable(&reader, &ids) {
                return Ok(Err(problem));
            }
            let seen = store.lookup(&ids)?;
            let results: Vec<_> = ids.iter().zip(seen).map(|(id, seen)| found(id, seen)).collect();
            Ok(Ok(json(&LookupBody { count: results.len(), results })))
        })
        .await?
}

fn found(id: &Identity, seen: Option<Seen>) -> LookupResult {
    LookupResult {
        topic: id.topic.to_string(),
        event_id: id.event_id.to_string(),
        seen: seen.is_some(),
        seq: seen.and_then(|seen| seen.seq),
        processed_at: seen.map(|seen| seen.processed_at.to_string()),
        purged: seen.is_some_and(|seen| seen.purged),
    }
}

/// Refuses ids of topics that the reader may not read.
fn check_readable(reader: &Principal, ids: &[Identity]) -> Result<(), Problem> {
    let forbidden = ids.iter().enumerate().filter(|(_, id)| !reader.may_read(id.topic.as_str()));
    let errors: Vec<_> = forbidden
        .map(|(index, id)| ItemError {
            index: Some(index),
            field: "topic".into(),
            detail: format!("needs the scope read:{}", id.topic),
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(Problem::forbidden_items(errors, "id")) }
}

/// The identities that a body asks for, at most `limit`.
pub(super) fn requested_ids(body: &[u8], limit: usize) -> Result<Vec<Identity>, Problem> {
    if body.trim_ascii().is_empty() {
        return Err(Problem::malformed(format!("the body is empty: send {EXPECTED}")));
    }
    let requested: Object<LookupRequest> = serde_json::from_slice(body)
        .map_err(|error| Problem::malformed_json(&format!("the body is not {EXPECTED}"), &error))?;
    let requested = requested.0.ids;
    if requested.len() > limit {
        return Err(Problem::too_large(format!(
            "the request has more than {limit} ids (--max-batch-events)"
        )));
    }
    identities::checked(requested, "id")
}
