//! What is read out of a certificate beyond what rustls verifies.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::config::ClientName;

/// The last second of a certificate; `None` if it is no certificate.
pub(super) fn expires(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let certificate = Certificate::from_der(certificate).ok()?;
    Some(SystemTime::UNIX_EPOCH + certificate.tbs_certificate.validity.not_after.to_unix_duration())
}

/// The subject alternative names of a certificate that are DNS names, URIs or email addresses; none if it has no such
/// names, or is no certificate.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<ClientName> {
    let Ok(certificate) = Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some((_, SubjectAltName(names)))) = certificate.tbs_certificate.get() else { return Vec::new() };
    let known = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(ClientName::Dns(name.to_string())),
        GeneralName::UniformResourceIdentifier(uri) => Some(ClientName::Uri(uri.to_string())),
        GeneralName::Rfc822Name(email) => Some(ClientName::Email(email.to_string())),
        _ => None,
    });
    known.collect()
}
