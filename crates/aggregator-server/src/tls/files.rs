//! The files of TLS, and the configuration of rustls that they make.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};

use crate::config::{ClientName, Config};
use crate::file_stamp::FileStamp;

use super::client_names::NamedClients;
use super::{ALPN_HTTP_1_1, ALPN_HTTP_2, certificate};

/// Why the files of TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not what its option says.
    #[error("{option} {path}: {reason}", path = path.display())]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Each file is good, and the key is another certificate's.
    #[error(
        "--tls-key {key} is not the key of --tls-cert {cert}, whose first certificate has to be the server's own",
        key = key.display(),
        cert = cert.display()
    )]
    Mismatch {
        /// The file with the certificate.
        cert: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
}

/// Where everything is.
#[derive(Debug, Clone)]
pub(super) struct TlsFiles {
    pub(super) cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_names: Vec<ClientName>,
}

/// What the files hold.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) server: Arc<ServerConfig>,
    /// The last second of the server's certificate.
    pub(super) expires: SystemTime,
    /// The files before they were read.
    pub(super) stamps: Stamps,
}

/// Tells the files from those that were there before. `None` if there is no file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamps([Option<FileStamp>; 3]);

impl TlsFiles {
    pub(super) fn of(config: &Config) -> Option<Self> {
        Some(Self {
            cert: config.tls_cert.clone()?,
            key: config.tls_key.clone()?,
            client_ca: config.tls_client_ca.clone(),
            client_names: config.tls_client_san.clone(),
        })
    }

    /// What is there now, behind all symbolic links.
    pub(super) fn stamps(&self) -> Stamps {
        let client_ca = self.client_ca.as_deref().and_then(FileStamp::of);
        Stamps([FileStamp::of(&self.cert), FileStamp::of(&self.key), client_ca])
    }

    /// Reads everything.
    pub(super) fn load(&self) -> Result<Loaded, TlsError> {
        let stamps = self.stamps();
        let provider = Arc::new(ring::default_provider());
        let chain = certificates("--tls-cert", &self.cert)?;
        let expires = chain.first().and_then(certificate::expires).ok_or_else(|| {
            fault("--tls-cert", &self.cert, "its first certificate is no X.509 certificate")
        })?;
        let key = self.certified_key(chain, &provider)?;
        let clients = self.clients(&provider)?;
        let asks_clients = clients.is_some();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the cipher suites of TLS 1.2 and 1.3");
        let server = match clients {
            Some(clients) => server.with_client_cert_verifier(clients),
            None => server.with_no_client_auth(),
        };
        let mut server = server.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        server.alpn_protocols = vec![ALPN_HTTP_2.to_vec(), ALPN_HTTP_1_1.to_vec()];
        if asks_clients {
            // A session that is resumed is not verified again, so a certificate could be used after it has expired.
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
        }
        Ok(Loaded { server: Arc::new(server), expires, stamps })
    }

    fn certified_key(
        &self,
        chain: Vec<CertificateDer<'static>>,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, TlsError> {
        let text = read("--tls-key", &self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
            let reason = match error {
                pem::Error::NoItemsFound => no_key(&text).to_owned(),
                error => in_words(&error),
            };
            fault("--tls-key", &self.key, reason)
        })?;
        CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { cert: self.cert.clone(), key: self.key.clone() }
            }
            Error::InvalidCertificate(_) => {
                fault("--tls-cert", &self.cert, format!("its first certificate cannot be used: {error}"))
            }
            error => fault("--tls-key", &self.key, format!("the key cannot be used: {error}")),
        })
    }

    /// What clients have to prove, if anything.
    fn clients(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        const OPTION: &str = "--tls-client-ca";
        let Some(path) = &self.client_ca else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(OPTION, path)? {
            let added = roots.add(certificate);
            added.map_err(|error| fault(OPTION, path, format!("a certificate cannot be used: {error}")))?;
        }
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| fault(OPTION, path, error.to_string()))?;
        Ok(Some(if self.client_names.is_empty() {
            chain
        } else {
            Arc::new(NamedClients { chain, names: self.client_names.clone() })
        }))
    }
}

fn fault(option: &'static str, path: &Path, reason: impl Into<String>) -> TlsError {
    TlsError::File { option, path: path.to_owned(), reason: reason.into() }
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let text = std::fs::read(path).map_err(|error| fault(option, path, error.to_string()))?;
    if text.trim_ascii().is_empty() {
        return Err(fault(option, path, "the file is empty"));
    }
    Ok(text)
}

/// The certificates of a PEM file: at least one.
fn certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(option, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| fault(option, path, in_words(&error)))?;
    if certificates.is_empty() {
        let reason = if PrivateKeyDer::from_pem_slice(&text).is_ok() {
            "there is a private key in it, and no certificate"
        } else {
            "there is no certificate in it (-----BEGIN CERTIFICATE-----)"
        };
        return Err(fault(option, path, reason));
    }
    Ok(certificates)
}

/// Why a file has no key that can be used.
fn no_key(text: &[u8]) -> &'static str {
    let has = |label: &[u8]| text.windows(label.len()).any(|window| window == label);
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        "the key is encrypted: decrypt it, and let the file's mode protect it"
    } else if has(b"BEGIN CERTIFICATE") {
        "there is a certificate in it, and no private key"
    } else {
        "there is no private key in it (-----BEGIN PRIVATE KEY-----)"
    }
}

/// The error in words: rustls shows lines of the file as lists of numbers.
fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it is cut off: a line -----END …----- is missing".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a line -----BEGIN …----- is malformed".to_owned(),
        pem::Error::Base64Decode(_) => "what stands between its lines ----- is not base64".to_owned(),
        other => other.to_string(),
    }
}
