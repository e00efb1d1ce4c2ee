//! Checks of what is read out of certificates: see [`crate::fuzz`].

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::certificate;

/// A certificate of a client.
pub fn client_certificate(data: &[u8]) {
    let der = CertificateDer::from(data);
    let names = certificate::names(&der);
    let expires = certificate::expires(&der);
    assert!(names.is_empty() || expires.is_some(), "what is no certificate has names: {names:?}");
    assert!(expires.is_none_or(|end| end >= SystemTime::UNIX_EPOCH));
    assert!(names.iter().all(|name| name.to_string().len() <= data.len()));
}
