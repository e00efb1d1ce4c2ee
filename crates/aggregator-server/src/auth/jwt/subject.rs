//! Whom a token speaks for.

use std::fmt;
use std::sync::Arc;

use aggregator_core::Timestamp;

use super::claims::Claims;
use crate::auth::cursor_seal::CursorSeal;
use crate::auth::scope::Grants;
use crate::fair::Flow;
use crate::http::problem::Problem;
use crate::jwks::IssuerKey;

/// A subject of the issuer, for as long as one token is good.
pub(crate) struct Subject {
    /// As logs and audit entries name it.
    name: String,
    flow: Flow,
    grants: Grants,
    expires_at: Timestamp,
    /// For one that may not read everything.
    seal: Option<CursorSeal>,
    /// What its token was signed with.
    key: Arc<IssuerKey>,
}

impl Subject {
    /// `seal` is the store's, from which the subject gets its own.
    ///
    /// # Errors
    /// If it needs a seal, and there is none yet.
    pub(super) fn new(
        claims: Claims,
        key: Arc<IssuerKey>,
        issuer: &str,
        seal: Option<&CursorSeal>,
    ) -> Result<Self, Problem> {
        let Claims { subject, expires_at, grants } = claims;
        let seal = if grants.reads_some_only() {
            let store = seal.ok_or_else(Problem::keys_unknown)?;
            Some(store.of_subject(issuer, &subject))
        } else {
            None
        };
        let name = format!("jwt:{}", subject.escape_default());
        Ok(Self { flow: Flow::of(&name), name, grants, expires_at, seal, key })
    }

    pub(in crate::auth) fn name(&self) -> &str {
        &self.name
    }

    /// The same for all tokens of the subject.
    pub(in crate::auth) fn flow(&self) -> Flow {
        self.flow
    }

    pub(in crate::auth) fn grants(&self) -> &Grants {
        &self.grants
    }

    pub(in crate::auth) fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    pub(in crate::auth) fn seal(&self) -> Option<&CursorSeal> {
        self.seal.as_ref()
    }

    /// Refuses a subject whose token is not good any more.
    pub(in crate::auth) fn check(&self, now: Timestamp) -> Result<(), Problem> {
        if self.key.is_withdrawn() {
            return Err(Problem::bad_credential("the issuer has taken back the key that signed the token"));
        }
        if self.expires_at <= now {
            return Err(Problem::bad_credential("the token has expired (exp)"));
        }
        Ok(())
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({})", self.name)
    }
}
