//! Tokens of an issuer as credentials.

mod accepted;
mod fetching;
mod issuer;
mod jwks_server;
mod refused;
mod rotation;
mod secrets;
mod start;

use std::sync::Arc;

use aggregator_core::{MemoryStore, Partitions};
use aggregator_server::Config;
use aggregator_server::config::JwksLocation;
use reqwest::Method;
use serde_json::Value;

pub(super) use self::issuer::Issuer;

use self::issuer::{AUDIENCE, ISSUER};
use super::{Guarded, Key};
use crate::support::Answer;

/// The settings of a server that takes tokens which are signed with keys from there.
fn config(jwks: JwksLocation) -> Config {
    Config {
        jwt_issuer: Some(ISSUER.to_owned()),
        jwt_audience: Some(AUDIENCE.to_owned()),
        jwt_jwks: Some(jwks),
        ..Config::default()
    }
}

impl Guarded {
    /// A server whose keys are tokens of an issuer.
    pub(super) async fn of_issuer() -> Self {
        let issuer = Issuer::new();
        let config = config(issuer.location());
        Self { issuer: Some(issuer), ..Self::of(config).await }
    }

    /// A server with an empty store in memory.
    async fn of(config: Config) -> Self {
        Self::start(Arc::new(MemoryStore::new(Partitions::new(4).unwrap())), config).await
    }

    /// What is answered to a reader of the topic `a.b` with this token.
    async fn answer(&self, token: &str) -> Answer {
        let request = self.request(Method::GET, "/events?topic=a.b").bearer_auth(token);
        Answer::of(request.send().await.unwrap()).await
    }

    /// The same, as a status.
    async fn status(&self, token: &str) -> u16 {
        self.answer(token).await.status.as_u16()
    }
}

/// A token in place of a key.
fn as_key(token: String) -> Key {
    Key { id: String::new(), key: token }
}

/// A value with another member.
fn with(mut value: Value, name: &str, member: impl Into<Value>) -> Value {
    value[name] = member.into();
    value
}

/// A value without a member.
fn without(mut value: Value, name: &str) -> Value {
    value.as_object_mut().unwrap().remove(name).unwrap();
    value
}
