//! The options of TLS.

use std::path::PathBuf;

use clap::Args;

use crate::config::ClientName;

/// The port speaks TLS where a certificate and its key are given.
#[derive(Debug, Clone, Args)]
pub(super) struct TlsOptions {
    /// Speak TLS with this certificate: a PEM file with the chain of certificates, the server's own one first. It is
    /// read again when it changes
    #[arg(long, global = true, env = "AGGREGATOR_TLS_CERT", value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert: a PEM file, not encrypted
    #[arg(long, env = "AGGREGATOR_TLS_KEY", value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,

    /// Take only clients with a certificate that one of these signed: a PEM file
    #[arg(long, global = true, env = "AGGREGATOR_TLS_CLIENT_CA", value_name = "FILE")]
    pub(super) tls_client_ca: Option<PathBuf>,

    /// Of these clients, take only those whose certificate has exactly this DNS name, URI or email address as a subject
    /// alternative name; may be given several times, or with commas between
    #[arg(long, env = "AGGREGATOR_TLS_CLIENT_SAN", value_name = "NAME", value_delimiter = ',')]
    pub(super) tls_client_san: Vec<ClientName>,
}
