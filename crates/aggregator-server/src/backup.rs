//! `POST /admin/backup`: copies the store to a file on this machine, and says meanwhile how far it is.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{BackupProgress, DedupStoreExt as _, StoreError};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Uri};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::app::App;
use crate::auth::{Entrance, Principal};
use crate::fair::Flow;
use crate::http::params::Params;
use crate::http::problem::{ItemError, Problem};

/// A line comes at least so often, so that whoever waits knows that somebody works.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// And no more often.
const BETWEEN_LINES: Duration = Duration::from_millis(200);

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

impl Line {
    /// Whether another one follows.
    fn goes_on(&self) -> bool {
        matches!(self, Self::Copying { .. } | Self::Checking)
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

/// What the thread that copies has told last; nothing before its first word.
type Told = Option<Result<Line, StoreError>>;

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
    let mut told = start(&app, principal.flow(), wanted.path).await?;
    // Until something is copied, or it is clear that nothing will be.
    let first = told.wait_for(Option::is_some).await.map_err(|_| Problem::internal("the backup panicked"))?;
    if let Some(Err(error)) = &*first {
        return Err(refusal(error));
    }
    drop(first);
    Ok(lines(told))
}

/// Copies on a thread of its own.
async fn start(app: &Arc<App>, flow: Flow, path: PathBuf) -> Result<watch::Receiver<Told>, Problem> {
    let place = app.backups.take(flow).await;
    let place = place.map_err(|_| Problem::conflict("a backup is being made: wait until it is complete"))?;
    let (tell, told) = watch::channel(Told::None);
    let app = Arc::clone(app);
    tokio::task::spawn_blocking(move || {
        let done = copy(&app, &path, &tell);
        match &done {
            Ok(_) => info!(path = %path.display(), "a backup is complete"),
            Err(error) => warn!(path = %path.display(), %error, "a backup has failed"),
        }
        tell.send_replace(Some(done));
        drop(app);
        drop(place);
    });
    Ok(told)
}

fn copy(app: &App, path: &Path, tell: &watch::Sender<Told>) -> Result<Line, StoreError> {
    app.store.backup_with_progress(path, &mut |progress| {
        tell.send_replace(Some(Ok(progress.into())));
        // The client has gone, or the server is about to.
        if tell.is_closed() || app.health.is_draining() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(Line::Done { path: path.to_owned() })
}

/// The body: a line now and then, and one at the end.
fn lines(told: watch::Receiver<Told>) -> Response {
    let body = unfold(Some(told), async |told| {
        let mut told = told?;
        let _ = timeout(HEARTBEAT, told.changed()).await;
        let mut line = last_line(&mut told);
        if line.goes_on() && told.has_changed().is_err() {
            // The thread has ended, maybe just now.
            line = last_line(&mut told);
            if line.goes_on() {
                line = Line::Failed { detail: "the backup panicked".into() };
            }
        }
        let goes_on = line.goes_on();
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        if goes_on {
            tokio::time::sleep(BETWEEN_LINES).await;
        }
        Some((Ok::<_, Infallible>(text), goes_on.then_some(told)))
    });
    let mut response = Body::from_stream(body.fuse()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn last_line(told: &mut watch::Receiver<Told>) -> Line {
    match &*told.borrow_and_update() {
        Some(Ok(line)) => line.clone(),
        Some(Err(error)) => Line::Failed { detail: error.to_string() },
        None => Line::Checking,
    }
}

fn refusal(error: &StoreError) -> Problem {
    match error {
        StoreError::Invalid(_) => Problem::conflict(error.to_string()),
        other => Problem::from_store(other),
    }
}
