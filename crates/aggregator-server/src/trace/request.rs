//! The span of a request.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::{Method, Request, StatusCode, Version};

use super::Tracer;
use super::context::SpanContext;
use super::span::{Kind, Links, Parent, Span, Stopwatch};
use crate::http::request_id::RequestId;

/// The span of a sampled request. Its jobs take it along to their commit groups.
#[derive(Debug)]
pub(crate) struct RequestSpan {
    pub(super) tracer: Arc<Tracer>,
    pub(super) context: SpanContext,
    /// The client's.
    parent: Option<SpanContext>,
    clock: Stopwatch,
    method: Method,
    version: Version,
    /// The groups that it had events in until it was answered.
    groups: Mutex<Links>,
}

impl RequestSpan {
    /// Begins it, in the trace of the client's span if there is one.
    pub(super) fn begin<B>(tracer: Arc<Tracer>, request: &Request<B>, parent: Option<SpanContext>) -> Self {
        Self {
            tracer,
            context: parent.map_or_else(SpanContext::root, SpanContext::child),
            parent,
            clock: Stopwatch::start(),
            method: request.method().clone(),
            version: request.version(),
            groups: Mutex::default(),
        }
    }

    /// What events keep of it: the span of their publisher, in the extension attribute of CloudEvents for it.
    pub(crate) fn attributes(&self) -> Option<String> {
        self.parent.map(|parent| format!(r#"{{"traceparent":"{parent}"}}"#))
    }

    /// Ends it with the answer. `route` is the pattern of the path, if there is a route.
    pub(crate) fn end(&self, route: Option<&'static str>, status: StatusCode, request_id: &RequestId) {
        let method = method(&self.method);
        let name = match route {
            Some(route) => format!("{} {route}", method.unwrap_or("HTTP")).into(),
            None => Cow::Borrowed(method.unwrap_or("HTTP")),
        };
        let mut attributes = vec![
            ("http.request.method", method.unwrap_or("_OTHER").into()),
            ("http.response.status_code", usize::from(status.as_u16()).into()),
            ("url.scheme", self.tracer.scheme.into()),
            ("network.protocol.version", version(self.version).into()),
            ("aggregator.request_id", request_id.to_string().into()),
        ];
        attributes.extend(route.map(|route| ("http.route", route.into())));
        if status.is_server_error() {
            attributes.push(("error.type", status.as_str().to_owned().into()));
        }
        let groups = std::mem::take(&mut *self.groups.lock().unwrap_or_else(PoisonError::into_inner));
        self.tracer.export(Span {
            context: self.context,
            parent: self.parent.map(|parent| Parent { span: parent.span, is_remote: true }),
            kind: Kind::Server,
            name,
            time: self.clock.stop(),
            attributes,
            links: groups,
            has_failed: status.is_server_error(),
        });
    }

    /// Links it with a group that has events of it.
    pub(super) fn served_by(&self, group: SpanContext) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).add(group);
    }
}

/// The method, if it is one that everybody knows. A client can make up others.
fn method(method: &Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] = ["POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str())
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}
