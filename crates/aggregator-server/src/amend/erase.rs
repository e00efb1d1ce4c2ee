//! `POST /admin/erase`: erases the payloads of events, and says meanwhile how far it is.

use std::sync::Arc;

use aggregator_core::StoreError;
use aggregator_core::store::{EraseProgress, Erased};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::{HeaderMap, Uri};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Amendment, request};
use crate::app::App;
use crate::auth::Principal;
use crate::http::problem::Problem;
use crate::work_lines::{self, Tell};

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum Line {
    /// The payloads are gone from their events, and what is left of them in files is being looked for.
    Overwriting {
        bytes: u64,
        total: u64,
    },
    /// For each identity, in the order of the request.
    Done {
        erased: Vec<ErasedIdentity>,
    },
    Failed {
        detail: String,
    },
}

/// What was erased under an identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErasedIdentity {
    /// Of all events that it had. None if it was never seen, or without an event.
    pub(crate) seqs: Vec<u64>,
}

impl Line {
    pub(crate) fn done(erased: Vec<Erased>) -> Self {
        Self::Done { erased: erased.into_iter().map(|Erased { seqs, .. }| ErasedIdentity { seqs }).collect() }
    }
}

impl work_lines::Line for Line {
    const WORK: &'static str = "the erasure";

    fn goes_on(&self) -> bool {
        matches!(self, Self::Overwriting { .. })
    }

    fn failed(detail: String) -> Self {
        Self::Failed { detail }
    }
}

impl From<EraseProgress> for Line {
    fn from(progress: EraseProgress) -> Self {
        match progress {
            EraseProgress::Overwriting { bytes, total } => Self::Overwriting { bytes, total },
            // How far that is nobody knows.
            _ => Self::Overwriting { bytes: 0, total: 0 },
        }
    }
}

pub(crate) async fn erase(
    State(app): State<Arc<App>>,
    principal: Principal,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let amendment = request::read(&app, &principal, &uri, &headers, body).await?;
    let place = app.erasures.take(principal.flow()).await;
    let place = place.map_err(|_| Problem::conflict("payloads are being erased: wait until that is done"))?;
    let by = principal.to_string();
    let work = move |app: &App, tell: &mut Tell<'_, Line>| run(app, &amendment, &by, tell);
    work_lines::answer(&app, place, work, Problem::from_store).await
}

fn run(app: &App, amendment: &Amendment, by: &str, tell: &mut Tell<'_, Line>) -> Result<Line, StoreError> {
    let mut is_first = true;
    let erased = amendment.erase(&*app.store, by, &mut |progress| {
        // Readers must not be handed what is in memory while the rest takes its time.
        if std::mem::take(&mut is_first) {
            app.forget_erased(&amendment.ids);
        }
        tell(progress.into())
    });
    // After a failure, too: some of it may be erased. And what was noted meanwhile may be about what is erased.
    app.forget_erased(&amendment.ids);
    let identities = amendment.ids.len();
    match &erased {
        Ok(erased) => {
            let payloads: usize = erased.iter().map(|of| of.seqs.len()).sum();
            info!(identities, payloads, by, "payloads are erased");
        }
        Err(error) => warn!(identities, by, %error, "an erasure has failed: repeat it"),
    }
    if let Err(error) = &erased
        && error.is_fatal()
    {
        app.health.fail(error.to_string());
    }
    erased.map(Line::done)
}
