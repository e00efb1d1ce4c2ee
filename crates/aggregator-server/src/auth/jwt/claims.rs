//! What a token whose signature is good says of its sender.

use aggregator_core::Timestamp;
use serde_json::Value;

use super::LEEWAY_SECONDS;
use crate::auth::scope::{Grants, MAX_SCOPES, Scope};
use crate::json_object::JsonObject;

/// The longest subject, as OpenID Connect has it.
const MAX_SUBJECT_BYTES: usize = 255;

pub(super) const BAD_EXP: &str = "the token's exp is missing, or is no whole number of seconds: strings and fractions are not taken, because libraries differ in how they read them";
pub(super) const BAD_NBF: &str = "the token's nbf is no whole number of seconds";
pub(super) const BAD_ISS: &str = "the token's iss is missing, or is no string";
pub(super) const BAD_AUD: &str = "the token's aud is missing, or is neither a string nor an array of strings";

/// The claims that are used here.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) subject: String,
    /// When the token ends, with the leeway.
    pub(super) expires_at: Timestamp,
    pub(super) grants: Grants,
}

impl Claims {
    /// The library has checked issuer, audience and times, and takes more than is taken here: an array of issuers, for
    /// example, and fractions of seconds, which it rounds up.
    pub(super) fn parse(
        claims: &JsonObject,
        issuer: &str,
        audience: &str,
        scopes_claim: &str,
    ) -> Result<Self, &'static str> {
        match claims.text("iss") {
            None => return Err(BAD_ISS),
            Some(other) if other != issuer => return Err("the token is of another issuer (iss)"),
            Some(_) => {}
        }
        let audiences = claims.get("aud").and_then(strings).ok_or(BAD_AUD)?;
        if !audiences.contains(&audience) {
            return Err("the token is for another audience (aud)");
        }
        let seconds = claims.get("exp").and_then(Value::as_u64).ok_or(BAD_EXP)?;
        if claims.get("nbf").is_some_and(|nbf| nbf.as_u64().is_none()) {
            return Err(BAD_NBF);
        }
        // A timestamp ends with the year 9999.
        let micros = seconds.saturating_add(LEEWAY_SECONDS).saturating_mul(1_000_000);
        let expires_at = Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX));
        let subject = claims
            .text("sub")
            .filter(|subject| (1..=MAX_SUBJECT_BYTES).contains(&subject.len()))
            .ok_or("the token's sub is missing, or is no string of 1 to 255 bytes")?;
        let grants = grants(claims.get(scopes_claim))?;
        Ok(Self { subject: subject.to_owned(), expires_at, grants })
    }
}

/// One string, or an array of them.
fn strings(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(one) => Some(vec![one]),
        Value::Array(several) => several.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// What the scopes of this server among those of the token allow. An issuer has other services, whose scopes are no
/// mistake.
fn grants(claim: Option<&Value>) -> Result<Grants, &'static str> {
    let Some(claim) = claim else { return Ok(Grants::nothing()) };
    let words = strings(claim).ok_or("the token's scopes are neither a string nor an array of strings")?;
    // In a string they have spaces between them (RFC 6749, section 3.3). In an array, each string is one.
    let words = match claim {
        Value::String(text) => text.split(' ').collect(),
        _ => words,
    };
    let scopes: Vec<Scope> = words.iter().filter_map(|word| word.parse().ok()).take(MAX_SCOPES + 1).collect();
    if scopes.is_empty() {
        return Ok(Grants::nothing());
    }
    Grants::of(&scopes).map_err(|_| "the token has more than 100 scopes of this server")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(change: &Value) -> Result<Claims, &'static str> {
        let mut claims =
            json!({"iss": "i", "aud": "a", "exp": 1_000, "sub": "s", "scope": "read:x.* metrics"});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        // `"\u{0}"` stands for no claim at all.
        claims.as_object_mut().unwrap().retain(|_, value| *value != "\u{0}");
        let claims: JsonObject = serde_json::from_str(&claims.to_string()).unwrap();
        Claims::parse(&claims, "i", "a", "scope")
    }

    #[test]
    fn issuer_audience_and_times_have_one_form_each() {
        let claims = parse(&json!({})).unwrap();
        assert_eq!(
            (claims.subject.as_str(), claims.expires_at),
            ("s", Timestamp::from_micros(1_030_000_000))
        );
        parse(&json!({"aud": ["b", "a"], "nbf": 5, "iat": "x", "other": {"a": 1.5}})).unwrap();
        let last = parse(&json!({"exp": u64::MAX})).unwrap().expires_at;
        assert!(last.to_string().starts_with("9999-12-31"), "{last}");
        let none = "\u{0}";
        for (change, says) in [
            (json!({"iss": none}), "iss"),
            (json!({"iss": "I"}), "another issuer"),
            (json!({"iss": "i "}), "another issuer"),
            (json!({"iss": ["i"]}), "iss"),
            (json!({"iss": null}), "iss"),
            (json!({"aud": none}), "aud"),
            (json!({"aud": "ab"}), "another audience"),
            (json!({"aud": []}), "another audience"),
            (json!({"aud": ["b"]}), "another audience"),
            (json!({"aud": ["a", 5]}), "aud"),
            (json!({"aud": {"a": 1}}), "aud"),
            (json!({"exp": none}), "exp"),
            (json!({"exp": "1000"}), "exp"),
            (json!({"exp": 1_000.0}), "exp"),
            (json!({"exp": 1e3}), "exp"),
            (json!({"exp": -1}), "exp"),
            (json!({"exp": null}), "exp"),
            (json!({"nbf": "5"}), "nbf"),
            (json!({"nbf": 5.5}), "nbf"),
            (json!({"sub": none}), "sub"),
            (json!({"sub": ""}), "sub"),
            (json!({"sub": 5}), "sub"),
            (json!({"sub": "x".repeat(256)}), "sub"),
        ] {
            let refused = parse(&change).unwrap_err();
            assert!(refused.contains(says), "{change}: {refused}");
        }
    }

    #[test]
    fn scopes_of_others_are_left_to_them() {
        let grants = |scope: Value| parse(&json!({"scope": scope})).map(|claims| claims.grants);
        let wanted = Grants::of(&["read:x.*", "metrics"].map(|text| text.parse().unwrap())).unwrap();
        for same in [
            json!("read:x.* metrics"),
            json!("openid  metrics email read:x.* read: read:x* publish Admin"),
            json!(["metrics", "offline_access", "read:x.*"]),
        ] {
            assert_eq!(grants(same.clone()).unwrap(), wanted, "{same}");
        }
        for nothing in [
            json!("\u{0}"),
            json!(""),
            json!([]),
            json!("openid"),
            json!(["read:x.* metrics"]),
            json!("admin\tx"),
            json!([""]),
        ] {
            assert_eq!(grants(nothing.clone()).unwrap(), Grants::nothing(), "{nothing}");
        }
        for wrong in [
            json!(5),
            json!(null),
            json!(["metrics", 5]),
            json!({"metrics": true}),
            json!(vec!["metrics"; 101]),
        ] {
            assert!(grants(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
