//! How tokens may be signed.

use std::fmt;
use std::str::FromStr;

use jsonwebtoken::Algorithm;

/// One way to sign a JSON Web Token (RFC 7518, section 3.1; RFC 8037). All of them are asymmetric: whoever verifies with a
/// symmetric key could sign with it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JwtAlgorithm(Algorithm);

const ALL: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

impl JwtAlgorithm {
    /// RSA with PKCS #1 v1.5 and SHA-256, which most issuers use.
    pub const RS256: Self = Self(Algorithm::RS256);
    /// ECDSA over P-256 with SHA-256.
    pub const ES256: Self = Self(Algorithm::ES256);
    /// Ed25519.
    pub const EDDSA: Self = Self(Algorithm::EdDSA);

    pub(crate) fn get(self) -> Algorithm {
        self.0
    }
}

impl FromStr for JwtAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, algorithm)) = ALL.iter().find(|(name, _)| *name == text) {
            return Ok(Self(*algorithm));
        }
        let names = ALL.map(|(name, _)| name).join(", ");
        let why = match text.to_ascii_uppercase().as_str() {
            "NONE" => "signs nothing",
            "HS256" | "HS384" | "HS512" => {
                "is symmetric: whoever can verify a token with its key can make tokens with it"
            }
            _ => "is no algorithm that is known here",
        };
        Err(format!("{why}: use {names}"))
    }
}

impl fmt::Display for JwtAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = ALL.iter().find(|(_, algorithm)| *algorithm == self.0);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_asymmetric_algorithms_are_taken_by_their_exact_names() {
        for (name, algorithm) in ALL {
            let parsed: JwtAlgorithm = name.parse().unwrap();
            assert_eq!((parsed.get(), parsed.to_string().as_str()), (algorithm, name));
        }
        for (wrong, says) in [
            ("HS256", "symmetric"),
            ("hs512", "symmetric"),
            ("none", "signs nothing"),
            ("NonE", "signs nothing"),
            ("rs256", "RS256"),
            ("ES512", "no algorithm"),
            ("", "no algorithm"),
        ] {
            let refused = wrong.parse::<JwtAlgorithm>().unwrap_err();
            assert!(refused.contains(says), "{wrong}: {refused}");
        }
    }
}
