//! Work of a request that takes long: it runs on a thread of its own, and the answer is lines of JSON that say how far it
//! is.
//!
//! The work is given up once its client has gone or the server is about to end, but only where it tells how far it is.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::StoreError;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::app::App;
use crate::fair::places::Place;
use crate::http::problem::Problem;

/// A line comes at least so often, so that whoever waits knows that somebody works.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// And no more often.
const BETWEEN_LINES: Duration = Duration::from_millis(200);

/// A line of the answer.
pub(crate) trait Line: Clone + Serialize + Send + Sync + 'static {
    /// What is done, for errors.
    const WORK: &'static str;

    /// Whether another one follows.
    fn goes_on(&self) -> bool;

    /// The last one of work that has failed.
    fn failed(detail: String) -> Self;
}

/// What the thread that works has told last; nothing before its first word.
type Told<L> = Option<Result<L, StoreError>>;

/// Is told how far the work is, and says whether to go on.
pub(crate) type Tell<'t, L> = dyn FnMut(L) -> ControlFlow<()> + 't;

/// Does `work` on a thread of its own, which holds `place`. The last line is what it returns.
///
/// # Errors
/// What `refusal` makes of its error if it fails before it has told anything.
pub(crate) async fn answer<L: Line>(
    app: &Arc<App>,
    place: Place,
    work: impl FnOnce(&App, &mut Tell<'_, L>) -> Result<L, StoreError> + Send + 'static,
    refusal: impl FnOnce(&StoreError) -> Problem,
) -> Result<Response, Problem> {
    let mut told = start(app, place, work);
    // Until something is done, or it is clear that nothing will be.
    let first = told.wait_for(Option::is_some).await;
    let first = first.map_err(|_| Problem::internal(format!("{} panicked", L::WORK)))?;
    if let Some(Err(error)) = &*first {
        return Err(refusal(error));
    }
    drop(first);
    Ok(lines(told))
}

fn start<L: Line>(
    app: &Arc<App>,
    place: Place,
    work: impl FnOnce(&App, &mut Tell<'_, L>) -> Result<L, StoreError> + Send + 'static,
) -> watch::Receiver<Told<L>> {
    let (tell, told) = watch::channel(Told::None);
    let app = Arc::clone(app);
    tokio::task::spawn_blocking(move || {
        let done = work(&app, &mut |line| {
            tell.send_replace(Some(Ok(line)));
            // The client has gone, or the server is about to.
            if tell.is_closed() || app.health.is_draining() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        drop(app);
        // Before the last word: whoever hears it may begin anew.
        drop(place);
        tell.send_replace(Some(done));
    });
    told
}

/// The body: a line now and then, and one at the end.
fn lines<L: Line>(told: watch::Receiver<Told<L>>) -> Response {
    let body = unfold(Some(told), async |told| {
        let mut told = told?;
        let _ = timeout(HEARTBEAT, told.changed()).await;
        let mut line = last_line(&mut told);
        if line.goes_on() && told.has_changed().is_err() {
            // The thread has ended, maybe just now.
            line = last_line(&mut told);
            if line.goes_on() {
                line = panicked();
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

fn last_line<L: Line>(told: &mut watch::Receiver<Told<L>>) -> L {
    match &*told.borrow_and_update() {
        Some(Ok(line)) => line.clone(),
        Some(Err(error)) => L::failed(error.to_string()),
        None => panicked(),
    }
}

fn panicked<L: Line>() -> L {
    L::failed(format!("{} panicked", L::WORK))
}

#[cfg(test)]
mod tests {
    use aggregator_core::MemoryStore;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::auth::Anonymity;
    use crate::config::Config;
    use crate::fair::Flow;

    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    enum Told {
        On,
        Failed(String),
    }

    impl Line for Told {
        const WORK: &'static str = "the work";

        fn goes_on(&self) -> bool {
            *self == Self::On
        }

        fn failed(detail: String) -> Self {
            Self::Failed(detail)
        }
    }

    /// What is not given up within this time never is.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Work that goes on until it is given up.
    async fn begin(app: &Arc<App>) -> Response {
        let place = app.erasures.take(Flow::EVERYBODY).await.unwrap();
        let work = |_: &App, tell: &mut Tell<'_, Told>| {
            let begun = std::time::Instant::now();
            // The runtime waits for this thread, also after the test has failed.
            while tell(Told::On).is_continue() && begun.elapsed() < 2 * PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(StoreError::unavailable("given up"))
        };
        answer(app, place, work, |_| Problem::internal("it has told something")).await.unwrap()
    }

    async fn is_free(app: &App) {
        while app.erasures.take(Flow::EVERYBODY).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn whoever_has_the_last_word_can_begin_anew_at_once() {
        let (store, config) = (Arc::new(MemoryStore::default()), Config::default());
        let app = Arc::new(App::start(store, config, Anonymity::Allowed, None, None, None).unwrap());
        for _ in 0..2_000 {
            let place = app.erasures.take(Flow::EVERYBODY).await.expect("the one before has ended");
            let work = |_: &App, _: &mut Tell<'_, Told>| Err(StoreError::unavailable("refused"));
            assert!(answer(&app, place, work, |_| Problem::internal("refused")).await.is_err());
        }
    }

    #[tokio::test]
    async fn work_is_given_up_when_its_client_leaves_or_the_server_is_about_to_end() {
        let (store, config) = (Arc::new(MemoryStore::default()), Config::default());
        let app = App::start(store, config, Anonymity::Allowed, None, None, None).unwrap();
        let app = Arc::new(app);
        let response = begin(&app).await;
        assert!(app.erasures.take(Flow::EVERYBODY).await.is_err(), "one at a time");
        drop(response);
        timeout(PATIENCE, is_free(&app)).await.unwrap();

        let mut body = begin(&app).await.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(&first[..], b"\"On\"\n");
        app.health.drain();
        let rest = timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
        let last = rest.strip_suffix(b"\n").unwrap().rsplit(|byte| *byte == b'\n').next().unwrap();
        assert!(last.starts_with(b"{\"Failed\":") && last.ends_with(b"given up\"}"), "{rest:?}");
        timeout(PATIENCE, is_free(&app)).await.unwrap();
    }
}
