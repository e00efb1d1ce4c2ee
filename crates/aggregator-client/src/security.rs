//! Whom the client trusts, and how it proves who it is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};

use crate::builder::BuildError;

/// What [`Builder`](crate::Builder) is told about it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Security {
    /// Certificates in PEM, beside those of the system.
    pub(crate) ca: Option<Vec<u8>>,
    /// A chain of certificates and its private key, both in PEM.
    pub(crate) certificate: Option<(Vec<u8>, Secret<Vec<u8>>)>,
    pub(crate) key: Option<Secret<String>>,
    no_certificate: Arc<NoCertificate>,
}

/// What a client without a certificate answers to a server that asks for one. It remembers that it was asked.
///
/// The server ends such a connection when the client already takes it for made. Its reason is often lost then: the
/// client's HTTP library only says that the connection is no longer there.
#[derive(Debug, Default)]
struct NoCertificate {
    asked: AtomicBool,
}

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Something that no output shows.
#[derive(Clone)]
pub(crate) struct Secret<T>(pub(crate) T);

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Security {
    /// The headers that every request has.
    pub(crate) fn headers(&self) -> Result<HeaderMap, BuildError> {
        let mut headers = HeaderMap::new();
        if let Some(Secret(key)) = &self.key {
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(BuildError::Key);
            }
            let bearer = HeaderValue::try_from(format!("Bearer {key}"));
            let mut bearer = bearer.expect("visible ASCII characters are a header");
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        Ok(headers)
    }

    /// TLS for `https`. The certificates of the system are read only where they are needed.
    pub(crate) fn tls(&self, is_https: bool) -> Result<ClientConfig, BuildError> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has the cipher suites of TLS 1.2 and 1.3")
            .with_root_certificates(self.roots(is_https)?);
        let mut config = match &self.certificate {
            None => config.with_client_cert_resolver(Arc::clone(&self.no_certificate) as _),
            Some((chain, Secret(key))) => {
                let (chain, key) = certificate(chain, key, &provider)?;
                let with_certificate = config.with_client_auth_cert(chain, key);
                with_certificate.map_err(|error| BuildError::ClientCertificate(error.to_string()))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// What servers ask of one client is not said of another one that was built from a clone of its builder.
    pub(crate) fn be_of_its_own(&mut self) {
        self.no_certificate = Arc::default();
    }

    /// Whether a server has asked for a certificate that the client does not have.
    pub(crate) fn lacks_certificate(&self) -> bool {
        self.no_certificate.asked.load(Ordering::Relaxed)
    }

    fn roots(&self, is_https: bool) -> Result<RootCertStore, BuildError> {
        let mut roots = RootCertStore::empty();
        if is_https {
            // On most systems, rustls cannot parse some of the certificates: they are left out.
            let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if let Some(pem) = &self.ca {
            let certificates = certificates(pem).map_err(BuildError::Ca)?;
            for certificate in certificates {
                roots.add(certificate).map_err(|error| BuildError::Ca(error.to_string()))?;
            }
        }
        Ok(roots)
    }
}

type Certificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn certificate(chain: &[u8], key: &[u8], provider: &CryptoProvider) -> Result<Certificate, BuildError> {
    let chain = certificates(chain).map_err(BuildError::ClientCertificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        BuildError::ClientCertificate("there is no private key in PEM, or it is encrypted".to_owned())
    })?;
    CertifiedKey::from_der(chain.clone(), key.clone_key(), provider).map_err(|error| {
        BuildError::ClientCertificate(match error {
            rustls::Error::InconsistentKeys(_) => "the key is another certificate's".to_owned(),
            error => error.to_string(),
        })
    })?;
    Ok((chain, key))
}

/// The certificates of a PEM text: at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err("there is no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_owned()),
        Err(_) => Err("the PEM is malformed or cut off".to_owned()),
    }
}
