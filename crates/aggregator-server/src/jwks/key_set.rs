//! A JSON Web Key Set (RFC 7517, section 5).

use std::sync::Arc;

use jsonwebtoken::Algorithm;
use serde::Deserialize;

use super::key::IssuerKey;
use crate::json_object::JsonObject;

/// The longest text of a set.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// The most keys of a set. Issuers have two or three.
const MAX_KEYS: usize = 100;

/// The keys of the issuer that can be used here.
#[derive(Default)]
pub(crate) struct KeySet {
    keys: Vec<Arc<IssuerKey>>,
    /// Why keys cannot be used, one reason for each.
    pub(super) unusable: Vec<&'static str>,
}

/// Why there is no one key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The keys could not be fetched yet.
    NotFetched,
    /// None fits.
    Unknown,
    /// Several fit, and nothing says which one it is.
    Ambiguous,
}

impl KeySet {
    /// Keys that cannot be used are left out, as the standard asks. A set with none is good: it means nobody.
    ///
    /// # Errors
    /// Says why the text is no set of keys.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<JsonObject>,
        }
        if text.len() > MAX_BYTES {
            return Err(format!("has more than {} KiB", MAX_BYTES >> 10));
        }
        let document: Document = serde_json::from_slice(text).map_err(|error| {
            format!(
                "is no JSON Web Key Set ({{\"keys\":[…]}}, no member twice), see line {} column {}",
                error.line(),
                error.column()
            )
        })?;
        if document.keys.len() > MAX_KEYS {
            return Err(format!("has {} keys: the most is {MAX_KEYS}", document.keys.len()));
        }
        let mut set = Self::default();
        for jwk in &document.keys {
            match IssuerKey::parse(jwk) {
                Ok(key) => set.keys.push(Arc::new(key)),
                Err(why) => set.unusable.push(why),
            }
        }
        Ok(set)
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key for a token with this algorithm and this name of a key. Without a name it is the only key that fits.
    pub(crate) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<IssuerKey>, NoKey> {
        let mut fitting = self
            .keys
            .iter()
            .filter(|key| kid.is_none_or(|kid| key.kid() == Some(kid)) && key.fits(algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(Arc::clone(key)),
            (None, _) => Err(NoKey::Unknown),
            (Some(_), Some(_)) => Err(NoKey::Ambiguous),
        }
    }

    /// Whether it has the same keys as another one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.keys.len() == other.keys.len()
            && self.unusable == other.unusable
            && self.keys.iter().zip(&other.keys).all(|(one, other)| one.is(other))
    }

    /// This set in place of an older one: keys of both stay what they are, and those that are gone are withdrawn, whoever
    /// holds them. Also says whether any is.
    pub(super) fn replacing(mut self, older: &Self) -> (Self, bool) {
        for key in &mut self.keys {
            if let Some(known) = older.keys.iter().find(|known| known.is(key)) {
                *key = Arc::clone(known);
            }
        }
        let is_gone = |known: &&Arc<IssuerKey>| !self.keys.iter().any(|key| Arc::ptr_eq(key, known));
        let gone: Vec<_> = older.keys.iter().filter(is_gone).collect();
        gone.iter().for_each(|key| key.withdraw());
        let any_gone = !gone.is_empty();
        (self, any_gone)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;

    fn part(length: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![7; length])
    }

    fn set(keys: &[Value]) -> KeySet {
        KeySet::parse(json!({"keys": keys, "other": 1}).to_string().as_bytes()).unwrap()
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    #[test]
    fn keys_that_cannot_be_used_are_left_out_with_a_reason() {
        let rsa = json!({"kty": "RSA", "n": part(256), "e": "AQAB"});
        let p256 = json!({"kty": "EC", "crv": "P-256", "x": part(32), "y": part(32)});
        let p384 = json!({"kty": "EC", "crv": "P-384", "x": part(48), "y": part(48)});
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": part(32)});
        for (good, algorithm) in [
            (rsa.clone(), Algorithm::PS512),
            (
                with(rsa.clone(), "n", json!(URL_SAFE_NO_PAD.encode([&[0], &[7; 256][..]].concat()))),
                Algorithm::RS256,
            ),
            (with(rsa.clone(), "use", json!("sig")), Algorithm::RS256),
            (with(rsa.clone(), "key_ops", json!(["verify"])), Algorithm::RS256),
            (with(p256.clone(), "alg", json!("ES256")), Algorithm::ES256),
            (p384.clone(), Algorithm::ES384),
            (ed.clone(), Algorithm::EdDSA),
        ] {
            let set = set(std::slice::from_ref(&good));
            assert!(set.find(None, algorithm).is_ok(), "{good}");
            assert_eq!(set.find(None, Algorithm::HS256).err(), Some(NoKey::Unknown));
        }
        let only = set(&[with(rsa.clone(), "alg", json!("PS256"))]);
        assert!(only.find(None, Algorithm::PS256).is_ok());
        assert_eq!(only.find(None, Algorithm::RS256).err(), Some(NoKey::Unknown), "it is for nothing else");
        for (bad, says) in [
            (json!({}), "type"),
            (json!({"kty": "oct", "k": part(32)}), "symmetric"),
            (json!({"kty": "EC", "crv": "P-521", "x": part(66), "y": part(66)}), "type"),
            (json!({"kty": "OKP", "crv": "X25519", "x": part(32)}), "type"),
            (json!({"kty": "EC", "crv": "P-256", "x": part(32)}), "missing"),
            (with(rsa.clone(), "n", json!(part(128))), "2,048"),
            (with(rsa.clone(), "n", json!(part(1025))), "8,192"),
            (with(rsa.clone(), "e", json!("AA")), "exponent"),
            (with(rsa.clone(), "e", json!(part(5))), "exponent"),
            (with(rsa.clone(), "n", json!("+/")), "base64url"),
            (with(rsa.clone(), "n", json!(7)), "base64url"),
            (with(rsa.clone(), "use", json!("enc")), "signatures"),
            (with(rsa.clone(), "use", json!(null)), "signatures"),
            (with(rsa.clone(), "key_ops", json!(["encrypt"])), "verifying"),
            (with(rsa.clone(), "alg", json!("ES256")), "another type"),
            (with(rsa.clone(), "alg", json!("HS256")), "another type"),
            (with(rsa.clone(), "alg", json!("RSA-OAEP")), "not known"),
            (with(rsa.clone(), "kid", json!(5)), "kid"),
            (with(rsa.clone(), "kid", json!("x".repeat(257))), "kid"),
            (with(rsa, "d", json!(part(256))), "private"),
            (with(p256, "x", json!(part(31))), "length"),
            (with(p384, "crv", json!("P-256")), "length"),
            (with(ed, "x", json!(part(33))), "length"),
        ] {
            let set = set(std::slice::from_ref(&bad));
            assert!(set.keys.is_empty() && set.unusable[0].contains(says), "{bad}: {:?}", set.unusable);
        }
    }

    #[test]
    fn a_set_is_whole_or_nothing() {
        assert_eq!(set(&[]).len(), 0);
        let many = json!({"keys": vec![json!({}); MAX_KEYS + 1]}).to_string();
        let long = format!("{{\"keys\":[]}}{}", " ".repeat(MAX_BYTES));
        for wrong in [
            "",
            "{}",
            "[]",
            "null",
            "{\"keys\":{}}",
            "{\"keys\":[1]}",
            "{\"keys\":[]",
            "{\"keys\":[],\"keys\":[]}",
            "{\"keys\":[{\"kty\":\"RSA\",\"kty\":\"oct\"}]}",
            "<html>",
            &many,
            &long,
        ] {
            assert!(KeySet::parse(wrong.as_bytes()).is_err(), "{wrong:.60}");
        }
    }

    #[test]
    fn a_key_is_found_by_its_name_or_by_being_the_only_one() {
        let key = |kid: Option<&str>, byte: u8| {
            let x = URL_SAFE_NO_PAD.encode([byte; 32]);
            let key = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
            kid.map_or(key.clone(), |kid| with(key, "kid", json!(kid)))
        };
        let find = |set: &KeySet, kid: Option<&str>| {
            set.find(kid, Algorithm::EdDSA).map(|key| key.kid().map(str::to_owned))
        };
        let one = set(&[key(Some("a"), 1)]);
        assert_eq!(find(&one, Some("a")), Ok(Some("a".into())));
        assert_eq!(find(&one, None), Ok(Some("a".into())));
        assert_eq!(find(&one, Some("b")), Err(NoKey::Unknown));
        assert_eq!(find(&one, Some("")), Err(NoKey::Unknown));
        let two = set(&[key(Some("a"), 1), key(Some("b"), 2), key(Some("b"), 3), key(None, 4)]);
        assert_eq!(find(&two, None), Err(NoKey::Ambiguous));
        assert_eq!(find(&two, Some("a")), Ok(Some("a".into())));
        assert_eq!(find(&two, Some("b")), Err(NoKey::Ambiguous));
        // A key that stays is the same one, and the others are withdrawn, whatever their name.
        let held =
            [one.find(None, Algorithm::EdDSA).unwrap(), two.find(Some("a"), Algorithm::EdDSA).unwrap()];
        let (same, any_gone) = set(&[key(Some("a"), 1), key(Some("c"), 9)]).replacing(&one);
        assert!(!any_gone && Arc::ptr_eq(&same.find(Some("a"), Algorithm::EdDSA).unwrap(), &held[0]));
        let (_, any_gone) = set(&[key(Some("a"), 2)]).replacing(&same);
        assert!(any_gone && held[0].is_withdrawn() && !held[1].is_withdrawn());
    }
}
