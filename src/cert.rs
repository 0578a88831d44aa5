//! A small certificate authority for gateways and their clients: it issues, shows and revokes certificates.
//!
//! Keys are ECDSA P-256, in files of mode 0600. Nothing is overwritten unless that is asked for, and then by renaming, so
//! that a gateway that watches the files never reads half of one. The authority is a directory with `ca.pem`, `ca.key`
//! and `ca.crl`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::tls::config::provider;
use crate::tls::identity::Identity;
use crate::tls::{self, read_certificates};

/// Clocks of clients may be this much behind.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

const DAY: u64 = 24 * 3600;

/// Why a certificate was not issued, shown or revoked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} exists already; --force replaces it", .0.display())]
    Exists(PathBuf),
    #[error("{}: {error}", file.display())]
    Io {
        file: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("{0}")]
    Name(String),
    #[error("{}: {what}", file.display())]
    Unreadable { file: PathBuf, what: String },
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
}

/// Where files go, and whether they may replace others.
#[derive(Clone, Debug)]
pub struct CertificateFolder {
    pub folder: PathBuf,
    pub force: bool,
}

/// A certificate in words.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    pub subject: String,
    pub issuer: String,
    pub serial: String,
    /// By which a gateway knows its owner; absent where it would be refused.
    pub identity: Option<String>,
    pub names: Vec<String>,
    pub usages: Vec<&'static str>,
    pub authority: bool,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub valid_now: bool,
}

/// Creates an authority: `ca.pem`, `ca.key` and an empty `ca.crl`.
pub fn create_authority(
    output: &CertificateFolder,
    name: &str,
    days: u32,
) -> Result<Vec<PathBuf>, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = params(Vec::new(), name, days);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    let crl = revocation_list(&Issuer::from_params(&params, &key), Vec::new(), days)?;
    write_all(
        output,
        &[
            ("ca.pem", certificate.pem()),
            ("ca.key", key.serialize_pem()),
            ("ca.crl", crl),
        ],
    )
}

/// Issues a certificate for a server of these DNS names; the first one names the files.
pub fn issue_server(
    authority: &Path,
    output: &CertificateFolder,
    names: &[String],
    days: u32,
) -> Result<Vec<PathBuf>, Error> {
    let mut alternatives = Vec::new();
    for name in names {
        alternatives.push(match name.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(dns_name(name)?),
        });
    }
    let first = names
        .first()
        .ok_or_else(|| Error::Name("a server needs at least one DNS name".to_owned()))?;
    issue(
        authority,
        output,
        first,
        alternatives,
        ExtendedKeyUsagePurpose::ServerAuth,
        days,
    )
}

/// Issues a certificate for a client: `identity` is a URI or a DNS name.
pub fn issue_client(
    authority: &Path,
    output: &CertificateFolder,
    identity: &str,
    days: u32,
) -> Result<Vec<PathBuf>, Error> {
    let name = match identity.split_once(':') {
        Some((scheme, rest)) => {
            let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            let plain = rest.bytes().all(|b| b.is_ascii_graphic() && b != b'*');
            if !is_scheme || rest.trim_matches('/').is_empty() || !plain {
                return Err(Error::Name(format!(
                    "`{}` is not a URI; one looks like spiffe://example.org/alice",
                    identity.escape_debug()
                )));
            }
            SanType::URI(Ia5String::try_from(identity)?)
        }
        None => SanType::DnsName(dns_name(identity)?),
    };
    issue(
        authority,
        output,
        identity,
        vec![name],
        ExtendedKeyUsagePurpose::ClientAuth,
        days,
    )
}

