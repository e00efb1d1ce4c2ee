//! Checks of the parsers of tokens: see [`crate::fuzz`].

use super::claims::Claims;
use super::header::Header;
use crate::auth::scope::MAX_SCOPES;
use crate::json_object::JsonObject;
use crate::jwks::MAX_KID_BYTES;

/// A whole token. Only its header is read before it is verified.
pub fn token_header(data: &[u8]) {
    match Header::parse(data) {
        Ok(header) => {
            assert!(data.len() <= 8 << 10 && data.iter().filter(|byte| **byte == b'.').count() == 2);
            assert!(header.kid.is_none_or(|kid| kid.len() <= MAX_KID_BYTES));
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
}

/// The claims of a token whose signature is good.
pub fn token_claims(data: &[u8]) {
    let Ok(claims) = serde_json::from_slice::<JsonObject>(data) else { return };
    match Claims::parse(&claims, "https://issuer", "aggregator", "scope") {
        Ok(known) => {
            assert_eq!(claims.text("iss"), Some("https://issuer"));
            assert!(claims.get("exp").is_some_and(serde_json::Value::is_u64));
            assert!((1..=255).contains(&known.subject.len()));
            let words =
                claims.get("scope").map_or(0, |scope| scope.to_string().split(['"', ' ', ',']).count());
            assert!(!known.grants.publishes() || (1..=data.len()).contains(&words), "{MAX_SCOPES} at most");
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
}
