//! Checks of the parsers of outside bytes: each function hands an input, whatever it is, to a parser, and panics if the
//! parser breaks a promise. The fuzz targets in `fuzz/` call them, and so does a test with every stored input. They stand
//! in the rooms of their parsers.

use crate::http::problem::Problem;

pub use crate::admin::transfer::fuzz::{export_lines, identity_lines};
pub use crate::auth::fuzz::{credential, local_host, new_key, scopes, sealed_cursor};
pub use crate::auth::jwt::fuzz::{token_claims, token_header};
pub use crate::http::fuzz::content_encoding;
pub use crate::jwks::fuzz::key_set;
pub use crate::publish::fuzz::{publish_body, publish_query};
pub use crate::read::fuzz::{events_query, lookup_body, stream_query};
pub use crate::tls::fuzz::client_certificate;
pub use crate::trace::fuzz::trace_parent;

#[cfg(test)]
fuzz_corpus::corpus_tests!(
    client_certificate,
    content_encoding,
    credential,
    events_query,
    export_lines,
    identity_lines,
    key_set,
    local_host,
    lookup_body,
    new_key,
    publish_body,
    publish_query,
    scopes,
    sealed_cursor,
    stream_query,
    token_claims,
    token_header,
    trace_parent,
);

/// What a client is told has words, and is not much longer than what it sent, of which it had `sent` bytes.
pub(crate) fn check_problem(problem: &Problem, sent: usize) {
    let detail = problem.detail();
    assert!(!detail.is_empty());
    assert!(detail.len() <= 2_000 + sent, "{} bytes of detail for {sent} bytes", detail.len());
    assert!(!problem.is_retryable(), "the same input would be refused again: {detail}");
}
