//! `/admin/keys` and `/admin/audit`: makes, lists and revokes keys, and tells who did.

use std::sync::Arc;

use aggregator_core::DedupStore;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{HeaderMap, StatusCode, Uri};
use serde::{Deserialize, Serialize};

use super::audit::{self, AuditEntry};
use super::principal::Principal;
use super::registry::{self, KeyError, KeyInfo, NewKey};
use crate::app::App;
use crate::http::params::Params;
use crate::http::problem::{ItemError, Problem};
use crate::http::response::{json, json_with};
use crate::read_pool::ReadError;

/// A key that was just made.
#[derive(Serialize, Deserialize)]
pub(crate) struct CreatedKey {
    #[serde(flatten)]
    pub(crate) info: KeyInfo,
    /// The key itself, which is never shown again.
    pub(crate) key: String,
}

/// All keys.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeyList {
    pub(crate) count: usize,
    pub(crate) keys: Vec<KeyInfo>,
}

/// The newest changes, the newest first.
#[derive(Serialize, Deserialize)]
pub(crate) struct AuditList {
    pub(crate) count: usize,
    pub(crate) changes: Vec<AuditEntry>,
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    let keys = app.reads.run(principal.flow(), registry::list).await?;
    Ok(not_stored(json(&KeyList { count: keys.len(), keys })))
}

pub(crate) async fn audit(
    State(app): State<Arc<App>>,
    principal: Principal,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    let changes = app.reads.run(principal.flow(), audit::list).await?;
    Ok(not_stored(json(&AuditList { count: changes.len(), changes })))
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    principal: Principal,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    const EXPECTED: &str = r#"{"name":"orders service","scopes":["publish:orders.*"],"expires_in":"90d"}"#;
    Params::of(&uri)?.finish("")?;
    let received = app.bodies.json(principal.flow(), &headers, body).await?;
    principal.check()?;
    let new: NewKey = serde_json::from_slice(&received.bytes)
        .map_err(|error| Problem::malformed_json(&format!("the body is not like {EXPECTED}"), &error))?;
    let (info, token) = change(&app, principal, move |store, by| registry::create(store, &new, by)).await?;
    Ok(not_stored(json_with(StatusCode::CREATED, &CreatedKey { info, key: token.reveal() })))
}

pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    principal: Principal,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    let info = change(&app, principal, move |store, by| registry::revoke(store, &id, by)).await?;
    Ok(not_stored(json(&info)))
}

/// Changes keys, and lets this node know before the answer is given. Other nodes look for changes by themselves.
async fn change<T: Send + 'static>(
    app: &App,
    principal: Principal,
    work: impl FnOnce(&dyn DedupStore, &str) -> Result<T, KeyError> + Send + 'static,
) -> Result<T, Problem> {
    let turn = app.guard.changes.acquire().await.map_err(|_| Problem::draining())?;
    // The one before may have been the end of this one's key.
    principal.check()?;
    let (guard, store, by) = (Arc::clone(&app.guard), Arc::clone(&app.store), principal.to_string());
    let changed = tokio::task::spawn_blocking(move || {
        let changed = work(&*store, &by);
        // A change that is stored is in force even if it cannot be read now: the next look finds it.
        let _ = guard.refresh();
        changed
    });
    let changed = changed.await.map_err(|_| Problem::internal("the change of keys panicked"))?;
    drop(turn);
    // Streams of a key that was revoked end.
    app.tails.wake_all();
    changed.map_err(problem)
}

fn problem(error: KeyError) -> Problem {
    match error {
        KeyError::Invalid { field, reason } => {
            Problem::invalid(vec![ItemError { index: None, field: field.into(), detail: reason }], "key")
        }
        KeyError::Unknown(_) | KeyError::NoId => Problem::no_route(error.to_string()),
        KeyError::TooMany => Problem::conflict(error.to_string()),
        KeyError::NoRandomness => Problem::internal(error.to_string()),
        KeyError::Busy => Problem::overloaded(error.to_string()),
        KeyError::Store(error) => ReadError::Store(error).into(),
    }
}

/// An answer about keys is for the one who asked, and as of now.
fn not_stored(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
