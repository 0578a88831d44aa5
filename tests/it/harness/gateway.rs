//! `entryway gateway` as a process, its certificates, and clients of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::LONG;
use super::child::{Process, command, run};

/// The name in its certificate.
pub const GATEWAY: &str = "gw.example";
/// The identity of its client.
pub const CLIENT: &str = "spiffe://corp/alice";

/// Certificates in a folder, made by `entryway cert`.
pub struct Pki {
    folder: tempfile::TempDir,
}

impl Pki {
    /// An authority, a certificate for the gateway and one for its client.
    pub async fn new() -> Self {
        let pki = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        pki.cert(&["ca", "--out", &pki.path("")]).await;
        pki.cert(&["server", "--ca", &pki.path(""), "--dns", GATEWAY])
            .await;
        pki.cert(&["client", "--ca", &pki.path(""), "--identity", CLIENT])
            .await;
        pki
    }

    /// `entryway cert` with these arguments; what it printed.
    pub async fn cert(&self, args: &[&str]) -> String {
        let (code, out, err) = run(&[&["cert"], args].concat()).await;
        assert_eq!(code, 0, "{args:?}: {err}");
        out
    }

    /// The path of one of its files.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The text of one of its files.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Its authority, to sign with.
    pub fn issuer(&self) -> Issuer<'static, KeyPair> {
        let key = KeyPair::from_pem(&self.read("ca.key")).unwrap();
        Issuer::from_ca_cert_pem(&self.read("ca.pem"), key).unwrap()
    }

    /// The certificate of its client.
    pub fn alice(&self) -> Shown {
        Shown::read(self, "corp-alice")
    }
}

/// What a client shows: its chain, leaf first, and the key it signs with.
pub struct Shown {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Shown {
    /// A certificate and its key in a folder.
    pub fn read(pki: &Pki, name: &str) -> Self {
        use rustls::pki_types::pem::PemObject;
        let chain = CertificateDer::pem_slice_iter(pki.read(&format!("{name}.pem")).as_bytes())
            .map(Result::unwrap)
            .collect();
        let key =
            PrivateKeyDer::from_pem_slice(pki.read(&format!("{name}.key")).as_bytes()).unwrap();
        Self { chain, key }
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A client that shows this, or nothing.
pub fn client_config(pki: &Pki, shown: Option<Shown>) -> rustls::ClientConfig {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pki.read("ca.pem").as_bytes()).unwrap())
        .unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    match shown {
        // Not checked whether they belong together: some clients of the zoo lie.
        Some(Shown { chain, key }) => {
            let key = provider().key_provider.load_private_key(key).unwrap();
            let certified = rustls::sign::CertifiedKey::new(chain, key);
            builder.with_client_cert_resolver(Arc::new(Always(Arc::new(certified))))
        }
        None => builder.with_no_client_auth(),
    }
}

#[derive(Debug)]
struct Always(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Always {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A gateway with one upstream named `prod` behind it.
pub struct Gateway {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its certificates.
    pub pki: Pki,
    admin: String,
}

impl Gateway {
    /// The command line of one before this upstream.
    pub fn arguments(pki: &Pki, upstream: SocketAddr, admin: &str) -> Vec<String> {
        let mut args = vec![
            "gateway".to_owned(),
            "--listen".to_owned(),
            "127.0.0.1:0".to_owned(),
            "--admin".to_owned(),
            admin.to_owned(),
            "--control".to_owned(),
            pki.path("control"),
            "--zone".to_owned(),
            "none".to_owned(),
            "--probe".to_owned(),
            "off".to_owned(),
            "--log-format".to_owned(),
            "json".to_owned(),
            "--log-level".to_owned(),
            "debug".to_owned(),
            "--endpoint".to_owned(),
            format!("{upstream}?name=zone-a"),
        ];
        for (flag, file) in [
            ("--cert", "gw.example.pem"),
            ("--key", "gw.example.key"),
            ("--client-ca", "ca.pem"),
            ("--crl", "ca.crl"),
        ] {
            args.extend([flag.to_owned(), pki.path(file)]);
        }
        args
    }

    /// Starts one; returns once it accepts.
    pub async fn start(pki: Pki, upstream: SocketAddr, more: &[&str]) -> Self {
        Self::prepared(pki, upstream, more, |_| {}).await
    }

    /// The same, with a command that was prepared.
    pub async fn prepared(
        pki: Pki,
        upstream: SocketAddr,
        more: &[&str],
        prepare: impl FnOnce(&mut tokio::process::Command),
    ) -> Self {
        let admin = free_port();
        let mut args = Self::arguments(&pki, upstream, &admin);
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = command(&words);
        prepare(&mut command);
        let process = Process::spawn(command);
        let start = Instant::now();
        let address = loop {
            if let Some(rest) = process.out().split("listening https://").nth(1) {
                break rest.split_whitespace().next().unwrap().parse().unwrap();
            }
            assert!(
                start.elapsed() < LONG,
                "{}\n{}",
                process.out(),
                process.err()
            );
            sleep(Duration::from_millis(10)).await;
        };
        Self {
            process,
            address,
            pki,
            admin,
        }
    }

    /// A TLS connection to it.
    pub async fn tls(&self, config: rustls::ClientConfig) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(GATEWAY).unwrap();
        timeout(
            LONG,
            TlsConnector::from(Arc::new(config)).connect(name, stream),
        )
        .await?
    }

    /// The same, of its client.
    pub async fn alice(&self) -> TlsStream<TcpStream> {
        self.tls(client_config(&self.pki, Some(self.pki.alice())))
            .await
            .unwrap()
    }

    /// Asks for an authority; the stream and the status code.
    pub async fn connect(&self, authority: &str) -> (TlsStream<TcpStream>, u16) {
        let mut tls = self.alice().await;
        let status = ask(
            &mut tls,
            &format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"),
        )
        .await;
        (tls, status)
    }

    /// Its metrics.
    pub async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(&self.admin).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// A `via` to it with these certificate files of a client.
    pub fn via(&self, cert: &str, key: &str, ca: &str) -> String {
        self.via_at(self.address, [cert, key, ca])
    }

    /// Alice's `via` to it, by way of this address.
    pub fn via_through(&self, address: SocketAddr) -> String {
        self.via_at(address, ["corp-alice.pem", "corp-alice.key", "ca.pem"])
    }

    fn via_at(&self, address: SocketAddr, files: [&str; 3]) -> String {
        let [cert, key, ca] = files.map(|file| self.pki.path(file));
        format!(
            "via = {{ url = \"https://{address}\", server_name = \"{GATEWAY}\", ca = {ca:?}, cert = {cert:?}, key = {key:?} }}"
        )
    }

    /// The results of the handshakes that it has refused.
    pub fn refusals(&self) -> Vec<String> {
        let events = self.process.events("gateway.handshake");
        events
            .iter()
            .map(|event| event["result"].as_str().unwrap().to_owned())
            .filter(|result| result != "ok")
            .collect()
    }
}

fn free_port() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().to_string()
}

/// Sends a request head and reads the answer's; 0 where there is none.
pub async fn ask(tls: &mut TlsStream<TcpStream>, head: &str) -> u16 {
    if tls.write_all(head.as_bytes()).await.is_err() {
        return 0;
    }
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        match timeout(LONG, tls.read_u8()).await.expect("no answer") {
            Ok(byte) => answer.push(byte),
            Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&answer);
    text.split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}
