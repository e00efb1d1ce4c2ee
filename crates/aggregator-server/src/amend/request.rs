//! What requests to erase and to release have in common.

use aggregator_core::store::MAX_IDS_PER_AMEND;
use axum::body::Body;
use hyper::{HeaderMap, Uri};
use serde::Deserialize;

use super::Amendment;
use crate::app::App;
use crate::auth::Principal;
use crate::http::identities::{self, Object, RequestedIdentity};
use crate::http::params::Params;
use crate::http::problem::{ItemError, Problem};

/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 200;

/// The form of a body, for error messages.
const EXPECTED: &str = r#"{"identities":[{"topic":…,"event_id":…},…],"reason":…}"#;

/// A body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AmendRequest {
    identities: Vec<Object<RequestedIdentity>>,
    #[serde(default)]
    reason: Option<String>,
}

/// Reads the body of a request, and checks all of it.
pub(super) async fn read(
    app: &App,
    principal: &Principal,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Amendment, Problem> {
    Params::of(uri)?.finish("")?;
    let received = app.bodies.json(principal.flow(), headers, body).await?;
    // Its key may have been revoked meanwhile.
    principal.check()?;
    AmendRequest::parse(&received.bytes)
}

impl AmendRequest {
    fn parse(body: &[u8]) -> Result<Amendment, Problem> {
        if body.trim_ascii().is_empty() {
            return Err(Problem::malformed(format!("the body is empty: send {EXPECTED}")));
        }
        let requested: Object<Self> = serde_json::from_slice(body)
            .map_err(|error| Problem::malformed_json(&format!("the body is not {EXPECTED}"), &error))?;
        let Self { identities, reason } = requested.0;
        let of_request = |field: &'static str, detail: String| {
            Problem::invalid(vec![ItemError { index: None, field: field.into(), detail }], "identity")
        };
        if identities.is_empty() {
            return Err(of_request("identities", "is empty".into()));
        }
        if identities.len() > MAX_IDS_PER_AMEND {
            return Err(Problem::too_large(format!(
                "the request has more than {MAX_IDS_PER_AMEND} identities"
            )));
        }
        if let Some(reason) = &reason {
            check_reason(reason).map_err(|detail| of_request("reason", detail))?;
        }
        Ok(Amendment { ids: identities::checked(identities, "identity")?, reason })
    }
}

/// Says what is wrong with a reason, without its name.
pub(crate) fn check_reason(reason: &str) -> Result<(), String> {
    let count = reason.chars().count();
    if reason.trim().is_empty() || count > MAX_REASON_CHARS || reason.chars().any(char::is_control) {
        return Err(format!(
            "must be 1 to {MAX_REASON_CHARS} characters, and none of them a control character"
        ));
    }
    Ok(())
}
