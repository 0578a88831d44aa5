//! The files of a TLS client and of a TLS server, as the settings name them.

use std::path::PathBuf;

/// Files of a TLS client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Authorities to trust; the system's where absent.
    pub ca: Option<PathBuf>,
    /// The client's own certificate and its chain, for servers that ask for one.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Files of a TLS server that asks every client for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Authorities whose clients are accepted.
    pub client_ca: PathBuf,
    /// Revoked certificates.
    pub crl: Option<PathBuf>,
}
