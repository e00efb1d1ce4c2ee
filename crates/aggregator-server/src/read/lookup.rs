//! `POST /lookup`: which identities were seen. Ids may hold any character, so they come in a body.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use aggregator_core::{EventId, Identity, InvalidField, Seen, Source, Topic};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::{HeaderMap, Uri};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::App;
use crate::http::body;
use crate::http::params::Params;
use crate::http::problem::{ItemError, Problem};
use crate::http::routes::json;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    ids: Vec<Object<RequestedId>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestedId {
    topic: String,
    event_id: String,
    source: Option<String>,
}

/// What a body has to be, for people.
const EXPECTED: &str = r#"{"ids":[{"topic":…,"event_id":…},…]}"#;

/// What is written as an object. By itself, serde takes a list of a struct's fields, too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
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

pub(crate) async fn lookup(
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
    if body.trim_ascii().is_empty() {
        return Err(Problem::malformed(format!("the body is empty: send {EXPECTED}")));
    }
    let requested: Object<Request> = serde_json::from_slice(body)
        .map_err(|error| Problem::malformed_json(&format!("the body is not {EXPECTED}"), &error))?;
    let requested = requested.0.ids;
    if requested.len() > limit {
        return Err(Problem::too_large(format!(
            "the request has more than {limit} ids (--max-batch-events)"
        )));
    }
    let mut errors = Vec::new();
    let mut ids = Vec::with_capacity(requested.len());
    for (index, id) in requested.into_iter().enumerate() {
        match identity(id.0) {
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
