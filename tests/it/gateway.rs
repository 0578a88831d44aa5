//! `entryway gateway` as a process: who gets in, where they get, how connections end, and files that change.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::child::{Process, run};
use crate::harness::gateway::{CLIENT, GATEWAY, Gateway, Pki, Shown, ask, client_config};
use crate::harness::namespace::prepared;
use crate::harness::upstream::{Upstream, reset};
use crate::harness::{Conf, Entryway, LONG, Stage, eventually, no_leaks};

#[tokio::test]
async fn a_client_with_a_certificate_reaches_the_upstream_and_leaves_a_record() {
    let stage = Stage::new().await;
    let gateway = Gateway::start(Pki::new().await, stage.address(), &[]).await;
    // HTTP/1.0 is what Python asks with before 3.12.
    for (authority, version) in [("default:8182", "1.1"), ("zone-a:1", "1.0")] {
        let mut tls = gateway.alice().await;
        let head = format!("CONNECT {authority} HTTP/{version}\r\n\r\n");
        let (status, mut upstream) = tokio::join!(ask(&mut tls, &head), stage.accept());
        assert_eq!(status, 200, "{authority}");
        tls.write_all(b"request").await.unwrap();
        let mut bytes = [0; 7];
        upstream.read_exact(&mut bytes).await.unwrap();
        upstream.write_all(b"an answer").await.unwrap();
        let mut bytes = [0; 9];
        tls.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"an answer");
        tls.shutdown().await.unwrap();
        drop(upstream);
    }
    eventually("two records", || {
        gateway.process.events("conn.close").len() == 2
    })
    .await;
    let closed = gateway.process.events("conn.close");
    assert_eq!(closed[0]["tls.identity"], CLIENT, "{closed:?}");
    let metrics = gateway.metrics().await;
    for line in [
        "entryway_gateway_handshakes_total{result=\"ok\"} 2",
        "entryway_gateway_handshakes_total{result=\"revoked\"} 0",
        "entryway_gateway_requests_total{code=\"200\"} 2",
        "entryway_certificate_expiry_timestamp_seconds{file=\"",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn a_request_gets_the_status_it_deserves_and_no_address_is_ever_dialled() {
    let stage = Stage::new().await;
    // What a client could hope to reach on this host.
    let local = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    local.set_nonblocking(true).unwrap();
    let port = local.local_addr().unwrap().port();
    let gateway = Gateway::start(Pki::new().await, stage.address(), &[]).await;
    for (head, status) in [
        (
            "CONNECT nosuch:80 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            404,
        ),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405),
        (
            format!("GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n"),
            405,
        ),
        (
            "CONNECT default:8182 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
            400,
        ),
        (
            "CONNECT default HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            400,
        ),
        ("nonsense\r\n\r\n".to_owned(), 400),
    ] {
        let mut tls = gateway.alice().await;
        assert_eq!(ask(&mut tls, &head).await, status, "{head}");
    }
    let hosts = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "localhost",
        "localhost.",
        "[::1]",
        "::1",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "0",
        "0.0.0.0",
        "[::]",
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "10.0.0.1",
        "default@127.0.0.1",
        "127.0.0.1#default",
        "127.0.0.1/default",
        "%6cocalhost",
        "127.0.0.1.nip.io",
        "127.000.000.001",
        "127.0.0.1.",
        "[fe80::1%25lo]",
        "default%2elocalhost",
        "①27.0.0.1",
    ];
    for host in hosts {
        let (_, status) = gateway.connect(&format!("{host}:{port}")).await;
        assert!([0, 400, 403, 404].contains(&status), "{host}: {status}");
    }
    assert_eq!(
        local.accept().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    // Nor did anything but allowed requests reach the upstream.
    assert!(
        timeout(Duration::from_millis(50), stage.accept())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_allow_list_decides_by_identity() {
    let stage = Stage::new().await;
    let allow = [
        "--allow",
        "spiffe://corp/bob=default",
        "--allow",
        "spiffe://ops/*=default",
    ];
    let pki = Pki::new().await;
    pki.cert(&[
        "client",
        "--ca",
        &pki.path(""),
        "--identity",
        "spiffe://ops/carol",
    ])
    .await;
    let gateway = Gateway::start(pki, stage.address(), &allow).await;
    assert_eq!(gateway.connect("default:8182").await.1, 403);
    assert_eq!(gateway.connect("nosuch:8182").await.1, 403);
    let carol = Shown::read(&gateway.pki, "ops-carol");
    let mut tls = gateway
        .tls(client_config(&gateway.pki, Some(carol)))
        .await
        .unwrap();
    let head = "CONNECT default:8182 HTTP/1.1\r\nHost: x\r\n\r\n";
    let (status, _upstream) = tokio::join!(ask(&mut tls, head), stage.accept());
    assert_eq!(status, 200);
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_502() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let gateway = Gateway::start(Pki::new().await, nobody, &[]).await;
    assert_eq!(gateway.connect("default:8182").await.1, 502);
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// In order: close_notify, or FIN.
    Fin,
    Broken,
}

async fn end_of(stream: &mut (impl AsyncReadExt + Unpin)) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    match timeout(LONG, stream.read_to_end(&mut bytes))
        .await
        .expect("no end")
    {
        Ok(_) => (bytes, End::Fin),
        Err(_) => (bytes, End::Broken),
    }
}

#[tokio::test]
async fn ends_pass_as_what_they_are_with_all_bytes_before_them() {
    let stage = Stage::new().await;
    let gateway = Gateway::start(Pki::new().await, stage.address(), &[]).await;
    let data = crate::harness::upstream::pattern(0, 200_000);
    let pair = || async {
        let ((tls, status), upstream) = tokio::join!(gateway.connect("default:1"), stage.accept());
        assert_eq!(status, 200);
        (tls, upstream)
    };
    // Client: close_notify and FIN, then the answer still comes.
    let (mut tls, mut upstream) = pair().await;
    let (sent, got) = tokio::join!(
        async {
            tls.write_all(&data).await?;
            tls.shutdown().await
        },
        end_of(&mut upstream)
    );
    sent.unwrap();
    assert!(got.0 == data && got.1 == End::Fin, "{:?}", got.1);
    upstream.write_all(&data).await.unwrap();
    drop(upstream);
    let got = end_of(&mut tls).await;
    assert!(got.0 == data && got.1 == End::Fin, "{:?}", got.1);
    // Upstream: FIN, then the client still sends.
    let (mut tls, mut upstream) = pair().await;
    upstream.write_all(&data).await.unwrap();
    upstream.shutdown().await.unwrap();
    let got = end_of(&mut tls).await;
    assert!(got.0 == data && got.1 == End::Fin, "{:?}", got.1);
    tls.write_all(b"more").await.unwrap();
    tls.shutdown().await.unwrap();
    assert_eq!(end_of(&mut upstream).await, (b"more".to_vec(), End::Fin));
    // Upstream: reset.
    let (mut tls, upstream) = pair().await;
    reset(upstream);
    assert_eq!(end_of(&mut tls).await.1, End::Broken);
    // Client: reset.
    let (tls, mut upstream) = pair().await;
    reset(tls.into_inner().0);
    assert_eq!(end_of(&mut upstream).await.1, End::Broken);
    // Client: FIN without close_notify is a truncated stream, and a reset to the upstream.
    let (tls, mut upstream) = pair().await;
    drop(tls.into_inner().0);
    assert_eq!(end_of(&mut upstream).await.1, End::Broken);
}

#[tokio::test]
async fn an_upload_is_not_taken_faster_than_the_upstream_reads() {
    let stage = Stage::new().await;
    let gateway = Gateway::start(Pki::new().await, stage.address(), &[]).await;
    let ((mut tls, status), mut upstream) =
        tokio::join!(gateway.connect("default:1"), stage.accept());
    assert_eq!(status, 200);
    let chunk = vec![7; 1 << 20];
    let mut sent = 0;
    while sent < 256 << 20 {
        match timeout(Duration::from_millis(500), tls.write(&chunk)).await {
            Ok(written) => sent += written.unwrap(),
            Err(_) => break,
        }
    }
    assert!(
        sent < 256 << 20,
        "{sent} bytes were taken that nobody reads"
    );
    let drained = async {
        let mut buffer = vec![0; 1 << 20];
        while upstream.read(&mut buffer).await.unwrap() > 0 {}
    };
    let (shut, ()) = tokio::join!(tls.shutdown(), drained);
    shut.unwrap();
}

#[tokio::test]
async fn a_revoked_client_is_reset_and_stays_out() {
    let stage = Stage::new().await;
    let gateway = Gateway::start(Pki::new().await, stage.address(), &[]).await;
    let ((mut tls, status), mut upstream) =
        tokio::join!(gateway.connect("default:1"), stage.accept());
    assert_eq!(status, 200);
    let pki = &gateway.pki;
    // Invalid files change nothing.
    let good = pki.read("ca.crl");
    std::fs::write(pki.path("ca.crl"), "no list").unwrap();
    eventually("the refusal of the files", || {
        gateway
            .process
            .events("config.reload")
            .iter()
            .any(|event| event["level"] == "error")
    })
    .await;
    tls.write_all(b"x").await.unwrap();
    assert_eq!(upstream.read_u8().await.unwrap(), b'x');
    drop(gateway.alice().await);
    std::fs::write(pki.path("ca.crl"), good).unwrap();
    pki.cert(&[
        "crl",
        "--ca",
        &pki.path(""),
        "--revoke",
        &pki.path("corp-alice.pem"),
    ])
    .await;
    let began = Instant::now();
    assert_eq!(end_of(&mut tls).await.1, End::Broken);
    assert_eq!(end_of(&mut upstream).await.1, End::Broken);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    eventually("the record", || {
        !gateway.process.events("conn.close").is_empty()
    })
    .await;
    let closed = gateway.process.events("conn.close");
    assert_eq!(closed[0]["conn.reason"], "revoked", "{closed:?}");
    let mut again = gateway
        .tls(client_config(pki, Some(pki.alice())))
        .await
        .unwrap();
    assert_eq!(end_of(&mut again).await.1, End::Broken);
    eventually("the refusal", || {
        gateway.refusals().contains(&"revoked".to_owned())
    })
    .await;
}

#[tokio::test]
async fn silent_peers_do_not_keep_others_out() {
    let stage = Stage::new().await;
    let more = ["--probe-interval", "5s"];
    let gateway = Gateway::start(Pki::new().await, stage.address(), &more).await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(TcpStream::connect(gateway.address).await.unwrap());
    }
    for _ in 0..5 {
        let ((_, status), _upstream) = tokio::join!(gateway.connect("default:1"), stage.accept());
        assert_eq!(status, 200);
    }
    // All of them are gone after the deadline of a handshake.
    for mut stream in silent {
        let mut byte = [0];
        let end = timeout(LONG, stream.read(&mut byte))
            .await
            .expect("still open");
        assert!(matches!(end, Ok(0) | Err(_)));
    }
}

