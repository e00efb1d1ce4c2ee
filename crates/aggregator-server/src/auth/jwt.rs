//! JSON Web Tokens (RFC 7519) of one issuer, as credentials beside keys. The advice of RFC 8725 is followed.
//!
//! A token passes these, in this order. What nobody has signed decides nothing but which key is tried:
//!
//! 1. `header`: its size, its form, its algorithm and the name of its key. Nothing in it is ever opened or asked for.
//! 2. `jwks/`: the one key of the issuer for that name and that algorithm.
//! 3. The library: the signature (`ring.rs`), and then issuer, audience and times.
//! 4. `claims`: the same ones once more and more narrowly, the subject, and the scopes.
//!
//! What comes out is a [`Subject`]. The token itself is kept nowhere.

mod claims;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod header;
mod ring;
mod subject;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use aggregator_core::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode};

pub(crate) use self::header::Header;
pub(crate) use self::subject::Subject;

use self::claims::Claims;
use super::cursor_seal::CursorSeal;
use crate::config::Config;
use crate::http::problem::Problem;
use crate::json_object::JsonObject;
use crate::jwks::{IssuerKey, Jwks, NoKey, REST};

/// How far the clocks of the issuer and of this server may be apart.
const LEEWAY_SECONDS: u64 = 30;

/// The most tokens whose verification is remembered.
const MAX_REMEMBERED: usize = 1_000;

/// Turns tokens of the issuer into subjects.
pub(crate) struct Jwt {
    issuer: String,
    audience: String,
    algorithms: Vec<Algorithm>,
    scopes_claim: String,
    jwks: Arc<Jwks>,
    /// Subjects by the hash of their token. Verifying a signature of RSA costs more than the rest of a small request.
    verified: Mutex<HashMap<[u8; SHA256_OUTPUT_LEN], Arc<Subject>>>,
}

impl Jwt {
    /// `None` if `config` names no issuer.
    pub(crate) fn new(config: &Config, jwks: Option<Arc<Jwks>>) -> Option<Self> {
        let (issuer, audience, jwks) = (config.jwt_issuer.clone()?, config.jwt_audience.clone()?, jwks?);
        ring::install();
        Some(Self {
            issuer,
            audience,
            algorithms: config.jwt_algorithms.iter().map(|algorithm| algorithm.get()).collect(),
            scopes_claim: config.jwt_scopes_claim.clone(),
            jwks,
            verified: Mutex::default(),
        })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whom this token speaks for. Waits for the issuer's keys, and not longer than [`Jwks::look_again`] does.
    ///
    /// # Errors
    /// Say what is wrong with the token, and nothing that stands in it.
    pub(super) async fn subject(
        &self,
        token: &str,
        seal: Option<&CursorSeal>,
    ) -> Result<Arc<Subject>, Problem> {
        let header = Header::parse(token.as_bytes()).map_err(Problem::bad_credential)?;
        if !self.algorithms.contains(&header.algorithm) {
            return Err(Problem::bad_credential(
                "the token is signed with an algorithm that the server does not take (--jwt-algorithms)",
            ));
        }
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let now = Timestamp::now();
        let known = self.verified().get(&hash).map(Arc::clone);
        if let Some(subject) = known
            && subject.check(now).is_ok()
        {
            return Ok(subject);
        }
        let key = self.key(&header).await?;
        let claims = self.verify(token, &header, &key)?;
        let subject = Arc::new(Subject::new(claims, key, &self.issuer, seal)?);
        subject.check(now)?;
        self.remember(hash, &subject, now);
        Ok(subject)
    }

    async fn key(&self, header: &Header) -> Result<Arc<IssuerKey>, Problem> {
        let find = || self.jwks.find(header.kid.as_deref(), header.algorithm);
        let found = match find() {
            Err(NoKey::Unknown | NoKey::NotFetched) => {
                let is_current = self.jwks.look_again().await;
                match find() {
                    Err(NoKey::Unknown) if !is_current => Err(NoKey::NotFetched),
                    found => found,
                }
            }
            found => found,
        };
        found.map_err(|why| match why {
            NoKey::NotFetched => Problem::issuer_keys_unknown(),
            NoKey::Unknown => Problem::bad_credential(format!(
                "the issuer has no key for the token's kid and alg; its keys are fetched again at most every {} s",
                REST.as_secs()
            )),
            NoKey::Ambiguous => Problem::bad_credential(
                "the issuer has several keys for the token's kid and alg: a token has to name one of them (kid)",
            ),
        })
    }

    fn verify(&self, token: &str, header: &Header, key: &IssuerKey) -> Result<Claims, Problem> {
        let mut validation = Validation::new(header.algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let decoded = decode::<JsonObject>(token, key.decoding(), &validation)
            .map_err(|error| Problem::bad_credential(in_words(error.kind())))?;
        Claims::parse(&decoded.claims, &self.issuer, &self.audience, &self.scopes_claim)
            .map_err(Problem::bad_credential)
    }

    fn remember(&self, hash: [u8; SHA256_OUTPUT_LEN], subject: &Arc<Subject>, now: Timestamp) {
        let mut verified = self.verified();
        if verified.len() >= MAX_REMEMBERED {
            verified.retain(|_, subject| subject.check(now).is_ok());
        }
        if verified.len() >= MAX_REMEMBERED {
            verified.clear();
        }
        verified.insert(hash, Arc::clone(subject));
    }

    /// Forgets subjects whose key was taken back.
    pub(super) fn forget_withdrawn(&self) {
        let now = Timestamp::now();
        self.verified().retain(|_, subject| subject.check(now).is_ok());
    }

    fn verified(&self) -> MutexGuard<'_, HashMap<[u8; SHA256_OUTPUT_LEN], Arc<Subject>>> {
        // No code that can panic runs under the lock.
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the library has found. It may hold pieces of the token, so its own words are not repeated.
fn in_words(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "the token's signature is not that of the issuer's key",
        ErrorKind::ExpiredSignature => "the token has expired (exp)",
        ErrorKind::ImmatureSignature => "the token is not good yet (nbf)",
        ErrorKind::InvalidIssuer => "the token is of another issuer (iss)",
        ErrorKind::InvalidAudience => "the token is for another audience (aud)",
        ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => match name.as_str() {
            "exp" => claims::BAD_EXP,
            "nbf" => claims::BAD_NBF,
            "iss" => claims::BAD_ISS,
            _ => claims::BAD_AUD,
        },
        ErrorKind::Json(_) => "the token's header or claims are no JSON object without a member twice",
        _ => "the token is malformed",
    }
}
