//! A public key of the issuer.

use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};

use crate::json_object::JsonObject;

/// What ring verifies with: below, a key is too weak; beyond, each verification costs too much.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
const MAX_RSA_EXPONENT_BYTES: usize = 4;
const P256_COORDINATE_BYTES: usize = 32;
const P384_COORDINATE_BYTES: usize = 48;
const ED25519_BYTES: usize = 32;

/// The longest name of a key. A token cannot name a longer one.
pub(crate) const MAX_KID_BYTES: usize = 256;

/// A key that signatures can be verified with.
pub(crate) struct IssuerKey {
    kid: Option<String>,
    /// Of the key's own member `alg`: the key is for nothing else.
    algorithm: Option<Algorithm>,
    public: Public,
    decoding: DecodingKey,
    /// Whether the issuer has taken it back.
    is_withdrawn: AtomicBool,
}

/// The key itself, by its kind.
#[derive(PartialEq, Eq)]
enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256 { x: Vec<u8>, y: Vec<u8> },
    P384 { x: Vec<u8>, y: Vec<u8> },
    Ed25519 { x: Vec<u8> },
}

impl IssuerKey {
    /// A JSON Web Key (RFC 7517, section 4; RFC 7518, section 6; RFC 8037).
    ///
    /// # Errors
    /// Says why it can verify nothing here.
    pub(super) fn parse(jwk: &JsonObject) -> Result<Self, &'static str> {
        if jwk.get("d").is_some() {
            return Err("its private part is beside it, so it proves nothing any more");
        }
        match jwk.get("use").map(|used| used.as_str()) {
            None | Some(Some("sig")) => {}
            _ => return Err("it is not for signatures (use)"),
        }
        if let Some(operations) = jwk.get("key_ops")
            && !operations.as_array().is_some_and(|operations| operations.iter().any(|one| one == "verify"))
        {
            return Err("it is not for verifying (key_ops)");
        }
        let kid = match jwk.get("kid").map(|kid| kid.as_str()) {
            None => None,
            Some(Some(kid)) if kid.len() <= MAX_KID_BYTES => Some(kid.to_owned()),
            Some(_) => return Err("its kid is no string of at most 256 bytes"),
        };
        let algorithm = match jwk.get("alg") {
            None => None,
            Some(name) => {
                let named = name.as_str().and_then(|name| name.parse().ok());
                Some(named.ok_or("its alg is not known here")?)
            }
        };
        let public = Public::parse(jwk)?;
        let decoding = public.decoding();
        let key = Self { kid, algorithm, public, decoding, is_withdrawn: AtomicBool::new(false) };
        if algorithm.is_some_and(|algorithm| !key.fits(algorithm)) {
            return Err("its alg is for another type of key");
        }
        Ok(key)
    }

    pub(crate) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether this algorithm may be used with it.
    pub(crate) fn fits(&self, algorithm: Algorithm) -> bool {
        let kind_fits = match self.public {
            Public::Rsa { .. } => matches!(
                algorithm,
                Algorithm::RS256
                    | Algorithm::RS384
                    | Algorithm::RS512
                    | Algorithm::PS256
                    | Algorithm::PS384
                    | Algorithm::PS512
            ),
            Public::P256 { .. } => algorithm == Algorithm::ES256,
            Public::P384 { .. } => algorithm == Algorithm::ES384,
            Public::Ed25519 { .. } => algorithm == Algorithm::EdDSA,
        };
        kind_fits && self.algorithm.is_none_or(|only| only == algorithm)
    }

    pub(crate) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.is_withdrawn.load(Ordering::Acquire)
    }

    pub(super) fn withdraw(&self) {
        self.is_withdrawn.store(true, Ordering::Release);
    }

    /// Whether the issuer means the same key by both.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.kid == other.kid && self.algorithm == other.algorithm && self.public == other.public
    }
}

impl Public {
    fn parse(jwk: &JsonObject) -> Result<Self, &'static str> {
        let bytes = |name: &str| {
            let decoded = jwk.text(name).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
            decoded.ok_or("a part of it is missing, or is no base64url")
        };
        let sized = |name: &str, length: usize| {
            bytes(name).and_then(|bytes| {
                if bytes.len() == length { Ok(bytes) } else { Err("a part of it has a wrong length") }
            })
        };
        match (jwk.text("kty"), jwk.text("crv")) {
            (Some("RSA"), _) => {
                // Some issuers write a zero before the first bit, which is a sign elsewhere.
                let [n, e] = [without_zeros(bytes("n")?), without_zeros(bytes("e")?)];
                if !RSA_MODULUS_BYTES.contains(&n.len()) {
                    return Err("it has fewer than 2,048 or more than 8,192 bits");
                }
                if e.is_empty() || e.len() > MAX_RSA_EXPONENT_BYTES {
                    return Err("its exponent is zero, or has more than 32 bits");
                }
                Ok(Self::Rsa { n, e })
            }
            (Some("EC"), Some("P-256")) => Ok(Self::P256 {
                x: sized("x", P256_COORDINATE_BYTES)?,
                y: sized("y", P256_COORDINATE_BYTES)?,
            }),
            (Some("EC"), Some("P-384")) => Ok(Self::P384 {
                x: sized("x", P384_COORDINATE_BYTES)?,
                y: sized("y", P384_COORDINATE_BYTES)?,
            }),
            (Some("OKP"), Some("Ed25519")) => Ok(Self::Ed25519 { x: sized("x", ED25519_BYTES)? }),
            (Some("oct"), _) => Err("it is symmetric: whoever can verify with it can sign with it"),
            _ => Err("its type (kty, crv) is not known here"),
        }
    }

    fn decoding(&self) -> DecodingKey {
        match self {
            Self::Rsa { n, e } => DecodingKey::from_rsa_raw_components(n, e),
            // An uncompressed point (SEC 1, section 2.3.3), which is what the library calls DER.
            Self::P256 { x, y } | Self::P384 { x, y } => {
                DecodingKey::from_ec_der(&[&[4], &x[..], y].concat())
            }
            Self::Ed25519 { x } => DecodingKey::from_ed_der(x),
        }
    }
}

fn without_zeros(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().skip_while(|byte| *byte == 0).collect()
}
