//! The TLS of a server, read again when its files change: certificate, key, client authorities, revocations.
//!
//! A set of files is taken as a whole or not at all: while one of them is invalid, the previous set stays in use and the
//! error is reported once for each change.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, ServerConfig};

use super::ServerFiles;
use super::config::{self, Error};
use super::identity::{IdentityVerifier, Validity, next_update};
use crate::sys::file_stamp::FileStamp;

/// One consistent set of files, loaded.
#[derive(Debug)]
pub struct ServerTls {
    pub config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    own: Validity,
    /// File and time at which its content ceases to be valid.
    pub expiries: Vec<(PathBuf, Timestamp)>,
}

/// The set in use, and the files it comes from.
#[derive(Debug)]
pub struct CertificateReloader {
    files: ServerFiles,
    current: ArcSwap<ServerTls>,
    /// What the files looked like when they were last read, successfully or not.
    seen: Mutex<Vec<FileStamp>>,
}

// === impl ServerTls ===

impl ServerTls {
    /// Loads and validates a set of files. An own certificate that is not valid now is an error.
    pub fn load(files: &ServerFiles) -> Result<Self, Error> {
        let mut verifier = None;
        let config = config::server_config(files, |inner| {
            let wrapped = IdentityVerifier::over(inner);
            verifier = Some(Arc::clone(&wrapped));
            wrapped
        })?;
        let own = Validity::of_certificate(&files.cert)?;
        own.check(&files.cert, Timestamp::now())?;
        let mut expiries = vec![
            (files.cert.clone(), own.not_after),
            (
                files.client_ca.clone(),
                Validity::of_certificate(&files.client_ca)?.not_after,
            ),
        ];
        if let Some(crl) = &files.crl {
            let due = config::read_crls(crl)?
                .iter()
                .filter_map(|list| next_update(list))
                .min();
            expiries.extend(due.map(|due| (crl.clone(), due)));
        }
        Ok(Self {
            config: Arc::new(config),
            verifier: verifier.ok_or(Error::Rustls(rustls::Error::General(
                "no verifier".to_owned(),
            )))?,
            own,
            expiries,
        })
    }

    /// Whether the own certificate is still valid.
    pub fn is_valid(&self) -> bool {
        Timestamp::now() <= self.own.not_after
    }

    /// Whether a client that was accepted earlier would be accepted now; the error says why not.
    pub fn still_accepts(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        self.verifier
            .verify_client_cert(leaf, intermediates, UnixTime::now())
            .map(drop)
    }
}

// === impl Reloader ===

impl CertificateReloader {
    pub fn new(files: ServerFiles) -> Result<Self, Error> {
        // Looked at before reading: a change while they are read is seen as one.
        let seen = stamps(&files);
        let current = ServerTls::load(&files)?;
        Ok(Self {
            files,
            current: ArcSwap::from_pointee(current),
            seen: Mutex::new(seen),
        })
    }

    pub fn current(&self) -> Arc<ServerTls> {
        self.current.load_full()
    }

    /// Reads the files again.
    pub fn reload(&self) -> Result<(), Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamps(&self.files);
        self.current.store(Arc::new(ServerTls::load(&self.files)?));
        Ok(())
    }

    /// Reads the files again if one of them has changed since they were last read.
    pub fn reload_if_changed(&self) -> Option<Result<(), Error>> {
        let changed = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            *seen != stamps(&self.files)
        };
        changed.then(|| self.reload())
    }
}

fn stamps(files: &ServerFiles) -> Vec<FileStamp> {
    let paths = [&files.cert, &files.key, &files.client_ca];
    paths
        .into_iter()
        .chain(&files.crl)
        .map(|file| FileStamp::of(file))
        .collect()
}

/// The result label of a refused handshake, and of a client that is refused later.
pub fn refusal_label(error: &rustls::Error) -> &'static str {
    let rustls::Error::InvalidCertificate(error) = error else {
        return match error {
            rustls::Error::NoCertificatesPresented => "no_certificate",
            _ => "protocol",
        };
    };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "not_yet_valid"
        }
        CertificateError::Revoked => "revoked",
        // Issued below an authority for which there is no list: not one whose clients are accepted.
        CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. }
        | CertificateError::UnknownIssuer
        | CertificateError::BadSignature => "unknown_ca",
        CertificateError::BadEncoding => "protocol",
        // Purpose, names, algorithms, critical extensions: the certificate may not be used for this.
        _ => "usage",
    }
}
