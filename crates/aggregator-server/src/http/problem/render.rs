//! Writes a problem as an answer.

use std::sync::Arc;

use aggregator_core::Cursor;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde::Serialize;
use tracing::error;

use super::Problem;
use crate::http::request_id::RequestId;

impl Problem {
    /// What is said about it.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Why the request was shed: its sender is told when to come again.
    pub(crate) fn shed_reason(&self) -> Option<&'static str> {
        self.retry_after_seconds.map(|_| self.kind)
    }

    /// Whether the same request can succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        self.retryable
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// Writes the body of a response that is a problem, with cursors as their reader may see them. Any other response stays as it is.
pub(crate) fn render(
    mut response: Response,
    request_id: &RequestId,
    show_cursor: impl Fn(&Cursor) -> String,
) -> Response {
    /// A problem with the extension member (RFC 9457, section 3.2) that names its request.
    #[derive(Serialize)]
    struct ProblemBody<'a> {
        #[serde(flatten)]
        problem: &'a Problem,
        #[serde(skip_serializing_if = "Option::is_none")]
        oldest: Option<String>,
        request_id: &'a str,
    }
    let Some(problem) = response.extensions_mut().remove::<Arc<Problem>>() else { return response };
    if problem.status == StatusCode::INTERNAL_SERVER_ERROR {
        error!(%request_id, detail = problem.detail, "a request was answered with an internal error");
    }
    let oldest = problem.oldest.as_deref().map(show_cursor);
    let body = ProblemBody { problem: &problem, oldest, request_id: request_id.as_str() };
    let mut body = serde_json::to_vec(&body).expect("a problem has only strings and numbers");
    body.push(b'\n');
    *response.body_mut() = Body::from(body);
    let headers = response.headers_mut();
    // It described the empty body.
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = problem.retry_after_seconds {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"aggregator\""));
    }
    response
}

/// The answer to a client whose request is not looked at, or not even read.
pub(crate) fn unread(problem: Problem, request_id: RequestId) -> Response {
    let mut response = render(problem.into_response(), &request_id, Cursor::to_string);
    request_id.add_to(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::logged;

    #[test]
    fn the_log_line_of_an_internal_error_names_its_request_and_other_problems_have_none() {
        let request_id = RequestId::generate();
        let log = |problem: Problem| {
            logged(|| {
                render(problem.into_response(), &request_id, Cursor::to_string);
            })
        };
        let lines = log(Problem::internal("the disk lies"));
        assert!(lines.len() == 1 && lines[0].contains("the disk lies"), "{lines:?}");
        assert!(lines[0].contains(&format!("request_id={request_id}")), "{lines:?}");
        assert!(log(Problem::queue_full()).is_empty());
    }
}
