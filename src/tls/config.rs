//! TLS configurations made from files: what a file must be, and errors that name the file and the cause.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{ClientFiles, ServerFiles};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};

use crate::sandbox;

/// Largest file of certificates: a bundle of 300 authorities has about 500 KiB.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The one protocol spoken inside TLS.
pub const ALPN: &[u8] = b"http/1.1";

/// Why no configuration can be made from these files. The message names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {error}", file.display())]
    Unreadable {
        file: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("{} is not a regular file of at most 4 MiB", file.display())]
    NotAFile { file: PathBuf },
    #[error(
        "{} can be read or written by other users (mode {mode:04o}); a private key needs mode 0600: chmod 600 {}",
        file.display(),
        file.display()
    )]
    KeyMode { file: PathBuf, mode: u32 },
    #[error("{} holds no {what} in PEM form{hint}", file.display())]
    Empty {
        file: PathBuf,
        what: &'static str,
        hint: &'static str,
    },
    #[error("{}: {what} number {number} cannot be read: {error}", file.display())]
    Malformed {
        file: PathBuf,
        what: &'static str,
        number: usize,
        error: String,
    },
    #[error("{} and {} {}", cert.display(), key.display(), not_a_pair(error))]
    KeyMismatch {
        cert: PathBuf,
        key: PathBuf,
        error: rustls::Error,
    },
    #[error(
        "{} needs {} beside it: a certificate and its key are used together",
        given,
        missing
    )]
    Incomplete {
        given: &'static str,
        missing: &'static str,
    },
    #[error("the system has no certificate authorities ({0}); name a file of them")]
    NoSystemRoots(String),
    #[error("{}: {error}", file.display())]
    Verifier { file: PathBuf, error: String },
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("{} {what}", file.display())]
    Validity { file: PathBuf, what: String },
}

fn not_a_pair(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => "do not belong together".to_owned(),
        other => format!("cannot be used together: {other}"),
    }
}

// === impl Error ===

impl Error {
    /// The file that it is about; of two the private key.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Error::Unreadable { file, .. }
            | Error::NotAFile { file }
            | Error::KeyMode { file, .. }
            | Error::Empty { file, .. }
            | Error::Malformed { file, .. }
            | Error::KeyMismatch { key: file, .. }
            | Error::Verifier { file, .. }
            | Error::Validity { file, .. } => Some(file),
            Error::Incomplete { .. } | Error::NoSystemRoots(_) | Error::Rustls(_) => None,
        }
    }
}

/// The cryptography of all TLS here.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A client of TLS 1.3 or 1.2 that checks the server's name and, where it has one, shows its own certificate.
pub fn client_config(files: &ClientFiles) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let (roots, file) = match &files.ca {
        Some(file) => (read_roots(file)?, file.clone()),
        None => (
            system_roots()?,
            PathBuf::from("the system's certificate authorities"),
        ),
    };
    let verifier: Arc<dyn ServerCertVerifier> =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| Error::Verifier {
                file,
                error: error.to_string(),
            })?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(read_certificates(cert)?, read_key(key)?)
            .map_err(|error| Error::KeyMismatch {
                cert: cert.clone(),
                key: key.clone(),
                error,
            })?,
        (Some(_), None) => {
            return Err(Error::Incomplete {
                given: "cert",
                missing: "key",
            });
        }
        (None, Some(_)) => {
            return Err(Error::Incomplete {
                given: "key",
                missing: "cert",
            });
        }
        (None, None) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// A server of TLS 1.3 alone that requires a client certificate. No session is resumed and no early data is taken, so
/// that every connection is checked against the authorities and revocations of its own time.
pub fn server_config(
    files: &ServerFiles,
    wrap: impl FnOnce(Arc<dyn ClientCertVerifier>) -> Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, Error> {
    let provider = provider();
    let verifier = wrap(client_verifier(files, &provider)?);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(read_certificates(&files.cert)?, read_key(&files.key)?)
        .map_err(|error| Error::KeyMismatch {
            cert: files.cert.clone(),
            key: files.key.clone(),
            error,
        })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// What verifies clients: the authorities and, where there is a file of them, the revocations of their own
/// certificates.
fn client_verifier(
    files: &ServerFiles,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let roots = Arc::new(read_roots(&files.client_ca)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
        // Hundreds of authorities would not fit into the request for a certificate.
        .clear_root_hint_subjects();
    let (builder, file) = match &files.crl {
        Some(file) => (
            builder
                .with_crls(read_crls(file)?)
                .only_check_end_entity_revocation(),
            file,
        ),
        None => (builder, &files.client_ca),
    };
    builder.build().map_err(|error| Error::Verifier {
        file: file.clone(),
        error: error.to_string(),
    })
}

/// The certificates of a PEM file, in its order.
pub fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let hint = "; it begins with -----BEGIN CERTIFICATE-----";
    sections(file, "certificate", hint)
}

pub(super) fn read_crls(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
    let hint = "; it begins with -----BEGIN X509 CRL-----";
    sections(file, "certificate revocation list", hint)
}

/// The private key of a PEM file that no other user may touch.
fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(file)
            .map_err(|error| unreadable(file, error))?
            .permissions()
            .mode()
            & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::KeyMode {
                file: file.to_owned(),
                mode,
            });
        }
    }
    let hint = "; an encrypted key must be decrypted first";
    let mut keys: Vec<PrivateKeyDer<'static>> = sections(file, "private key", hint)?;
    Ok(keys.swap_remove(0))
}

fn read_roots(file: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in read_certificates(file)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| Error::Malformed {
            file: file.to_owned(),
            what: "certificate authority",
            number: index + 1,
            error: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A system's store may hold old certificates that cannot be parsed; they are as good as absent.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found
            .errors
            .first()
            .map_or_else(|| "none found".to_owned(), |error| error.to_string());
        return Err(Error::NoSystemRoots(why));
    }
    Ok(roots)
}

/// All sections of one kind; at least one.
fn sections<T: PemObject>(
    file: &Path,
    what: &'static str,
    hint: &'static str,
) -> Result<Vec<T>, Error> {
    let bytes = read(file)?;
    let mut found = Vec::new();
    for (index, section) in T::pem_slice_iter(&bytes).enumerate() {
        found.push(section.map_err(|error| Error::Malformed {
            file: file.to_owned(),
            what,
            number: index + 1,
            error: error.to_string(),
        })?);
    }
    if found.is_empty() {
        return Err(Error::Empty {
            file: file.to_owned(),
            what,
            hint,
        });
    }
    Ok(found)
}

/// A regular file of a bounded size: a FIFO would never end.
fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let metadata = fs::metadata(file).map_err(|error| unreadable(file, error))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(Error::NotAFile {
            file: file.to_owned(),
        });
    }
    let mut bytes = Vec::new();
    sandbox::open(file)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|error| unreadable(file, error))?;
    Ok(bytes)
}

fn unreadable(file: &Path, error: io::Error) -> Error {
    Error::Unreadable {
        file: file.to_owned(),
        error,
    }
}
