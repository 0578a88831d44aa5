//! Who a certificate names, and how long it is valid.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, OtherError,
    SignatureScheme,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::config::{self, Error};

/// The name a client's certificate gives it: its first URI, else its first DNS name. The common name is never taken: any
/// text can stand there, and authorities do not check it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(Arc<str>);

/// A certificate that names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate has neither a URI nor a DNS name among its subject alternative names")]
pub struct NoIdentity;

/// When a certificate, or a revocation list, begins and ceases to be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// Verifies a client as `inner` does, and refuses certificates without an identity.
#[derive(Debug)]
pub struct IdentityVerifier {
    inner: Arc<dyn ClientCertVerifier>,
}

// === impl Identity ===

impl Identity {
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, NoIdentity> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| NoIdentity)?;
        let names = parsed
            .subject_alternative_name()
            .ok()
            .flatten()
            .ok_or(NoIdentity)?;
        let mut dns = None;
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) if is_plain(uri) => return Ok(Self((*uri).into())),
                GeneralName::DNSName(name) if is_plain(name) => {
                    dns.get_or_insert(*name);
                }
                _ => {}
            }
        }
        dns.map(|name| Self(name.into())).ok_or(NoIdentity)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a pattern means this identity: the same text, or a beginning of it followed by one `*`.
    pub fn matches(&self, pattern: &str) -> bool {
        match pattern.strip_suffix('*') {
            Some(beginning) => self.0.starts_with(beginning),
            None => *self.0 == *pattern,
        }
    }
}

/// Names are compared and logged as text: what is not printable ASCII, or could pass for a pattern, names nobody.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'*')
}

// === impl Validity ===

impl Validity {
    /// The first certificate of a file.
    pub fn of_certificate(file: &Path) -> Result<Self, Error> {
        let certificates = config::read_certificates(file)?;
        let unreadable = |error: String| Error::Malformed {
            file: file.to_owned(),
            what: "certificate",
            number: 1,
            error,
        };
        let (_, parsed) = X509Certificate::from_der(&certificates[0])
            .map_err(|error| unreadable(error.to_string()))?;
        let time = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|error| unreadable(error.to_string()))
        };
        Ok(Self {
            not_before: time(parsed.validity().not_before)?,
            not_after: time(parsed.validity().not_after)?,
        })
    }

    /// Whether it is valid at this time; the error says since or until when it is not.
    pub fn check(&self, file: &Path, now: Timestamp) -> Result<(), Error> {
        let what = if now > self.not_after {
            format!(
                "expired at {}; issue a new one: entryway cert server",
                self.not_after
            )
        } else if now < self.not_before {
            format!(
                "is valid from {} on; is the clock of this machine right?",
                self.not_before
            )
        } else {
            return Ok(());
        };
        Err(Error::Validity {
            file: file.to_owned(),
            what,
        })
    }
}

/// When the next edition of a revocation list is due, if it says so.
pub fn next_update(crl: &[u8]) -> Option<Timestamp> {
    let (_, list) = CertificateRevocationList::from_der(crl).ok()?;
    Timestamp::from_second(list.next_update()?.timestamp()).ok()
}

// === impl IdentityVerifier ===

impl IdentityVerifier {
    pub fn over(inner: Arc<dyn ClientCertVerifier>) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Self { inner })
    }
}

impl ClientCertVerifier for IdentityVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now)?;
        Identity::of(end_entity)
            .map_err(|error| CertificateError::Other(OtherError(Arc::new(error))))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// An identity without a certificate, for tests of what identities may do.
#[cfg(test)]
pub(crate) fn test_identity(name: &str) -> Identity {
    Identity(name.into())
}
