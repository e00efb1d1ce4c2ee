//! `POST /admin/backup`: copies the store to a file on this machine, and says meanwhile how far it is.

use std::path::PathBuf;
use std::sync::Arc;

use aggregator_core::{BackupProgress, DedupStoreExt as _, StoreError};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::{HeaderMap, Uri};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::app::App;
use crate::auth::{Entrance, Principal};
use crate::http::params::Params;
use crate::http::problem::{ItemError, Problem};
use crate::work_lines::{self, Tell};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    path: PathBuf,
}

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum Line {
    Copying { bytes: u64, total: u64 },
    Checking,
    Done { path: PathBuf },
    Failed { detail: String },
}

impl work_lines::Line for Line {
    const WORK: &'static str = "the backup";

    fn goes_on(&self) -> bool {
        matches!(self, Self::Copying { .. } | Self::Checking)
    }

    fn failed(detail: String) -> Self {
        Self::Failed { detail }
    }
}

impl From<BackupProgress> for Line {
    fn from(progress: BackupProgress) -> Self {
        match progress {
            BackupProgress::Copying { bytes, total } => Self::Copying { bytes, total },
            _ => Self::Checking,
        }
    }
}

pub(crate) async fn backup(
    State(app): State<Arc<App>>,
    Extension(entrance): Extension<Entrance>,
    principal: Principal,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    // It writes a file of the sender's choice, which is more than the scope `admin` gives.
    if entrance != Entrance::AdminSocket {
        return Err(Problem::only_over_admin_socket("a backup, which writes a file on this machine,"));
    }
    let received = app.bodies.json(principal.flow(), &headers, body).await?;
    let wanted: Wanted = serde_json::from_slice(&received.bytes).map_err(|error| {
        Problem::malformed_json(r#"the body is not like {"path":"/backups/events.db"}"#, &error)
    })?;
    if !wanted.path.is_absolute() {
        let detail = "must be absolute: the server has a working directory of its own".into();
        return Err(Problem::invalid(
            vec![ItemError { index: None, field: "path".into(), detail }],
            "backup",
        ));
    }
    let place = app.backups.take(principal.flow()).await;
    let place = place.map_err(|_| Problem::conflict("a backup is being made: wait until it is complete"))?;
    work_lines::answer(&app, place, move |app, tell| copy(app, wanted.path, tell), refusal).await
}

fn copy(app: &App, path: PathBuf, tell: &mut Tell<'_, Line>) -> Result<Line, StoreError> {
    let copied = app.store.backup_with_progress(&path, &mut |progress| tell(progress.into()));
    match &copied {
        Ok(()) => info!(path = %path.display(), "a backup is complete"),
        Err(error) => warn!(path = %path.display(), %error, "a backup has failed"),
    }
    copied.map(|()| Line::Done { path })
}

fn refusal(error: &StoreError) -> Problem {
    match error {
        StoreError::Invalid(_) => Problem::conflict(error.to_string()),
        other => Problem::from_store(other),
    }
}
