//! The bytes that a client of a gateway sends behind its handshake: no panic, an answer or an end at once, and never a way
//! to anywhere, because nothing listens where the only upstream is.
//!
//! Apart from the other targets, because a build without the feature `gateway` has none.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use entryway::cert::{self, CertificateFolder};
use entryway::events::Log;
use entryway::{app, cli, settings};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What an answer may take on a busy machine; the time for a head that never ends is far longer.
const LIMIT: Duration = Duration::from_secs(4);

/// A running gateway, for as long as the process runs.
struct Started {
    address: SocketAddr,
    client: Arc<rustls::ClientConfig>,
    _folder: tempfile::TempDir,
}

pub fn gateway_request(data: &[u8]) {
    static GATEWAY: OnceLock<Started> = OnceLock::new();
    let gateway = GATEWAY.get_or_init(start);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let began = Instant::now();
    let answer = runtime.block_on(async {
        let stream = TcpStream::connect(gateway.address)
            .await
            .expect("it accepts");
        let name = ServerName::try_from("gw.example").expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&gateway.client));
        let mut tls = connector.connect(name, stream).await.expect("a handshake");
        // It may have said no before it has read all.
        let _ = tls.write_all(data).await;
        let _ = tls.shutdown().await;
        let mut answer = Vec::new();
        let _ = tls.read_to_end(&mut answer).await;
        answer
    });
    let took = began.elapsed();
    assert!(took < LIMIT, "{took:?}");
    assert!(answer.len() < 4096, "{} bytes", answer.len());
    let text = String::from_utf8_lossy(&answer);
    let status = text
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1));
    let is_refusal = status.is_some_and(|status| status.starts_with(['4', '5']));
    assert!(answer.is_empty() || is_refusal, "{text}");
}

fn start() -> Started {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = folder.path();
    let output = CertificateFolder {
        folder: authority.to_owned(),
        force: false,
    };
    cert::create_authority(&output, "fuzz", 30).expect("an authority");
    cert::issue_server(authority, &output, &["gw.example".to_owned()], 30).expect("a server");
    cert::issue_client(authority, &output, "client.example", 30).expect("a client");
    let file = |name: &str| authority.join(name);
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let address = free.expect("a free port");
    let listen = address.to_string();
    let mut words: Vec<OsString> = [
        "entryway",
        "gateway",
        "--listen",
        &listen,
        "--admin",
        "off",
        "--control",
        "off",
        "--zone",
        "none",
        "--probe",
        "off",
        "--endpoint",
        "127.0.0.1:1?name=entry",
    ]
    .map(OsString::from)
    .to_vec();
    for (flag, name) in [
        ("--cert", "gw.example.pem"),
        ("--key", "gw.example.key"),
        ("--client-ca", "ca.pem"),
    ] {
        words.extend([flag.into(), file(name).into_os_string()]);
    }
    let matches = cli::args::command().get_matches_from(words);
    let (_, matches) = matches.subcommand().expect("gateway");
    let loaded = settings::load_gateway(matches, std::iter::empty());
    let loaded = loaded.unwrap_or_else(|report| panic!("{}", report.plain()));
    let (started, starts) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let app = app::start(loaded, Log::default()).expect("it starts");
            started.send(()).expect("somebody waits");
            app.run().await;
        });
    });
    starts.recv().expect("it starts");
    let began = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < 5 * LIMIT, "it does not listen");
        std::thread::yield_now();
    }
    Started {
        address,
        client: Arc::new(client(&file)),
        _folder: folder,
    }
}

fn client(file: &impl Fn(&str) -> std::path::PathBuf) -> rustls::ClientConfig {
    let chain = |path: &Path| -> Vec<CertificateDer<'static>> {
        let certificates = CertificateDer::pem_file_iter(path).expect("a file");
        certificates
            .map(|certificate| certificate.expect("a certificate"))
            .collect()
    };
    let mut roots = rustls::RootCertStore::empty();
    for authority in chain(&file("ca.pem")) {
        roots.add(authority).expect("an authority");
    }
    let key = PrivateKeyDer::from_pem_file(file("client.example.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain(&file("client.example.pem")), key)
        .expect("a client")
}
