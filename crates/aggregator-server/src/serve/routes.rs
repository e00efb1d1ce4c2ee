//! The table of routes.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::{Next, from_fn_with_state, map_request};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post};
use hyper::service::Service as _;
use hyper::{Method, Request, Uri};
use hyper_util::service::TowerToHyperService;

use crate::amend;
use crate::app::App;
use crate::auth::{Access, authorize, routes as keys};
use crate::backup;
use crate::dashboard;
use crate::http::problem::Problem;
use crate::insight;
use crate::metrics::metrics;
use crate::metrics::requests::{FoundRoute, Route};
use crate::publish::handler;
use crate::read::{events, lookup, stats, tail, topics};
use crate::retention;

use super::not_found::nothing_at;
use super::probes;

/// Every route, with who may use it and its handler.
///
/// A handler of a route for publishers or readers takes a `Principal`, and asks it about each topic. A handler takes `Params`
/// and calls `finish`, so that unknown parameters are refused. Add a new route to docs/reference.md and to `ROUTES` of
/// `metrics/names.rs`, too: tests compare them with this table.
fn table() -> Vec<(&'static str, Access, MethodRouter<Arc<App>>)> {
    vec![
        // `Routes::dispatch` has a shortcut to this handler. A change of this row changes that as well.
        (PUBLISH, Access::Publish, post(handler::publish)),
        ("/events", Access::Read, get(events::events)),
        ("/events/stream", Access::Read, get(tail::stream)),
        ("/lookup", Access::Read, post(lookup::lookup)),
        ("/topics", Access::Read, get(topics::topics)),
        ("/stats", Access::Metrics, get(stats::stats)),
        ("/stats/series", Access::Metrics, get(insight::series)),
        ("/insight", Access::Read, get(insight::insight)),
        ("/duplicates", Access::Read, get(insight::duplicates)),
        ("/retention", Access::Metrics, get(retention::retention)),
        ("/metrics", Access::Metrics, get(metrics)),
        ("/admin/keys", Access::Admin, get(keys::list).post(keys::create)),
        ("/admin/keys/{id}", Access::Admin, delete(keys::revoke)),
        ("/admin/backup", Access::Admin, post(backup::backup)),
        ("/admin/erase", Access::Admin, post(amend::erase)),
        ("/admin/release", Access::Admin, post(amend::release)),
        ("/admin/audit", Access::Admin, get(keys::audit)),
        ("/", Access::Open, get(probes::root)),
        ("/ui/{file}", Access::Open, get(dashboard::asset)),
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
    publish: Route,
}

impl Routes {
    pub(super) fn new(app: Arc<App>) -> Self {
        let routes = table();
        let paths: Vec<_> = routes.iter().map(|(path, ..)| *path).filter(|path| *path != "/").collect();
        let router = routes.into_iter().fold(Router::new(), |router, (path, access, route)| {
            let found = Route::of(path);
            // A method that the route does not take is found as well.
            let route = route
                .route_layer(from_fn_with_state((Arc::clone(&app), access), guarded))
                .fallback(async |method: Method, uri: Uri| Problem::method(&method, uri.path()))
                .layer(map_request(move |request| async move { noting(request, found) }));
            router.route(path, route)
        });
        let router = router
            .fallback(async move |uri: Uri| Problem::no_route(nothing_at(uri.path(), &paths)))
            .with_state(Arc::clone(&app));
        Self { router: TowerToHyperService::new(router), app, publish: Route::of(PUBLISH) }
    }

    /// Notes the row in `found` before its handler runs.
    pub(super) async fn dispatch(&self, mut request: Request<Body>, found: &FoundRoute) -> Response {
        // A shortcut: the router would cost a small publish request a fifth of its time outside the kernel.
        if request.uri().path() == PUBLISH && request.method() == Method::POST {
            found.set(self.publish);
            return self.publish(request).await.into_response();
        }
        request.extensions_mut().insert(found.clone());
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

/// Notes the row of the table that a request has come to.
fn noting(request: Request<Body>, found: Route) -> Request<Body> {
    if let Some(noted) = request.extensions().get::<FoundRoute>() {
        noted.set(found);
    }
    request
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::names::ROUTES;

    #[test]
    fn every_route_is_counted_by_its_path() {
        let paths: Vec<_> = table().iter().map(|(path, ..)| *path).collect();
        assert_eq!(paths, ROUTES[1..]);
    }
}
