//! The options of JSON Web Tokens.

use clap::Args;

use crate::config::{Config, JwksLocation, JwtAlgorithm};

/// Tokens are taken where the issuer, the audience and the keys are given.
#[derive(Debug, Clone, Args)]
pub(super) struct JwtOptions {
    /// Take JSON Web Tokens of this issuer beside keys: exactly what their claim `iss` says. Needs --jwt-audience and
    /// --jwt-jwks
    #[arg(long, env = "AGGREGATOR_JWT_ISSUER", value_name = "ISSUER")]
    pub(super) jwt_issuer: Option<String>,

    /// What the claim `aud` of a token has to be, or to have among others: the issuer's name for this service
    #[arg(long, env = "AGGREGATOR_JWT_AUDIENCE", value_name = "AUDIENCE")]
    pub(super) jwt_audience: Option<String>,

    /// The issuer's public keys, as a JSON Web Key Set: a file, which is read again when it changes, or an https URL,
    /// which is fetched every 5 minutes and when a token names an unknown key; http for this machine alone
    #[arg(long, env = "AGGREGATOR_JWT_JWKS", value_name = "FILE-OR-URL")]
    pub(super) jwt_jwks: Option<JwksLocation>,

    /// How tokens may be signed; several with commas between them: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384,
    /// EdDSA
    #[arg(long, env = "AGGREGATOR_JWT_ALGORITHMS", default_values_t = Config::default().jwt_algorithms,
          value_name = "ALGORITHM", value_delimiter = ',')]
    pub(super) jwt_algorithms: Vec<JwtAlgorithm>,

    /// The claim that has a token's scopes: a string with spaces between them, or an array of strings. Words that are no
    /// scopes of this server are left to others
    #[arg(long, env = "AGGREGATOR_JWT_SCOPES_CLAIM", default_value_t = Config::default().jwt_scopes_claim,
          value_name = "CLAIM")]
    pub(super) jwt_scopes_claim: String,
}
