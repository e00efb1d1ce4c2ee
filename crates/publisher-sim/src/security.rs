//! Keys and certificates, which come from files: everybody on the machine can read arguments.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aggregator_client::Builder;
use clap::Args;
use thiserror::Error;

/// The variable with the key itself, where `--key-file` is not given.
pub const KEY_VARIABLE: &str = "PUBLISHER_KEY";

/// Whom to trust, and how to prove who this is.
#[derive(Debug, Clone, Args)]
pub struct SecurityArgs {
    /// A file with the key to publish and read with; without it, the key in the variable PUBLISHER_KEY, if any
    #[arg(long, env = "PUBLISHER_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// The key in the variable PUBLISHER_KEY. It is never an argument.
    #[arg(skip)]
    pub key: Option<Key>,

    /// A PEM file of certificates: servers that one of these vouches for are trusted, beside those the system trusts
    #[arg(long, env = "PUBLISHER_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// A PEM file with the certificate to present to a server that asks for one
    #[arg(long, env = "PUBLISHER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// A PEM file with the private key of --tls-cert
    #[arg(long, env = "PUBLISHER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// A key, which no output shows.
#[derive(Clone)]
pub struct Key(String);

impl Key {
    /// The key in a text, without the white space around it; `None` if there is nothing else.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "who has a key hands it over")]
    pub fn new(text: String) -> Option<Self> {
        let key = text.trim();
        (!key.is_empty()).then(|| Self(key.to_owned()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A file that cannot be used.
#[derive(Debug, Error)]
pub enum SecurityError {
    /// It cannot be read.
    #[error("{option} {path}: {source}", path = path.display())]
    Unreadable {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no key in it.
    #[error("--key-file {}: there is no key in it", .0.display())]
    NoKey(PathBuf),
}

impl SecurityArgs {
    /// Reads the files, and gives the client what is in them.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn apply(&self, mut builder: Builder) -> Result<Builder, SecurityError> {
        if let Some(Key(key)) = self.key()? {
            builder = builder.key(key);
        }
        if let Some(path) = &self.ca_file {
            builder = builder.ca_certificates(read("--ca-file", path)?);
        }
        if let (Some(chain), Some(key)) = (&self.tls_cert, &self.tls_key) {
            builder = builder.client_certificate(read("--tls-cert", chain)?, read("--tls-key", key)?);
        }
        Ok(builder)
    }

    fn key(&self) -> Result<Option<Key>, SecurityError> {
        let Some(path) = &self.key_file else { return Ok(self.key.clone()) };
        let text = String::from_utf8_lossy(&read("--key-file", path)?).into_owned();
        Key::new(text).map(Some).ok_or_else(|| SecurityError::NoKey(path.clone()))
    }
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, SecurityError> {
    std::fs::read(path).map_err(|source| SecurityError::Unreadable { option, path: path.to_owned(), source })
}
