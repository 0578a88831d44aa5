//! What each fuzz target does with its bytes: nothing may panic, hang or grow without bound.
//!
//! `tests/it/fuzz_seeds.rs` compiles this file too and runs it on a few inputs, so that it does not go stale.

use std::ffi::OsString;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use entryway::addr::HostPort;
use entryway::dial::hop::{Hop, HopParts, ViaSettings};
use entryway::dns::{DnsSettings, SystemFiles};
use entryway::events::{Events, Log};
use entryway::listener::front::parse::{self, Parsed};
use entryway::metrics::Metrics;
use entryway::relay::framing::{Framing, FramingProgress};
use entryway::types::{Direction, UpstreamName};
use entryway::upstream::settings::HealthSettings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

/// The bytes are an entry point's whole answer to a probe.
pub fn probe_response(data: &[u8]) {
    block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let answers = async {
            if let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(data).await;
            }
        };
        let settings = HealthSettings::default();
        let (report, ()) = tokio::join!(entryway::probe::once(&settings, address, "h:1"), answers);
        let _ = format!("{:?}", report.outcome);
    });
}

/// The bytes are a file with a client map.
pub fn edn(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = entryway::edn::read_client_map(text, None);
    if let Ok(patched) = entryway::edn::patch(text, None, "http://localhost:8182") {
        let map = entryway::edn::read_client_map(&patched.text, None);
        assert!(
            map.is_ok(),
            "patched into what cannot be read:\n{}",
            patched.text
        );
    }
}

/// The bytes are a hosts file and, behind a zero byte, a resolv.conf. The name is in neither of them, and port 1 of
/// loopback answers no question.
pub fn hosts_and_resolv_conf(data: &[u8]) {
    let (hosts, resolv_conf) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &data[..0]),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    };
    let files = SystemFiles {
        hosts: write("hosts", hosts),
        resolv_conf: write("resolv.conf", resolv_conf),
    };
    let settings = DnsSettings {
        servers: vec!["127.0.0.1:1".parse().expect("an address")],
        timeout: Duration::from_millis(20),
        ..DnsSettings::default()
    };
    block_on(async {
        for host in ["localhost", "10.0.0.1", "name.invalid"] {
            let _ = entryway::dns::lookup_with(&settings, host, &files)
                .await
                .ips();
        }
    });
}

/// The bytes are the first ones of a client of a SOCKS and CONNECT front: a request never takes more than there is, and
/// more bytes change neither its target nor its length.
pub fn front_request(data: &[u8]) {
    let _ = (parse::detect(data), parse::socks5_greeting(data));
    for parse in [
        parse::socks4_request,
        parse::socks5_request,
        parse::connect_request,
    ] {
        if let Parsed::Complete(target, length) = parse(data) {
            assert!(length <= data.len() && !target.host.is_empty());
            let whole = Parsed::Complete(target, length);
            assert_eq!(parse(&data[..length]), whole);
            assert_eq!(parse(&[data, b"more"].concat()), whole);
        }
    }
}

/// The bytes are all that a proxy answers, behind one that says which kind it is (even: SOCKS5, odd: HTTP CONNECT). Where
/// they are an answer, what follows it reaches the client as it is.
pub fn proxy_answer(data: &[u8]) {
    let Some((kind, answer)) = data.split_first() else {
        return;
    };
    let scheme = ["socks5", "http"][usize::from(kind % 2)];
    block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let via = ViaSettings {
            url: format!("{scheme}://{}", listener.local_addr().expect("an address")),
            ..ViaSettings::default()
        };
        let parts = HopParts {
            upstream: UpstreamName::new("u"),
            own: Arc::new([]),
            events: Events::new(Log::default()),
            metrics: Metrics::default(),
        };
        let spec = via.hop().expect("a hop").expect("one hop");
        let (hop, _) = Hop::build(spec, &parts).expect("no files");
        let answers = async {
            let (mut stream, _) = listener.accept().await.expect("we connect");
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
            // Closed with bytes unread, it would be reset.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let asks = async {
            let target = HostPort {
                host: "entry.prod.internal".to_owned(),
                port: 8182,
            };
            let Ok(mut reached) = hop.open(&target).await else {
                assert!(
                    hop.health()
                        .status()
                        .last_error
                        .is_none_or(|error| error.len() < 500)
                );
                return;
            };
            let mut rest = Vec::new();
            reached.stream.read_to_end(&mut rest).await.expect("an end");
            assert!(answer.ends_with(&rest), "{rest:?}");
        };
        tokio::join!(answers, asks);
    });
}