/// Streams that the other side has not ended.
fn open<'a>(streams: impl IntoIterator<Item = &'a TcpStream>) -> usize {
    let is_open = |stream: &&TcpStream| {
        let read = stream.try_read(&mut [0; 1]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    };
    streams.into_iter().filter(is_open).count()
}

#[tokio::test]
async fn neither_a_byte_nor_a_certificate_keeps_a_slot_that_others_want() {
    const SLOTS: usize = 10;
    let stage = Stage::new().await;
    let pki = Pki::new().await;
    let config = pki.path("entryway.toml");
    let text = format!("gateway = {{ max_handshakes = {SLOTS}, handshake_timeout = \"60s\" }}");
    std::fs::write(&config, text).unwrap();
    let gateway = Gateway::start(pki, stage.address(), &["--config", &config]).await;
    let mut peers = Vec::new();
    for _ in 0..300 {
        let mut peer = TcpStream::connect(gateway.address).await.unwrap();
        peer.write_all(&[0x16]).await.unwrap();
        peers.push(peer);
    }
    eventually("ten are left", || open(&peers) <= SLOTS).await;
    let mut known = Vec::new();
    for _ in 0..40 {
        known.push(gateway.alice().await);
    }
    eventually("ten are left", || {
        open(known.iter().map(|tls| tls.get_ref().0)) <= SLOTS
    })
    .await;
    // Whoever says what it wants is served and holds no slot.
    let mut served = Vec::new();
    for _ in 0..2 * SLOTS {
        let ((mut tls, status), mut upstream) =
            tokio::join!(gateway.connect("default:1"), stage.accept());
        assert_eq!(status, 200);
        tls.write_all(b"x").await.unwrap();
        assert_eq!(upstream.read_u8().await.unwrap(), b'x');
        served.push((tls, upstream));
    }
    assert_eq!(
        open(served.iter().map(|(tls, _)| tls.get_ref().0)),
        served.len()
    );
}

/// In TLS 1.3 a client learns that its certificate is refused when it reads the first answer.
#[tokio::test]
async fn a_client_that_is_refused_blames_the_gateway_and_not_the_zone() {
    let stage = Stage::new().await;
    let pki = Pki::new().await;
    let folder = pki.path("");
    pki.cert(&["client", "--ca", &folder, "--identity", "revoked"])
        .await;
    pki.cert(&["crl", "--ca", &folder, "--revoke", &pki.path("revoked.pem")])
        .await;
    let old = leaf(|params| params.not_after = rcgen::date_time_ymd(2020, 2, 1));
    let (certificate, key) = old.sign(&pki.issuer());
    std::fs::write(pki.path("expired.pem"), certificate).unwrap();
    std::fs::write(pki.path("expired.key"), key).unwrap();
    set_mode(Path::new(&pki.path("expired.key")), 0o600);
    let gateway = Gateway::start(pki, stage.address(), &[]).await;
    let pki = &gateway.pki;
    for (name, cause) in [
        (None, "no `cert` and `key`"),
        (Some("revoked"), "it has been revoked"),
        (Some("expired"), "not valid now: expired"),
    ] {
        let shown = name.map_or_else(String::new, |name| {
            let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
            format!(", cert = {:?}, key = {:?}", pki.path(&cert), pki.path(&key))
        });
        let via = format!(
            "via = {{ url = \"https://{}\", server_name = \"{GATEWAY}\", ca = {:?}{shown} }}",
            gateway.address,
            pki.path("ca.pem")
        );
        let conf = Conf::to(&["default:8182"])
            .upstream(&via)
            .upstream("health.kind = \"tcp\"")
            .upstream("health.interval = \"200ms\"");
        let entryway = Entryway::start(&conf).await;
        let hop = || entryway.handles.hops()[0].1.health().status();
        eventually("the hop is down", || {
            hop().state.as_str() == "down" && !entryway.events("hop.down").is_empty()
        })
        .await;
        let error = hop().last_error.unwrap_or_default();
        assert!(
            error.contains("refuses our certificate") && error.contains(cause),
            "{name:?}: {error}"
        );
        let view = entryway.handles.upstreams[0].view.load();
        let state = view.endpoints[0].addresses[0].state;
        assert_eq!(state.as_str(), "unknown", "{}", entryway.log());
        no_leaks(entryway).await;
        let file = pki.path("client.toml");
        std::fs::write(&file, conf.text()).unwrap();
        let (_, out, _) = run(&["doctor", "--config", &file]).await;
        let hop = out.lines().find(|line| line.contains("FAIL  hop"));
        assert!(hop.is_some_and(|line| line.contains(cause)), "{out}");
    }
}

/// Certificates of clients live for days: whoever renews them need not restart their tunnels.
#[tokio::test]
async fn a_client_uses_its_renewed_certificate_without_a_restart() {
    let stage = Stage::new().await;
    let (pki, other) = (Pki::new().await, Pki::new().await);
    let install = |from: &Pki, name: &str| {
        std::fs::write(pki.path("hop.pem"), from.read(&format!("{name}.pem"))).unwrap();
        std::fs::write(pki.path("hop.key"), from.read(&format!("{name}.key"))).unwrap();
        set_mode(Path::new(&pki.path("hop.key")), 0o600);
    };
    // Issued by nobody whom the gateway knows.
    install(&other, "corp-alice");
    let (good, key) = (pki.read("corp-alice.pem"), pki.read("corp-alice.key"));
    let gateway = Gateway::start(pki, stage.address(), &[]).await;
    let conf = Conf::to(&["default:8182"])
        .upstream(&gateway.via("hop.pem", "hop.key", "ca.pem"))
        .upstream("health.kind = \"tcp\"")
        .upstream("health.interval = \"200ms\"");
    let entryway = Entryway::start(&conf).await;
    let hop = || entryway.handles.hops()[0].1.health().status();
    eventually("the hop is down", || hop().state.as_str() == "down").await;
    let file = |name: &str| gateway.pki.path(name);
    let level = |level: &str| {
        let events = entryway.events("config.reload");
        events.iter().any(|event| event["level"] == level)
    };
    // A set that does not fit together changes nothing.
    std::fs::write(file("hop.pem"), &good).unwrap();
    eventually("the refusal of the files", || level("error")).await;
    assert_eq!(hop().state.as_str(), "down");
    std::fs::write(file("hop.key"), &key).unwrap();
    eventually("the hop is up", || hop().state.as_str() == "up").await;
    assert!(level("info"), "{}", entryway.log());
    no_leaks(entryway).await;
}

/// On both sides: authorities of clients at the gateway, and of the gateway at its client.
#[tokio::test]
async fn a_bundle_of_300_authorities_is_taken_and_an_empty_one_refused() {
    let stage = Stage::new().await;
    let pki = Pki::new().await;
    let key = KeyPair::generate().unwrap();
    let mut bundle = String::new();
    for number in 1..300 {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("authority {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        bundle += &params.self_signed(&key).unwrap().pem();
    }
    bundle += &pki.read("ca.pem");
    std::fs::write(pki.path("ca.pem"), bundle).unwrap();
    std::fs::write(pki.path("none.pem"), "# no certificate in here\n").unwrap();
    let gateway = Gateway::start(pki, stage.address(), &[]).await;
    let conf = |ca: &str| {
        Conf::to(&["default:8182"])
            .upstream(&gateway.via("corp-alice.pem", "corp-alice.key", ca))
            .upstream("health.kind = \"tcp\"")
    };
    let entryway = Entryway::start(&conf("ca.pem")).await;
    entryway.ready(1).await;
    no_leaks(entryway).await;
    let file = gateway.pki.path("client.toml");
    std::fs::write(&file, conf("none.pem").text()).unwrap();
    let (code, out, err) = run(&["check", "--config", &file]).await;
    assert_eq!(code, 78, "{out}{err}");
    for part in ["none.pem", "holds no certificate in PEM form"] {
        assert!(err.contains(part), "{part}: {out}{err}");
    }
}

/// The metric says when; from then on no peer gets in, and a new certificate lets them in again.
#[tokio::test]
async fn an_own_certificate_that_expires_while_it_runs_lets_nobody_in() {
    let stage = Stage::new().await;
    let pki = Pki::new().await;
    let (good, good_key) = (pki.read("gw.example.pem"), pki.read("gw.example.key"));
    let ends = std::time::SystemTime::now() + Duration::from_secs(12);
    let short = leaf(|params| {
        params.not_after = ends.into();
        params.subject_alt_names = vec![dns(GATEWAY)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let (cert, key) = short.sign(&pki.issuer());
    std::fs::write(pki.path("gw.example.pem"), cert).unwrap();
    std::fs::write(pki.path("gw.example.key"), key).unwrap();
    set_mode(Path::new(&pki.path("gw.example.key")), 0o600);
    let gateway = Gateway::start(pki, stage.address(), &[]).await;
    let ((mut tls, status), upstream) = tokio::join!(gateway.connect("default:1"), stage.accept());
    assert_eq!(status, 200);
    let metrics = gateway.metrics().await;
    let line = metrics.lines().find(|line| {
        line.starts_with("entryway_certificate_expiry_timestamp_seconds")
            && line.contains("gw.example.pem")
    });
    let said: f64 = line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap();
    let ends = ends.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((said - ends.as_secs_f64()).abs() <= 1.0, "{said} {ends:?}");
    let began = Instant::now();
    let refused = loop {
        let config = client_config(&gateway.pki, Some(gateway.pki.alice()));
        if let Err(error) = gateway.tls(config).await {
            break error;
        }
        assert!(began.elapsed() < 2 * LONG, "still accepted");
        sleep(Duration::from_millis(100)).await;
    };
    eventually("the refusal", || !gateway.refusals().is_empty()).await;
    assert_eq!(gateway.refusals()[0], "expired", "{refused}");
    let events = gateway.process.events("gateway.handshake");
    let said = events.iter().find(|event| event["result"] == "expired");
    let said = said.unwrap()["error"].as_str().unwrap();
    assert!(said.contains("own certificate has expired"), "{said}");
    // Whoever is in stays in.
    let mut upstream = upstream;
    tls.write_all(b"x").await.unwrap();
    assert_eq!(upstream.read_u8().await.unwrap(), b'x');
    std::fs::write(gateway.pki.path("gw.example.key"), good_key).unwrap();
    std::fs::write(gateway.pki.path("gw.example.pem"), good).unwrap();
    let began = Instant::now();
    loop {
        let config = client_config(&gateway.pki, Some(gateway.pki.alice()));
        if gateway.tls(config).await.is_ok() {
            break;
        }
        assert!(began.elapsed() < LONG, "{}", gateway.process.err());
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn broken_files_are_refused_by_check_and_reload() {
    let stage = Stage::new().await;
    let pki = Pki::new().await;
    pki.cert(&["client", "--ca", &pki.path(""), "--identity", "other"])
        .await;
    let config = pki.path("entryway.toml");
    let [cert, key, ca] = ["gw.example.pem", "other.key", "ca.pem"].map(|name| pki.path(name));
    let text = format!("[gateway]\ncert = {cert:?}\nkey = {key:?}\nclient_ca = {ca:?}\n");
    std::fs::write(&config, text).unwrap();
    let (code, out, err) = run(&["check", "--config", &config, "-e", "127.0.0.1:1"]).await;
    assert_eq!(code, 78, "{out}{err}");
    for part in ["other.key", "do not belong together", "key ="] {
        assert!(err.contains(part), "{part}: {err}");
    }
    assert!(!err.contains("KeyMismatch"), "{err}");
    let gateway = Gateway::start(pki, stage.address(), &[]).await;
    let pki = &gateway.pki;
    let reload = || async { run(&["reload", "--control", &pki.path("control")]).await };
    let (code, out, err) = reload().await;
    assert_eq!(code, 0, "{out}{err}");
    let good = pki.read("gw.example.pem");
    std::fs::write(pki.path("gw.example.pem"), "no certificate").unwrap();
    let (code, out, err) = reload().await;
    assert_eq!(code, 78, "{out}{err}");
    assert!(err.contains("gw.example.pem"), "{err}");
    drop(gateway.alice().await);
    std::fs::write(pki.path("gw.example.pem"), good).unwrap();
    let (code, out, err) = reload().await;
    assert_eq!(code, 0, "{out}{err}");
}

/// Certificates and settings are read again while clients come, speak and go: none of them notices.
#[tokio::test]
async fn reloads_under_load_are_noticed_by_nobody() {
    let echo = Upstream::echo().await;
    let gateway = Gateway::start(Pki::new().await, echo.address, &[]).await;
    let over = std::cell::Cell::new(false);
    let come_and_go = async || {
        let mut answered = 0;
        while !over.get() {
            let (mut tls, status) = gateway.connect("default:1").await;
            assert_eq!(status, 200);
            tls.write_all(b"request").await.unwrap();
            let mut answer = [0; 7];
            tls.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"request");
            tls.shutdown().await.unwrap();
            assert_eq!(end_of(&mut tls).await, (Vec::new(), End::Fin));
            answered += 1;
        }
        answered
    };
    let stay = async || {
        let (mut tls, status) = gateway.connect("default:1").await;
        assert_eq!(status, 200);
        let (mut passed, mut got) = (0, vec![0; 16 * 1024]);
        while !over.get() {
            let bytes = crate::harness::upstream::pattern(passed, got.len());
            tls.write_all(&bytes).await.unwrap();
            tls.read_exact(&mut got).await.unwrap();
            assert!(got == bytes, "wrong bytes behind {passed}");
            passed += got.len();
        }
        passed
    };
    let reload = async || {
        let pki = &gateway.pki;
        let folder = pki.path("");
        for _ in 0..20 {
            pki.cert(&["server", "--ca", &folder, "--dns", GATEWAY, "--force"])
                .await;
            let (code, out, err) = run(&["reload", "--control", &pki.path("control")]).await;
            assert_eq!(code, 0, "{out}{err}");
        }
        over.set(true);
    };
    let (first, second, third, passed, ()) = tokio::join!(
        come_and_go(),
        come_and_go(),
        come_and_go(),
        stay(),
        reload()
    );
    println!(
        "20 reloads: {first} + {second} + {third} connections, {passed} bytes of one that stayed"
    );
    assert!(first + second + third >= 20 && passed > 0);
    assert_eq!(gateway.refusals(), [""; 0]);
}

#[tokio::test]
async fn only_clients_of_the_authority_are_revoked() {
    let (pki, other) = (Pki::new().await, Pki::new().await);
    let list = pki.read("ca.crl");
    // Both authorities have the same name.
    for (file, part) in [
        (other.path("corp-alice.pem"), "not issued by this authority"),
        (pki.path("ca.pem"), "is an authority"),
    ] {
        let (code, out, err) =
            run(&["cert", "crl", "--ca", &pki.path(""), "--revoke", &file]).await;
        assert_eq!(code, 78, "{out}{err}");
        assert!(err.contains(part), "{err}");
        assert_eq!(pki.read("ca.crl"), list);
    }
    let own = pki.path("corp-alice.pem");
    pki.cert(&["crl", "--ca", &pki.path(""), "--revoke", &own])
        .await;
    assert_ne!(pki.read("ca.crl"), list);
}

#[tokio::test]
async fn files_that_a_gateway_cannot_use_are_named() {
    let pki = Pki::new().await;
    let file = |name: &str| pki.path(name);
    let start = |cert: String, key: String, ca: String| async move {
        let args = [
            "gateway",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
            "--control",
            "off",
            "-e",
            "127.0.0.1:1",
            "--cert",
            &cert,
            "--key",
            &key,
            "--client-ca",
            &ca,
        ];
        run(&args).await
    };
    let good = (
        file("gw.example.pem"),
        file("gw.example.key"),
        file("ca.pem"),
    );
    std::fs::write(file("empty.pem"), "").unwrap();
    std::fs::write(file("open.key"), pki.read("gw.example.key")).unwrap();
    set_mode(Path::new(&file("open.key")), 0o640);
    pki.cert(&["client", "--ca", &file(""), "--identity", "other"])
        .await;
    let old = leaf(|params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let (expired, key) = old.sign(&pki.issuer());
    std::fs::write(file("expired.pem"), expired).unwrap();
    std::fs::write(file("expired.key"), key).unwrap();
    set_mode(Path::new(&file("expired.key")), 0o600);
    for (cert, key, ca, words) in [
        (
            file("nosuch.pem"),
            good.1.clone(),
            good.2.clone(),
            &["nosuch.pem", "cannot read"][..],
        ),
        (
            file("empty.pem"),
            good.1.clone(),
            good.2.clone(),
            &["empty.pem", "no certificate"],
        ),
        (
            good.0.clone(),
            file("open.key"),
            good.2.clone(),
            &["open.key", "0600"],
        ),
        (
            good.0.clone(),
            file("other.key"),
            good.2.clone(),
            &["belong together"],
        ),
        (
            good.0.clone(),
            good.1.clone(),
            file("empty.pem"),
            &["empty.pem"],
        ),
        (
            file("expired.pem"),
            file("expired.key"),
            good.2.clone(),
            &["expired.pem", "expired at"],
        ),
    ] {
        let (code, _, err) = start(cert, key, ca).await;
        assert_eq!(code, 78, "{words:?}: {err}");
        for word in words {
            assert!(err.contains(word), "{word}: {err}");
        }
    }
    let (code, _, err) = run(&["gateway", "-e", "127.0.0.1:1"]).await;
    assert_eq!(code, 78, "{err}");
    for flag in ["--listen", "--cert", "--key", "--client-ca"] {
        assert!(err.contains(flag), "{flag}: {err}");
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn cert_never_overwrites_and_its_keys_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let pki = Pki::new().await;
    for name in ["ca.key", "gw.example.key", "corp-alice.key"] {
        let mode = std::fs::metadata(pki.path(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let before = pki.read("ca.pem");
    let (code, _, err) = run(&["cert", "ca", "--out", &pki.path("")]).await;
    assert!(code == 78 && err.contains("--force"), "{code} {err}");
    assert_eq!(pki.read("ca.pem"), before);
    pki.cert(&["ca", "--out", &pki.path(""), "--force"]).await;
    assert_ne!(pki.read("ca.pem"), before);
    let shown = pki
        .cert(&["show", &pki.path("corp-alice.pem"), "--output", "json"])
        .await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["schema_version"], 1);
    assert_eq!(shown["certificates"][0]["identity"], CLIENT);
    for bad in [
        &["client", "--identity", "two words"][..],
        &["client", "--identity", "spiffe://"],
        &["client", "--identity", "a..b"],
        &["server", "--dns", "x-.example"],
    ] {
        let folder = pki.path("");
        let args = [&["cert", bad[0], "--ca", &folder], &bad[1..]].concat();
        assert_eq!(run(&args).await.0, 78, "{bad:?}");
    }
}

// The zoo.

/// A leaf certificate to be signed.
struct Leaf {
    params: CertificateParams,
    key: KeyPair,
}

impl Leaf {
    fn sign(self, issuer: &Issuer<'_, KeyPair>) -> (String, String) {
        let certificate = self.params.signed_by(&self.key, issuer).unwrap();
        (certificate.pem(), self.key.serialize_pem())
    }

    fn shown(self, issuer: &Issuer<'_, KeyPair>) -> Shown {
        let certificate = self.params.signed_by(&self.key, issuer).unwrap();
        Shown {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(self.key.serialize_der()).unwrap(),
        }
    }
}

/// A leaf as a good client has it, changed.
fn leaf(change: impl FnOnce(&mut CertificateParams)) -> Leaf {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "alice");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2100, 1, 1);
    params.subject_alt_names = vec![uri(CLIENT)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    Leaf {
        params,
        key: KeyPair::generate().unwrap(),
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// An authority that the gateway does not know, or one below its own.
fn authority(
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_after = rcgen::date_time_ymd(2100, 1, 1);
    change(&mut params);
    (params, KeyPair::generate().unwrap())
}

/// A leaf below an intermediate authority below `root`.
fn below(
    root: &Issuer<'_, KeyPair>,
    change: impl FnOnce(&mut CertificateParams),
    leaf: Leaf,
) -> Shown {
    let (params, key) = authority("intermediate", change);
    let intermediate = params.signed_by(&key, root).unwrap();
    let mut shown = leaf.shown(&Issuer::new(params, key));
    shown.chain.push(intermediate.der().clone());
    shown
}

/// Bad certificates: name, what is shown, and the results that name the cause.
fn zoo(pki: &Pki) -> Vec<(String, Shown, &'static [&'static str])> {
    let root = pki.issuer();
    let day = rcgen::date_time_ymd;
    let mut zoo: Vec<(String, Shown, &'static [&'static str])> = Vec::new();
    for (year, month, date) in [
        (2020, 1, 2),
        (2021, 6, 1),
        (2022, 12, 31),
        (2023, 2, 28),
        (2024, 2, 29),
        (2025, 1, 1),
    ] {
        let shown = leaf(|params| params.not_after = day(year, month, date)).shown(&root);
        zoo.push((format!("expired {year}"), shown, &["expired"]));
    }
    for year in [2050, 2060, 2070, 2080, 2090] {
        let shown = leaf(|params| params.not_before = day(year, 1, 1)).shown(&root);
        zoo.push((
            format!("not valid before {year}"),
            shown,
            &["not_yet_valid"],
        ));
    }
    use ExtendedKeyUsagePurpose::{
        CodeSigning, EmailProtection, OcspSigning, ServerAuth, TimeStamping,
    };
    for usages in [
        vec![ServerAuth],
        vec![CodeSigning],
        vec![EmailProtection],
        vec![TimeStamping],
        vec![OcspSigning],
        vec![ServerAuth, CodeSigning],
        vec![EmailProtection, ServerAuth, TimeStamping],
        vec![ExtendedKeyUsagePurpose::Other(vec![1, 2, 3, 4])],
    ] {
        let name = format!("usage {usages:?}");
        let shown = leaf(|params| params.extended_key_usages = usages).shown(&root);
        zoo.push((name, shown, &["usage"]));
    }
    for name in ["somebody else", "entryway CA", ""] {
        let (params, key) = authority(name, |_| {});
        let other = Issuer::new(params, key);
        zoo.push((
            format!("authority `{name}`"),
            leaf(|_| {}).shown(&other),
            &["unknown_ca"],
        ));
        let shown =
            leaf(|params| params.use_authority_key_identifier_extension = true).shown(&other);
        zoo.push((
            format!("authority `{name}` with key id"),
            shown,
            &["unknown_ca"],
        ));
        let shown = below(&other, |_| {}, leaf(|_| {}));
        zoo.push((format!("below authority `{name}`"), shown, &["unknown_ca"]));
    }
    for (name, subject) in [("alice", "alice"), ("as the authority", "entryway CA")] {
        let mut own = leaf(|_| {});
        own.params.distinguished_name = DistinguishedName::new();
        own.params
            .distinguished_name
            .push(DnType::CommonName, subject);
        let certificate = own.params.self_signed(&own.key).unwrap();
        let shown = Shown {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(own.key.serialize_der()).unwrap(),
        };
        zoo.push((format!("self-signed {name}"), shown, &["unknown_ca"]));
    }
    let names: Vec<(&str, Vec<SanType>)> = vec![
        ("no names", vec![]),
        (
            "an address only",
            vec![SanType::IpAddress([10, 0, 0, 1].into())],
        ),
        (
            "loopback only",
            vec![SanType::IpAddress([127, 0, 0, 1].into())],
        ),
        (
            "an IPv6 address only",
            vec![SanType::IpAddress(std::net::Ipv6Addr::LOCALHOST.into())],
        ),
        (
            "e-mail only",
            vec![SanType::Rfc822Name(
                "alice@corp.example".try_into().unwrap(),
            )],
        ),
        ("a wildcard", vec![dns("*")]),
        ("a wildcard name", vec![dns("*.corp.example")]),
        ("a wildcard URI", vec![uri("spiffe://corp/*")]),
        ("a URI with a space", vec![uri("spiffe://corp/a b")]),
        ("an empty URI", vec![uri("")]),
        (
            "an address and e-mail",
            vec![
                SanType::IpAddress([10, 0, 0, 1].into()),
                SanType::Rfc822Name("alice@corp.example".try_into().unwrap()),
            ],
        ),
    ];
    for (name, names) in names {
        let shown = leaf(|params| params.subject_alt_names = names).shown(&root);
        zoo.push((name.to_owned(), shown, &["usage", "protocol"]));
    }
    // The gateway's authority has a path length of 0: nothing below it may issue.
    for depth in 1..=4 {
        let mut chain = Vec::new();
        let mut issuer = pki.issuer();
        for level in 0..depth {
            let (params, key) = authority(&format!("level {level}"), |_| {});
            chain.insert(0, params.signed_by(&key, &issuer).unwrap().der().clone());
            issuer = Issuer::new(params, key);
        }
        let mut shown = leaf(|_| {}).shown(&issuer);
        shown.chain.extend(chain);
        zoo.push((
            format!("{depth} intermediates"),
            shown,
            &["unknown_ca", "usage"],
        ));
    }
    let not_authority = below(&root, |params| params.is_ca = IsCa::NoCa, leaf(|_| {}));
    zoo.push((
        "an intermediate that is none".to_owned(),
        not_authority,
        &["unknown_ca", "usage"],
    ));
    let old = below(
        &root,
        |params| params.not_after = day(2021, 1, 1),
        leaf(|_| {}),
    );
    zoo.push((
        "an expired intermediate".to_owned(),
        old,
        &["expired", "unknown_ca", "usage"],
    ));
    let constrained = |params: &mut CertificateParams| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("other.example".to_owned())],
            excluded_subtrees: vec![],
        });
    };
    let violating = leaf(|params| params.subject_alt_names = vec![dns("corp.example")]);
    zoo.push((
        "name constraints".to_owned(),
        below(&root, constrained, violating),
        &["unknown_ca", "usage"],
    ));
    let critical = leaf(|params| {
        let mut extension =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    });
    zoo.push((
        "an unknown critical extension".to_owned(),
        critical.shown(&root),
        &["usage", "protocol"],
    ));
    // A certificate with the key of another.
    for number in 1..=3 {
        let mut shown = leaf(|_| {}).shown(&root);
        shown.key = PrivateKeyDer::try_from(KeyPair::generate().unwrap().serialize_der()).unwrap();
        zoo.push((
            format!("the key of another {number}"),
            shown,
            &["unknown_ca", "protocol", "usage"],
        ));
    }
    // A changed byte: in the signature, in the middle.
    let intact = leaf(|_| {}).shown(&root);
    for (name, from_end) in [("signature", 3), ("signature", 20), ("key", 200)] {
        let mut bytes = intact.chain[0].to_vec();
        let index = bytes.len() - from_end;
        bytes[index] ^= 1;
        let shown = Shown {
            chain: vec![bytes.into()],
            key: intact.key.clone_key(),
        };
        zoo.push((
            format!("a changed byte of the {name} {from_end}"),
            shown,
            &["unknown_ca", "protocol", "usage"],
        ));
    }
    for (name, bytes) in [
        ("an empty certificate", vec![]),
        ("a text", b"certificate".to_vec()),
    ] {
        let shown = Shown {
            chain: vec![bytes.into()],
            key: intact.key.clone_key(),
        };
        zoo.push((name.to_owned(), shown, &["protocol", "unknown_ca", "usage"]));
    }
    zoo
}

#[tokio::test]
async fn of_a_zoo_of_certificates_one_is_accepted_and_each_refusal_names_its_cause() {
    let stage = Stage::new().await;
    let pki = Pki::new().await;
    pki.cert(&["client", "--ca", &pki.path(""), "--identity", "revoked"])
        .await;
    pki.cert(&[
        "crl",
        "--ca",
        &pki.path(""),
        "--revoke",
        &pki.path("revoked.pem"),
    ])
    .await;
    let gateway = Gateway::start(pki, stage.address(), &[]).await;
    let mut animals = zoo(&gateway.pki);
    animals.push((
        "revoked".to_owned(),
        Shown::read(&gateway.pki, "revoked"),
        &["revoked"],
    ));
    let mut seen = 0;
    let mut wrong = Vec::new();
    let count = animals.len() + 1;
    #[allow(clippy::explicit_counter_loop, reason = "the loop also ends early")]
    for (name, shown, results) in animals
        .into_iter()
        .map(|(name, shown, results)| (name, Some(shown), results))
        .chain([("no certificate".to_owned(), None, &["no_certificate"][..])])
    {
        let refused = match gateway.tls(client_config(&gateway.pki, shown)).await {
            // A client of TLS 1.3 learns of the refusal when it reads.
            Ok(mut tls) => {
                let _ = tls
                    .write_all(b"CONNECT default:1 HTTP/1.1\r\nHost: x\r\n\r\n")
                    .await;
                let mut bytes = Vec::new();
                timeout(LONG, tls.read_to_end(&mut bytes))
                    .await
                    .unwrap()
                    .err()
            }
            Err(error) => Some(error),
        };
        let told = refused.map(|error| error.to_string()).unwrap_or_default();
        seen += 1;
        eventually(&format!("the refusal of {name}"), || {
            gateway.refusals().len() == seen
        })
        .await;
        let result = gateway.refusals().pop().unwrap();
        println!("{name:40} {result:15} {told}");
        if !results.contains(&result.as_str()) || told.is_empty() {
            wrong.push(format!("{name}: {result}, told: {told}"));
        }
    }
    assert_eq!(wrong, [] as [&str; 0]);
    assert!(count >= 59, "{count}");
    // Nothing of all that reached the upstream, and a good one does.
    assert!(
        timeout(Duration::from_millis(50), stage.accept())
            .await
            .is_err()
    );
    let ((_, status), _upstream) = tokio::join!(gateway.connect("default:1"), stage.accept());
    assert_eq!(status, 200);
}

/// An accept that fails for good, with an error that nobody knows: no core is kept busy, one line a second says it, and
/// TERM ends the process. The same for the accept loops of `run`.
#[tokio::test]
async fn an_accept_that_always_fails_costs_nothing() {
    let pki = Pki::new().await;
    let upstream = SocketAddr::from(([127, 0, 0, 1], 9));
    let gateway = Gateway::arguments(&pki, upstream, "off");
    let run = "run --listen 127.0.0.1:0 --admin off --control off --zone none --probe off --log-format json -e 127.0.0.1:9";
    let run: Vec<String> = run.split(' ').map(str::to_owned).collect();
    let mut processes = Vec::new();
    for args in [gateway, run] {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        // ENOSYS, as a filter of system calls answers.
        let before = "refuse('accept4', 38); refuse('accept', 38)";
        let Some(command) = prepared(before, &words) else {
            return;
        };
        processes.push(Process::spawn(command));
    }
    let place = |process: &Process| -> Option<SocketAddr> {
        let out = process.out();
        let after = out.split("://").nth(1)?;
        after.split_whitespace().next()?.parse().ok()
    };
    let mut waiting = Vec::new();
    for process in &processes {
        eventually("it listens", || place(process).is_some()).await;
        for _ in 0..20 {
            waiting.push(TcpStream::connect(place(process).unwrap()).await.unwrap());
        }
        let failing = || !process.events("resource").is_empty();
        eventually("it fails", failing).await;
    }
    let before: Vec<_> = processes
        .iter()
        .map(|process| (process.cpu(), process.events("resource").len()))
        .collect();
    let time = Duration::from_secs(3);
    sleep(time).await;
    for (process, (cpu, lines)) in processes.iter_mut().zip(before) {
        let cpu = process.cpu() - cpu;
        assert!(cpu < time / 8, "{cpu:?} in {time:?}");
        let resource = process.events("resource").split_off(lines);
        assert!((1..=4).contains(&resource.len()), "{}", process.err());
        for line in resource {
            assert_eq!(line["message"], "cannot accept", "{line}");
        }
        assert_eq!(process.term().await, 0, "{}", process.err());
    }
}
