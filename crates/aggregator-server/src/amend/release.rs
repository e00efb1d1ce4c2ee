//! `POST /admin/release`: lets identities come again.

use std::sync::Arc;

use aggregator_core::Seen;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::{HeaderMap, Uri};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::request;
use crate::app::App;
use crate::auth::Principal;
use crate::fair::places::NoPlace;
use crate::http::problem::Problem;
use crate::http::response::json;

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReleaseBody {
    count: usize,
    /// For each identity, in the order of the request.
    pub(crate) results: Vec<Released>,
}

/// What was released of an identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Released {
    /// Whether it was seen, and is released now for the first time since.
    pub(crate) released: bool,
    /// Of the event that had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) processed_at: Option<String>,
}

impl From<Option<Seen>> for Released {
    fn from(seen: Option<Seen>) -> Self {
        Self {
            released: seen.is_some(),
            seq: seen.and_then(|seen| seen.seq),
            processed_at: seen.map(|seen| seen.processed_at.to_string()),
        }
    }
}

pub(crate) async fn release(
    State(app): State<Arc<App>>,
    principal: Principal,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let amendment = request::read(&app, &principal, &uri, &headers, body).await?;
    let place = app.releases.take(principal.flow()).await.map_err(|error| match error {
        NoPlace::Full => Problem::overloaded("too many releases are waiting".to_owned()),
        NoPlace::Stopped => Problem::draining(),
    })?;
    let (shared, by) = (Arc::clone(&app), principal.to_string());
    let released = tokio::task::spawn_blocking(move || {
        let released = amendment.release(&*shared.store, &by);
        let identities = amendment.ids.len();
        match &released {
            Ok(released) => {
                let released = released.iter().flatten().count();
                info!(identities, released, by, "identities are released");
            }
            Err(error) => warn!(identities, by, %error, "a release has failed"),
        }
        if let Err(error) = &released
            && error.is_fatal()
        {
            shared.health.fail(error.to_string());
        }
        drop(shared);
        drop(place);
        released
    });
    let released = released.await.map_err(|_| Problem::internal("the release panicked"))?;
    let released = released.map_err(|error| Problem::from_store(&error))?;
    let results: Vec<_> = released.into_iter().map(Released::from).collect();
    Ok(json(&ReleaseBody { count: results.len(), results }))
}
