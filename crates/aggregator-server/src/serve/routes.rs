//! The table of routes.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use hyper::service::Service as _;
use hyper::{Method, Request, Uri};
use hyper_util::service::TowerToHyperService;

use crate::app::App;
use crate::http::problem::Problem;
use crate::publish::handler;
use crate::read::{events, lookup, stats, tail, topics};

use super::not_found::nothing_at;
use super::probes;

/// Every route, with its handler.
///
/// A handler takes `Params` and calls `finish`, so that unknown parameters are refused. Add a new route to
/// docs/reference.md, too: a test compares that page with this table.
fn table() -> [(&'static str, MethodRouter<Arc<App>>); 10] {
    [
        // `Routes::dispatch` has a shortcut to this handler. A change of this row changes that as well.
        (PUBLISH, post(handler::publish)),
        ("/events", get(events::events)),
        ("/events/stream", get(tail::stream)),
        ("/lookup", post(lookup::lookup)),
        ("/topics", get(topics::topics)),
        ("/stats", get(stats::stats)),
        ("/", get(probes::health)),
        ("/health", get(probes::health)),
        ("/livez", get(probes::livez)),
        ("/readyz", get(probes::readyz)),
    ]
}

const PUBLISH: &str = "/publish";

/// Finds the handler of a request. Only `layers.rs` calls it.
pub(super) struct Routes {
    app: Arc<App>,
    router: TowerToHyperService<Router>,
}

impl Routes {
    pub(super) fn new(app: Arc<App>) -> Self {
        let routes = table();
        let paths: Vec<_> = routes.iter().map(|(path, _)| *path).filter(|path| *path != "/").collect();
        let router =
            routes.into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route));
        let router = router
            .fallback(async move |uri: Uri| Problem::no_route(nothing_at(uri.path(), &paths)))
            .method_not_allowed_fallback(async |method: Method, uri: Uri| {
                Problem::method(&method, uri.path())
            })
            .with_state(Arc::clone(&app));
        Self { router: TowerToHyperService::new(router), app }
    }

    pub(super) async fn dispatch(&self, request: Request<Body>) -> Response {
        // A shortcut: the router would cost a small publish request a fifth of its time outside the kernel.
        if request.uri().path() == PUBLISH && request.method() == Method::POST {
            return handler::publish(State(Arc::clone(&self.app)), request).await.into_response();
        }
        let Ok(response) = self.router.call(request).await;
        response
    }
}
