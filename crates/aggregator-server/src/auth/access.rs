//! What a route asks for, before its handler runs.

use hyper::http::request::Parts;

use super::guard::{Entrance, Guard};
use super::principal::Principal;
use super::scope::Scope;
use crate::http::problem::Problem;

/// Who may use a route. Every row of the table of routes has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody. No credential is looked at.
    Open,
    /// Whoever may publish events of some topics. The handler asks the principal about each of them.
    Publish,
    /// Whoever may read events of some topics. The handler asks the principal about each of them.
    Read,
    /// Whoever has the scope `metrics`.
    Metrics,
    /// Whoever has the scope `admin`.
    Admin,
}

/// Decides whether the sender of a request may use a route, and says who that is.
pub(crate) async fn authorize(guard: &Guard, access: Access, parts: &Parts) -> Result<Principal, Problem> {
    if access == Access::Open {
        return Ok(Principal::Nobody);
    }
    let entrance = parts.extensions.get().copied().unwrap_or(Entrance::Network);
    let principal = guard.principal(parts, entrance).await?;
    match access {
        Access::Open => {}
        Access::Publish => principal.check_publishes()?,
        Access::Read => principal.check_reads()?,
        Access::Metrics => principal.check_scope(&Scope::Metrics)?,
        Access::Admin => principal.check_scope(&Scope::Admin)?,
    }
    Ok(principal)
}
