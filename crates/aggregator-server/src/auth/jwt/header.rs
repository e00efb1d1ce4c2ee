//! What a token says before anything of it is verified: untrusted bytes of whoever reaches the port.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;

use crate::json_object::JsonObject;
use crate::jwks::MAX_KID_BYTES;

/// The longest token. Those of issuers have one to three KiB.
const MAX_TOKEN_BYTES: usize = 8 << 10;

/// The header of a token (RFC 7515, section 4), as far as it is looked at. Its members `jku`, `jwk`, `x5u` and `x5c` say
/// where its sender would like the key to come from, so they are not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
}

impl Header {
    /// The header of a whole token. Any bytes may come here.
    ///
    /// # Errors
    /// Say what is wrong, and nothing that stands in it.
    pub(crate) fn parse(token: &[u8]) -> Result<Self, &'static str> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err("the token has more than 8 KiB");
        }
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(
                "the token does not have three parts with dots between them: encrypted ones are not taken",
            );
        };
        if claims.is_empty() || signature.is_empty() {
            return Err("the token has an empty part: one that nobody has signed is not taken");
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| "the token's header is no base64url")?;
        let header: JsonObject = serde_json::from_slice(&header)
            .map_err(|_| "the token's header is no JSON object without a member twice")?;
        if header.get("crit").is_some() {
            return Err("the token has critical extensions (crit), and none is understood");
        }
        let algorithm = header.text("alg").and_then(|name| name.parse().ok());
        let algorithm =
            algorithm.ok_or("the token's alg is missing, or is not known: `none` is not taken")?;
        let kid = match header.get("kid").map(|kid| kid.as_str()) {
            None => None,
            Some(Some(kid)) if kid.len() <= MAX_KID_BYTES => Some(kid.to_owned()),
            Some(_) => return Err("the token's kid is no string of at most 256 bytes"),
        };
        Ok(Self { algorithm, kid })
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom as _;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn parse(header: impl AsRef<[u8]>) -> Result<Header, &'static str> {
        Header::parse(format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(header)).as_bytes())
    }

    #[test]
    fn a_header_names_a_known_algorithm_and_at_most_one_key() {
        let header = |kid: Option<&str>| Header { algorithm: Algorithm::ES256, kid: kid.map(str::to_owned) };
        assert_eq!(parse(r#"{"alg":"ES256"}"#), Ok(header(None)));
        assert_eq!(
            parse(r#"{"alg":"ES256","kid":"../a","jku":"https://evil.example"}"#),
            Ok(header(Some("../a")))
        );
        let long = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "x".repeat(MAX_KID_BYTES + 1));
        for (wrong, says) in [
            (r#"{"alg":"none"}"#, "alg"),
            (r#"{"alg":"None"}"#, "alg"),
            (r#"{"alg":"es256"}"#, "alg"),
            (r#"{"alg":null}"#, "alg"),
            (r#"{"kid":"a"}"#, "alg"),
            (r#"{"alg":"ES256","kid":5}"#, "kid"),
            (r#"{"alg":"ES256","kid":null}"#, "kid"),
            (&long, "kid"),
            (r#"{"alg":"ES256","crit":[]}"#, "crit"),
            (r#"{"alg":"ES256","crit":null}"#, "crit"),
            (r#"{"alg":"ES256","alg":"ES256"}"#, "twice"),
            (r#"{"alg":"ES256","\u0061lg":"none"}"#, "twice"),
            (r#"{"alg":"ES256","x":1,"x":2}"#, "twice"),
            ("[]", "object"),
            ("", "object"),
            (r#"{"alg":"ES256"}x"#, "object"),
            ("{\"alg\":\"ES256\",\"kid\":\"\u{0}", "object"),
        ] {
            let refused = parse(wrong).unwrap_err();
            assert!(refused.contains(says), "{wrong:.80}: {refused}");
        }
    }

    #[test]
    fn a_token_has_three_parts_and_a_bound() {
        for (wrong, says) in [
            ("", "three parts"),
            ("e30", "three parts"),
            ("e30.e30", "three parts"),
            ("e30.e30.AA.", "three parts"),
            ("a.b.c.d.e", "three parts"),
            ("e30.e30.", "empty part"),
            ("e30..AA", "empty part"),
            ("..", "empty part"),
            ("e3=.e30.AA", "base64url"),
            ("e+.e30.AA", "base64url"),
            (&"x".repeat(1 << 20), "8 KiB"),
        ] {
            let refused = Header::parse(wrong.as_bytes()).unwrap_err();
            assert!(refused.contains(says), "{wrong:.80}: {refused}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = StdRng::seed_from_u64(1);
        let pieces: [&[u8]; 14] = [
            b"{",
            b"}",
            b"\"alg\"",
            b":",
            b"\"ES256\"",
            b",",
            b"\"kid\"",
            b"\\ud83d",
            b"\xff",
            b"[",
            b"1e999",
            b"\"crit\"",
            b" ",
            b"\0",
        ];
        for _ in 0..20_000 {
            let header: Vec<u8> = (0..random.random_range(0..12))
                .flat_map(|_| *pieces.choose(&mut random).unwrap())
                .copied()
                .collect();
            let _ = parse(&header);
            let noise: Vec<u8> = (0..random.random_range(0..60)).map(|_| random.random()).collect();
            let _ = Header::parse(&noise);
        }
    }
}
