//! The table of routes.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post};
use hyper::service::Service as _;
use hyper::{Method, Request, Uri};
use hyper_util::service::TowerToHyperService;

use crate::app::App;
use crate::auth::{Access, authorize, routes as keys};
use crate::http::problem::Problem;
use crate::publish::handler;
use crate::read::{events, lookup, stats, tail, topics};

use super::not_found::nothing_at;
use super::probes;

/// Every route, with who may use it and its handler.
///
/// A handler of a route for publishers or readers takes a `Principal`, and asks it about each topic. A handler takes `Params` and calls `finish`, so that unknown parameters are refused. Add a new route to
/// docs/reference.md, too: a test compares that page with this table.
fn table() -> Vec<(&'static str, Access, MethodRouter<Arc<App>>)> {
    vec![
        // `Routes::dispatch` has a shortcut to this handler. A change of this row changes that as well.
        (PUBLISH, Access::Publish, post(handler::publish)),
        ("/events", Access::Read, get(events::events)),
        ("/events/stream", Access::Read, get(tail::stream)),
        ("/lookup", Access::Read, post(lookup::lookup)),
        ("/topics", Access::Read, get(topics::topics)),
        ("/stats", Access::Metrics, get(stats::stats)),
        ("/admin/keys", Access::Admin, get(keys::list).post(keys::create)),
        ("/admin/keys/{id}", Access::Admin, delete(keys::revoke)),
        ("/admin/audit", Access::Admin, get(keys::audit)),
        ("/", Access::Open, get(probes::health)),
        ("/health", Access::Open, get(probes::health)),
        ("/livez", Access::Open, get(probes::livez)),
        ("/readyz", Access::Open, get(probes::readyz)),
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
        let paths: Vec<_> = routes.iter().map(|(path, ..)| *path).filter(|path| *path != "/").collect();
        let router = routes.into_iter().fold(Router::new(), |router, (path, access, route)| {
            router.route(path, route.route_layer(from_fn_with_state((Arc::clone(&app), access), guarded)))
        });
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
            return self.publish(request).await.into_response();
        }
        let Ok(response) = self.router.call(request).await;
        response
    }

    async fn publish(&self, request: Request<Body>) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        let publisher = authorize(&self.app.guard, Access::Publish, &parts).await?;
        let request = Request::from_parts(parts, body);
        handler::publish(State(Arc::clone(&self.app)), publisher, request).await
    }
}

/// Runs the handler of a route if the sender may use it. The answer carries who that is, up to `layers.rs`.
async fn guarded(
    State((app, access)): State<(Arc<App>, Access)>,
    request: Request<Body>,
    next: Next,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let principal = authorize(&app.guard, access, &parts).await?;
    parts.extensions.insert(principal.clone());
    let mut response = next.run(Request::from_parts(parts, body)).await;
    response.extensions_mut().insert(principal);
    Ok(response)
}
