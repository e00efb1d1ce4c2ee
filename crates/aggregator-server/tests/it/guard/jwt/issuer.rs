//! An issuer of tokens: its keys, which are made anew for each test, and what it signs. Nothing of this uses the library
//! that the server verifies with.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aggregator_server::config::JwksLocation;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(super) const ISSUER: &str = "https://issuer.example/realm";
pub(super) const AUDIENCE: &str = "aggregator";

/// A private key with its name.
pub(super) struct SigningKey {
    pub(super) kid: String,
    /// As headers name it.
    pub(super) algorithm: &'static str,
    signer: Signer,
}

enum Signer {
    /// In PKCS #8.
    Ec(Vec<u8>),
    Ed(Ed25519KeyPair),
    Rsa(&'static Rsa),
}

/// An RSA key, which takes long to be made.
pub(super) struct Rsa {
    pair: RsaKeyPair,
    pub(super) public_pem: Vec<u8>,
}

impl SigningKey {
    /// For ES256.
    pub(super) fn ec(kid: &str) -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self { kid: kid.to_owned(), algorithm: "ES256", signer: Signer::Ec(key.as_ref().to_vec()) }
    }

    /// For EdDSA.
    pub(super) fn ed(kid: &str) -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap();
        Self { kid: kid.to_owned(), algorithm: "EdDSA", signer: Signer::Ed(key) }
    }

    /// For RS256 or PS256; `None` where no RSA key can be made.
    pub(super) fn rsa(kid: &str, algorithm: &'static str) -> Option<Self> {
        Some(Self { kid: kid.to_owned(), algorithm, signer: Signer::Rsa(rsa()?) })
    }

    pub(super) fn jwk(&self) -> Value {
        let mut jwk = match &self.signer {
            Signer::Ec(_) => {
                let key = self.ec_pair(&ECDSA_P256_SHA256_FIXED_SIGNING);
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y)})
            }
            Signer::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(key.public_key())})
            }
            Signer::Rsa(key) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(key.pair.public());
                json!({"kty": "RSA", "n": base64url(n), "e": base64url(e)})
            }
        };
        jwk["kid"] = json!(self.kid);
        jwk
    }

    pub(super) fn header(&self) -> Value {
        json!({"typ": "JWT", "alg": self.algorithm, "kid": self.kid})
    }

    /// A token with these claims.
    pub(super) fn token(&self, claims: &Value) -> String {
        self.sign(&self.header().to_string(), &claims.to_string())
    }

    /// A token with this header and these claims, whatever they are.
    pub(super) fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64url(header), base64url(claims));
        let signature = self.signature(message.as_bytes());
        format!("{message}.{}", base64url(signature))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Ec(_) => {
                let key = self.ec_pair(&ECDSA_P256_SHA256_FIXED_SIGNING);
                key.sign(&random, message).unwrap().as_ref().to_vec()
            }
            Signer::Ed(key) => key.sign(message).as_ref().to_vec(),
            Signer::Rsa(key) => {
                let mut signature = vec![0; key.pair.public().modulus_len()];
                let padding: &dyn ring::signature::RsaEncoding =
                    if self.algorithm == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                key.pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// A token of an EC key whose signature has the form that certificates have.
    pub(super) fn token_with_der_signature(&self, claims: &Value) -> String {
        let token = self.token(claims);
        let (message, _) = token.rsplit_once('.').unwrap();
        let signature =
            self.ec_pair(&ECDSA_P256_SHA256_ASN1_SIGNING).sign(&SystemRandom::new(), message.as_bytes());
        format!("{message}.{}", base64url(signature.unwrap()))
    }

    fn ec_pair(&self, form: &'static ring::signature::EcdsaSigningAlgorithm) -> EcdsaKeyPair {
        let Signer::Ec(key) = &self.signer else { panic!("no EC key") };
        EcdsaKeyPair::from_pkcs8(form, key, &SystemRandom::new()).unwrap()
    }
}

/// The one RSA key of these tests.
pub(super) fn rsa() -> Option<&'static Rsa> {
    static RSA: OnceLock<Option<Rsa>> = OnceLock::new();
    RSA.get_or_init(|| {
        let directory = TempDir::new().unwrap();
        let openssl = |arguments: &[&str]| {
            let mut command = Command::new("openssl");
            let output =
                command.args(arguments).current_dir(&directory).stderr(Stdio::null()).output().ok()?;
            output.status.success().then_some(output.stdout)
        };
        let made = openssl(&["genpkey", "-algorithm", "RSA", "-out", "key.pem"])
            .and_then(|_| openssl(&["pkey", "-in", "key.pem", "-pubout"]));
        let Some(public_pem) = made else {
            test_skip::skip("no openssl is installed", "AGGREGATOR_REQUIRE_OPENSSL");
            return None;
        };
        let key = std::fs::read(directory.path().join("key.pem")).unwrap();
        let key = PrivatePkcs8KeyDer::from_pem_slice(&key).unwrap();
        Some(Rsa { pair: RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap(), public_pem })
    })
    .as_ref()
}

pub(super) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// In seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The claims of a good token with these scopes.
pub(super) fn claims(scopes: &[&str]) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "me", "exp": now() + 600, "scope": scopes.join(" ")})
}

/// A set of keys.
pub(super) fn jwks(keys: &[&SigningKey]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

/// An issuer with one key, and a file with it.
pub(crate) struct Issuer {
    pub(super) key: SigningKey,
    directory: TempDir,
}

impl Issuer {
    pub(super) fn new() -> Self {
        Self::with_key(SigningKey::ec("first"))
    }

    pub(super) fn with_key(key: SigningKey) -> Self {
        let issuer = Self { key, directory: TempDir::new().unwrap() };
        issuer.publish(&jwks(&[&issuer.key]));
        issuer
    }

    /// Replaces the file.
    pub(super) fn publish(&self, set: &str) {
        let new = self.directory.path().join("new");
        std::fs::write(&new, set).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("jwks.json")
    }

    pub(super) fn location(&self) -> JwksLocation {
        JwksLocation::file(self.path())
    }

    /// A token with these scopes.
    pub(crate) fn token(&self, scopes: &[&str]) -> String {
        self.key.token(&claims(scopes))
    }
}
