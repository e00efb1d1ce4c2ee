//! What a publish request asks for beside its events.

use hyper::{HeaderMap, Uri};

use crate::http::params::Params;
use crate::http::problem::Problem;

/// The parameters of `POST /publish`, and its `Prefer` header.
pub(super) struct PublishOptions {
    /// `results=none` leaves the list of results out of the reply.
    pub(super) results: bool,
    /// `on_invalid=skip` stores the good items of a request that has bad ones.
    pub(super) skip_invalid: bool,
    /// `ack=queued` is answered before the commit.
    pub(super) queued: bool,
    /// Whether `queued` came as `Prefer: respond-async`.
    pub(super) preferred: bool,
}

impl PublishOptions {
    pub(super) fn parse(uri: &Uri, headers: &HeaderMap) -> Result<Self, Problem> {
        let mut params = Params::of(uri)?;
        let results = params.choose("results", &[("all", true), ("none", false)])?.unwrap_or(true);
        let skip_invalid =
            params.choose("on_invalid", &[("reject", false), ("skip", true)])?.unwrap_or(false);
        let queued = params.choose("ack", &[("durable", false), ("queued", true)])?;
        params.finish("results, on_invalid, ack")?;
        // RFC 7240. The query takes precedence over the header.
        let preferred = queued.is_none()
            && headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()).any(|value| {
                value.split(',').any(|token| token.trim().eq_ignore_ascii_case("respond-async"))
            });
        Ok(Self { results, skip_invalid, queued: queued.unwrap_or(preferred), preferred })
    }
}
