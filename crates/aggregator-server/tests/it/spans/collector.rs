//! A collector of spans for tests: it takes OTLP over HTTP on a real socket, or does not.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use aggregator_server::Config;
use aggregator_server::config::OtlpEndpoint;
use axum::body::{Body, Bytes};
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::task::AbortHandle;

use crate::support::until;

/// What a collector does with an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Takes,
    /// Takes all but so many spans.
    Refuses(i64),
    /// Answers with this status.
    Fails(u16),
    /// Never answers.
    Hangs,
}

pub(super) struct Collector {
    endpoint: OtlpEndpoint,
    state: Arc<State>,
    task: AbortHandle,
}

struct State {
    manner: Mutex<Manner>,
    /// The bodies of the exports that it has taken, and how many came.
    taken: Mutex<Vec<Bytes>>,
    asked: Mutex<usize>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    pub(super) async fn start(manner: Manner) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let state =
            Arc::new(State { manner: Mutex::new(manner), taken: Mutex::default(), asked: Mutex::default() });
        let own = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&own);
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(&state, request));
                    // The server may go away at any time.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { endpoint, state, task: task.abort_handle() }
    }

    /// Of a server that exports to it.
    pub(super) fn config(&self) -> Config {
        Config { otlp_endpoint: Some(self.endpoint.clone()), ..Config::default() }
    }

    pub(super) fn url(&self) -> String {
        self.endpoint.to_string()
    }

    /// From now on.
    pub(super) fn set(&self, manner: Manner) {
        *self.state.manner.lock().unwrap() = manner;
    }

    /// How many exports came.
    pub(super) fn asked(&self) -> usize {
        *self.state.asked.lock().unwrap()
    }

    /// Everything that it has taken.
    pub(super) fn exports(&self) -> Vec<ExportTraceServiceRequest> {
        let taken = self.state.taken.lock().unwrap();
        taken.iter().map(|body| ExportTraceServiceRequest::decode(body.clone()).unwrap()).collect()
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        let resources = self.exports().into_iter().flat_map(|export| export.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// Whether this text is anywhere in what it has taken.
    pub(super) fn knows(&self, text: &str) -> bool {
        let taken = self.state.taken.lock().unwrap();
        taken.iter().any(|body| body.windows(text.len()).any(|part| part == text.as_bytes()))
    }

    /// The spans of this name, once there are `count` of them.
    pub(super) async fn named(&self, name: &str, count: usize) -> Vec<Span> {
        let found = || self.spans().into_iter().filter(|span| span.name == name).collect::<Vec<_>>();
        until(&format!("{count} spans {name:?}"), async || found().len() >= count).await;
        let found = found();
        assert_eq!(found.len(), count, "{found:?}");
        found
    }
}

/// An address where nobody listens.
pub(super) fn nobody() -> OtlpEndpoint {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("http://{address}").parse().unwrap()
}

async fn answer(state: &State, request: Request<Incoming>) -> Result<Response, Infallible> {
    assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/v1/traces"));
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let manner = *state.manner.lock().unwrap();
    *state.asked.lock().unwrap() += 1;
    let refused = match manner {
        Manner::Hangs => std::future::pending().await,
        Manner::Fails(status) => {
            return Ok(Response::builder().status(status).body(Body::empty()).unwrap());
        }
        Manner::Takes => None,
        Manner::Refuses(rejected_spans) => {
            Some(ExportTracePartialSuccess { rejected_spans, error_message: "too many".to_owned() })
        }
    };
    state.taken.lock().unwrap().push(body);
    let answer = ExportTraceServiceResponse { partial_success: refused };
    let response = Response::builder().header("content-type", "application/x-protobuf");
    Ok(response.body(Body::from(answer.encode_to_vec())).unwrap())
}

/// The attributes, as text.
pub(super) fn attributes(attributes: &[KeyValue]) -> Vec<(&str, String)> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.as_str(), text(attribute))).collect()
}

/// The value of an attribute of a span.
#[track_caller]
pub(super) fn attribute(span: &Span, key: &str) -> String {
    let all = attributes(&span.attributes);
    let found = all.iter().find(|(name, _)| *name == key);
    found.unwrap_or_else(|| panic!("{key} is missing: {all:?}")).1.clone()
}