/// The bytes are an exchange: a byte from 1 to 4 begins a piece and says where it goes (1 and 3 up, 2 and 4 down) and
/// whether that side ends behind it (3 and 4). How the pieces are cut, and whether bodies are shown or only counted,
/// changes nothing of what is known of the exchange; what is kept of split lines stays small.
pub fn http_framing(data: &[u8]) {
    let mut whole = Framing::default();
    let mut single = Framing::default();
    let mut counted = Framing::default();
    let is_mark = |byte: &u8| (1..=4).contains(byte);
    let mut rest = data;
    while let [first, others @ ..] = rest {
        let (mark, from) = if is_mark(first) {
            (*first, others)
        } else {
            (1, rest)
        };
        let (bytes, next) = from.split_at(from.iter().position(is_mark).unwrap_or(from.len()));
        rest = next;
        let way = match mark {
            1 | 3 => Direction::Upload,
            _ => Direction::Download,
        };
        let mut seen = [FramingProgress::default(); 3];
        add(&mut seen[0], whole.inspect(way, bytes));
        for byte in bytes {
            add(
                &mut seen[1],
                single.inspect(way, std::slice::from_ref(byte)),
            );
            assert!(single.kept() <= KEPT, "{} bytes are kept", single.kept());
        }
        let mut left = bytes;
        while !left.is_empty() {
            let unseen = usize::try_from(counted.opaque(way)).unwrap_or(usize::MAX);
            if unseen > 0 {
                let passed = unseen.min(left.len());
                add(&mut seen[2], counted.skip(way, passed as u64));
                left = &left[passed..];
            } else {
                let shown = left.len().min(7);
                add(&mut seen[2], counted.inspect(way, &left[..shown]));
                left = &left[shown..];
            }
        }
        if mark > 2 {
            for (framing, seen) in [&mut whole, &mut single, &mut counted]
                .into_iter()
                .zip(&mut seen)
            {
                add(seen, framing.end(way));
            }
        }
        let states = [&whole, &single, &counted].map(|framing| {
            let opaque = Direction::BOTH.map(|way| framing.opaque(way));
            (framing.phase(), opaque)
        });
        assert!(
            states[0] == states[1] && states[0] == states[2],
            "{states:?}"
        );
        assert!(seen[0] == seen[1] && seen[0] == seen[2], "{seen:?}");
        assert!(whole.kept() <= KEPT && counted.kept() <= KEPT);
    }
}

/// Most that two split lines may take: each is cut at 4 KiB, and grows by doubling.
const KEPT: usize = 2 * 8192;

fn add(sum: &mut FramingProgress, more: FramingProgress) {
    sum.requests += more.requests;
    sum.begun += more.begun;
    sum.answers += more.answers;
}

/// The bytes are a settings file: it is taken, or every problem of it can be printed.
pub fn settings_report(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(data).expect("written");
    let words = [
        "entryway".into(),
        "check".into(),
        "--config".into(),
        OsString::from(file.path()),
    ];
    let matches = entryway::cli::args::command().get_matches_from(words);
    let (_, matches) = matches.subcommand().expect("check");
    if let Err(report) = entryway::settings::load(matches, std::iter::empty(), false) {
        assert!(!report.plain().is_empty());
        let _ = report.styled();
    }
}