/// Adds a certificate of this authority to its `ca.crl`. Returns the path of the list.
pub fn revoke(authority: &Path, certificate: &Path) -> Result<PathBuf, Error> {
    let (pem, key) = authority_files(authority)?;
    let issuer = Issuer::from_ca_cert_pem(&pem, key)?;
    let unreadable = |file: &Path, what: &str| Error::Unreadable {
        file: file.to_owned(),
        what: what.to_owned(),
    };
    let ca = read_certificates(&authority.join("ca.pem"))?;
    let (_, ca) = X509Certificate::from_der(&ca[0])
        .map_err(|_| unreadable(&authority.join("ca.pem"), "not a certificate"))?;
    let leaf = read_certificates(certificate)?;
    let (_, leaf) = X509Certificate::from_der(&leaf[0])
        .map_err(|_| unreadable(certificate, "not a certificate"))?;
    if leaf.is_ca() {
        return Err(unreadable(
            certificate,
            "is an authority: a gateway looks for clients in the list, and takes the authorities of its `client_ca`",
        ));
    }
    // Authorities may have the same name, and those that are made here do unless they are given one.
    if leaf.issuer().as_raw() != ca.subject().as_raw() || !is_signed_by(&leaf, &ca) {
        return Err(unreadable(
            certificate,
            "was not issued by this authority, which cannot revoke it",
        ));
    }
    let list = authority.join("ca.crl");
    let mut revoked = earlier_revocations(&list)?;
    let serial = SerialNumber::from_slice(leaf.raw_serial());
    if !revoked.iter().any(|one| one.serial_number == serial) {
        revoked.push(RevokedCertParams {
            serial_number: serial,
            revocation_time: at(now()),
            reason_code: None,
            invalidity_date: None,
        });
    }
    let left = ca.validity().not_after.timestamp() - Timestamp::now().as_second();
    let days = u32::try_from(left / DAY as i64).unwrap_or(0).max(1);
    let crl = revocation_list(&issuer, revoked, days)?;
    replace(&list, &crl)?;
    Ok(list)
}

/// Whether the signature was made with the authority's key.
fn is_signed_by(certificate: &X509Certificate<'_>, ca: &X509Certificate<'_>) -> bool {
    let key = &ca.public_key().subject_public_key.data;
    let signed = certificate.tbs_certificate.as_ref();
    let signature = &certificate.signature_value.data;
    // An algorithm that does not belong to the key refuses it.
    provider()
        .signature_verification_algorithms
        .all
        .iter()
        .any(|algorithm| {
            let verified = algorithm.verify_signature(key, signed, signature);
            verified.is_ok()
        })
}

/// Describes every certificate of a file.
pub fn describe(file: &Path) -> Result<Vec<Description>, Error> {
    let mut described = Vec::new();
    for certificate in read_certificates(file)? {
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|error| Error::Unreadable {
                file: file.to_owned(),
                what: format!("not a certificate: {error}"),
            })?;
        let time = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        let validity = parsed.validity();
        let usages = parsed
            .extended_key_usage()
            .ok()
            .flatten()
            .map(|usage| usage.value);
        described.push(Description {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            serial: parsed.raw_serial_as_string(),
            identity: Identity::of(&certificate)
                .ok()
                .map(|identity| identity.as_str().to_owned()),
            names: names(&parsed),
            usages: [
                ("server", usages.is_some_and(|usage| usage.server_auth)),
                ("client", usages.is_some_and(|usage| usage.client_auth)),
            ]
            .into_iter()
            .filter_map(|(name, is_set)| is_set.then_some(name))
            .collect(),
            authority: parsed.is_ca(),
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
            valid_now: validity.is_valid(),
        });
    }
    Ok(described)
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.iter());
    names
        .into_iter()
        .flatten()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
            GeneralName::URI(uri) => Some(format!("URI:{uri}")),
            GeneralName::IPAddress([a, b, c, d]) => Some(format!("IP:{a}.{b}.{c}.{d}")),
            GeneralName::IPAddress(bytes) => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|bytes| format!("IP:{}", std::net::Ipv6Addr::from(bytes))),
            _ => None,
        })
        .collect()
}

fn issue(
    authority: &Path,
    output: &CertificateFolder,
    name: &str,
    alternatives: Vec<SanType>,
    purpose: ExtendedKeyUsagePurpose,
    days: u32,
) -> Result<Vec<PathBuf>, Error> {
    let (pem, key) = authority_files(authority)?;
    let issuer = Issuer::from_ca_cert_pem(&pem, key)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = params(alternatives, name, days);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer)?;
    let file = file_name(name);
    write_all(
        output,
        &[
            (&format!("{file}.pem"), certificate.pem()),
            (&format!("{file}.key"), key.serialize_pem()),
        ],
    )
}

fn params(alternatives: Vec<SanType>, name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = alternatives;
    params.distinguished_name = rcgen::DistinguishedName::new();
    // The common name is for people only; X.520 limits it to 64 characters.
    let short: String = name.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, short);
    params.not_before = at(now().saturating_sub(CLOCK_SKEW));
    params.not_after = at(now() + Duration::from_secs(u64::from(days) * DAY));
    params
}

fn revocation_list(
    issuer: &Issuer<'_, impl rcgen::SigningKey>,
    revoked_certs: Vec<RevokedCertParams>,
    days: u32,
) -> Result<String, Error> {
    let params = CertificateRevocationListParams {
        this_update: at(now().saturating_sub(CLOCK_SKEW)),
        next_update: at(now() + Duration::from_secs(u64::from(days) * DAY)),
        // Grows with every edition.
        crl_number: SerialNumber::from(u64::try_from(now().as_millis()).unwrap_or(u64::MAX)),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(issuer)?.pem()?)
}

fn earlier_revocations(file: &Path) -> Result<Vec<RevokedCertParams>, Error> {
    let unreadable = |what: String| Error::Unreadable {
        file: file.to_owned(),
        what,
    };
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(file, error)),
    };
    let der = CertificateRevocationListDer::from_pem_slice(&bytes)
        .map_err(|error| unreadable(error.to_string()))?;
    let (_, list) =
        CertificateRevocationList::from_der(&der).map_err(|error| unreadable(error.to_string()))?;
    let revoked = list.iter_revoked_certificates().map(|one| {
        let seconds = u64::try_from(one.revocation_date.timestamp()).unwrap_or(0);
        RevokedCertParams {
            serial_number: SerialNumber::from_slice(one.raw_serial()),
            revocation_time: at(Duration::from_secs(seconds)),
            reason_code: None,
            invalidity_date: None,
        }
    });
    Ok(revoked.collect())
}

fn authority_files(folder: &Path) -> Result<(String, KeyPair), Error> {
    let read = |name: &str| {
        let file = folder.join(name);
        fs::read_to_string(&file).map_err(|error| io_error(&file, error))
    };
    Ok((read("ca.pem")?, KeyPair::from_pem(&read("ca.key")?)?))
}

fn dns_name(name: &str) -> Result<Ia5String, Error> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(Error::Name(format!(
            "`{}` is not a DNS name (names with `*` are not issued); a client's identity may also be a URI such as spiffe://example.org/alice",
            name.escape_debug()
        )));
    }
    Ok(Ia5String::try_from(name)?)
}

/// A file name made of a DNS name or URI.
fn file_name(name: &str) -> String {
    let path = name.split_once("://").map_or(name, |(_, path)| path);
    let safe = |c: char| match c {
        c if c.is_ascii_alphanumeric() || "._-".contains(c) => c,
        _ => '-',
    };
    path.trim_matches(['/', '.']).chars().map(safe).collect()
}

/// Writes all files or, where one exists already, none.
fn write_all(output: &CertificateFolder, files: &[(&str, String)]) -> Result<Vec<PathBuf>, Error> {
    fs::create_dir_all(&output.folder).map_err(|error| io_error(&output.folder, error))?;
    let paths: Vec<PathBuf> = files
        .iter()
        .map(|(name, _)| output.folder.join(name))
        .collect();
    if !output.force
        && let Some(existing) = paths.iter().find(|path| path.exists())
    {
        return Err(Error::Exists(existing.clone()));
    }
    for (path, (_, text)) in paths.iter().zip(files) {
        replace(path, text)?;
    }
    Ok(paths)
}

/// Writes a file of mode 0600 under a temporary name and renames it.
fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        io_error(path, error)
    })
}

fn io_error(file: &Path, error: io::Error) -> Error {
    Error::Io {
        file: file.to_owned(),
        error,
    }
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// In whole seconds, as certificates have them.
fn at(since_1970: Duration) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(since_1970.as_secs())
}
