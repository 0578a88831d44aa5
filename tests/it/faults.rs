//! Faults through Toxiproxy's HTTP API: what they do to bytes and time, and that they go again.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::child::run;
use crate::harness::client::{End, fill, get, http, http_raw, ping, read_out};
use crate::harness::upstream::{Upstream, pattern};
use crate::harness::{Conf, Entryway, PIPES, Stage, eventually, no_leaks};

const TOXICS: &str = "/proxies/datomic/toxics";

async fn start(upstream: &Upstream) -> (Entryway, SocketAddr) {
    start_at(Conf::to(&[format!("{}?zone=a", upstream.address)])).await
}

async fn start_at(conf: Conf) -> (Entryway, SocketAddr) {
    let entryway = Entryway::start(&conf.rest(r#"faults.bind = "127.0.0.1:0""#)).await;
    let address = entryway
        .events("listener.up")
        .into_iter()
        .find(|line| line["name"] == "faults")
        .and_then(|line| line["address"].as_str()?.parse().ok());
    (entryway, address.unwrap())
}

async fn api(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, Value) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, text) = http_raw(address, request.as_bytes()).await;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

async fn ok(address: SocketAddr, method: &str, path: &str, body: &str) -> Value {
    let (status, answer) = api(address, method, path, body).await;
    assert!(
        (200..300).contains(&status),
        "{method} {path}: {status} {answer}"
    );
    answer
}

async fn round_trip(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    ping(stream, b"0123456789").await;
    start.elapsed()
}

/// Of several round trips one is shorter than any toxic of these tests makes them: none is on the way.
async fn is_quick(stream: &mut TcpStream) -> bool {
    for _ in 0..20 {
        if round_trip(stream).await < Duration::from_millis(150) {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn a_live_connection_meets_a_toxic_and_comes_back() {
    let upstream = Upstream::echo().await;
    let (entryway, faults) = start(&upstream).await;
    let mut client = entryway.connect().await;
    assert!(is_quick(&mut client).await);
    let body = r#"{"name":"slow","type":"latency","attributes":{"latency":200}}"#;
    let shown = ok(faults, "POST", TOXICS, body).await;
    assert_eq!(shown["stream"], "downstream");
    assert_eq!(shown["attributes"]["jitter"], 0);
    let slowed = round_trip(&mut client).await;
    assert!((200..3_000).contains(&slowed.as_millis()), "{slowed:?}");
    let list = ok(faults, "GET", "/faults", "").await;
    assert_eq!(list["faults"][0]["type"], "latency");
    assert_eq!(
        list["faults"][0]["connections"].as_array().unwrap().len(),
        1
    );
    assert_eq!(
        entryway.metric("entryway_faults_active", &[("listener", "datomic")]),
        1.0
    );
    ok(faults, "DELETE", &format!("{TOXICS}/slow"), "").await;
    assert!(is_quick(&mut client).await);
    // No byte was lost on the way there and back.
    let sent: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = client.split();
    let mut got = vec![0; sent.len()];
    let (wrote, read) = tokio::join!(write.write_all(&sent), read.read_exact(&mut got));
    wrote.unwrap();
    read.unwrap();
    assert_eq!(got, sent);
    drop(client);
    no_leaks(entryway).await;
}

#[tokio::test]
async fn limits_timeouts_and_resets_end_connections_as_they_say() {
    let upstream = Upstream::echo().await;
    let (entryway, faults) = start(&upstream).await;
    for (kind, attributes, expected, end) in [
        ("limit_data", r#"{"bytes":4}"#, &b"0123"[..], End::Fin),
        ("timeout", r#"{"timeout":50}"#, &b""[..], End::Fin),
        ("reset_peer", r#"{"timeout":0}"#, &b""[..], End::Reset),
    ] {
        let body = format!(r#"{{"name":"t","type":"{kind}","attributes":{attributes}}}"#);
        ok(faults, "POST", TOXICS, &body).await;
        let mut client = entryway.connect().await;
        client.write_all(b"0123456789").await.unwrap();
        let (bytes, ended) = read_out(&mut client).await;
        assert_eq!((&bytes[..], ended), (expected, end), "{kind}");
        ok(faults, "DELETE", &format!("{TOXICS}/t"), "").await;
    }
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_proxy_is_added_disabled_and_deleted() {
    let upstream = Upstream::echo().await;
    let (entryway, faults) = start(&upstream).await;
    let body = format!(r#"{{"name":"extra","upstream":"{}"}}"#, upstream.address);
    let made = ok(faults, "POST", "/proxies", &body).await;
    let listen: SocketAddr = made["listen"].as_str().unwrap().parse().unwrap();
    let mut client = TcpStream::connect(listen).await.unwrap();
    ping(&mut client, b"hello").await;
    assert_eq!(api(faults, "POST", "/proxies", &body).await.0, 409);
    ok(faults, "POST", "/proxies/extra", r#"{"enabled":false}"#).await;
    assert_eq!(read_out(&mut client).await.1, End::Fin);
    assert!(TcpStream::connect(listen).await.is_err());
    ok(faults, "POST", "/proxies/extra", r#"{"enabled":true}"#).await;
    let mut client = TcpStream::connect(listen).await.unwrap();
    ping(&mut client, b"again").await;
    assert_eq!(api(faults, "DELETE", "/proxies/extra", "").await.0, 204);
    assert_eq!(api(faults, "GET", "/proxies/extra", "").await.0, 404);
    assert_eq!(api(faults, "DELETE", "/proxies/datomic", "").await.0, 403);
    assert_eq!(read_out(&mut client).await.1, End::Fin);
    drop(client);
    let logged = || entryway.events("conn.close").len() == 2;
    eventually("each connection has its line", logged).await;
    let left = || {
        entryway
            .handles
            .metrics
            .render()
            .contains("listener=\"extra\"")
    };
    eventually("its series are gone", || !left()).await;
    assert_eq!(entryway.drain().await.0.cut, 0);
}

#[tokio::test]
async fn bad_requests_change_nothing_and_faults_end_by_time() {
    let upstream = Upstream::echo().await;
    let (entryway, faults) = start(&upstream).await;
    for (method, path, body, status) in [
        ("POST", TOXICS, r#"{"type":"lag"}"#, 400),
        ("POST", TOXICS, "{", 400),
        ("POST", TOXICS, r#"{"type":"latency","stream":"x"}"#, 400),
        (
            "POST",
            TOXICS,
            r#"{"type":"latency","zone":"nowhere"}"#,
            400,
        ),
        ("POST", "/proxies/none/toxics", r#"{"type":"latency"}"#, 404),
        ("GET", "/proxies/datomic/toxics/none", "", 404),
        ("POST", "/populate", r#"[{"upstream":"a:1"}]"#, 400),
        (
            "POST",
            "/populate",
            r#"[{"name":"datomic","upstream":"elsewhere:1"}]"#,
            403,
        ),
        (
            "POST",
            "/proxies/datomic",
            r#"{"listen":"127.0.0.1:0"}"#,
            403,
        ),
        ("POST", "/proxies/datomic", r#"{"listen":"nowhere"}"#, 500),
        ("PUT", "/reset", "", 405),
        ("GET", "/nothing", "", 404),
    ] {
        assert_eq!(
            api(faults, method, path, body).await.0,
            status,
            "{method} {path} {body}"
        );
    }
    let listed = ok(faults, "GET", "/proxies", "").await;
    assert_eq!(listed["datomic"]["toxics"], Value::Array(Vec::new()));
    assert_eq!(ok(faults, "GET", "/version", "").await["version"], "2.12.0");
    ok(faults, "POST", TOXICS, r#"{"type":"noop","ttl":"100ms"}"#).await;
    assert_eq!(
        api(faults, "POST", TOXICS, r#"{"type":"noop"}"#).await.0,
        409
    );
    let cleared = || !entryway.events("fault.clear").is_empty();
    eventually("the toxic has removed itself", cleared).await;
    ok(faults, "POST", TOXICS, r#"{"type":"noop"}"#).await;
    ok(faults, "POST", "/faults/deadman?within=100ms", "").await;
    eventually("the dead-man switch fires", || {
        entryway
            .events("fault.clear")
            .iter()
            .any(|line| line["level"] == "warn")
    })
    .await;
    assert_eq!(
        ok(faults, "GET", "/faults", "").await["deadman_s"],
        Value::Null
    );
    no_leaks(entryway).await;
}

#[tokio::test]
async fn odd_names_and_bodies_are_taken_as_they_are() {
    let upstream = Upstream::echo().await;
    let (entryway, faults) = start(&upstream).await;
    for attributes in [
        r#"{"latency":"long"}"#,
        r#"{"latency":1.5}"#,
        r#"{"jitter":[]}"#,
        r#"[1]"#,
        r#""latency""#,
    ] {
        let body = format!(r#"{{"type":"latency","attributes":{attributes}}}"#);
        let (status, answer) = api(faults, "POST", TOXICS, &body).await;
        assert_eq!(status, 400, "{attributes}: {answer}");
    }
    let names = [
        ("söder", "s%C3%B6der", 200),
        ("日本 🎌", "%E6%97%A5%E6%9C%AC%20%F0%9F%8E%8C", 200),
        ("%", "%25", 200),
        // Decoded before it is split, as Toxiproxy does: only /reset reaches it.
        ("a/b", "a%2Fb", 404),
    ];
    for (name, path, status) in names {
        let body = format!(r#"{{"name":"{name}","type":"noop","ttl":"24h"}}"#);
        ok(faults, "POST", TOXICS, &body).await;
        let (got, shown) = api(faults, "GET", &format!("{TOXICS}/{path}"), "").await;
        assert_eq!(got, status, "{name}");
        assert!(status == 404 || shown["name"] == name, "{shown}");
        let (again, _) = api(faults, "POST", TOXICS, &body).await;
        assert_eq!(again, 409, "{name} twice");
    }
    let list = ok(faults, "GET", "/faults", "").await;
    let list = list["faults"].as_array().unwrap();
    let left = list.iter().map(|one| one["ttl_left_s"].as_f64().unwrap());
    let left: Vec<f64> = left.collect();
    assert!(
        left.len() == names.len() && left.iter().all(|left| *left <= 600.0),
        "more than faults.max_ttl: {left:?}"
    );
    ok(faults, "POST", "/reset", "").await;
    let long = "x".repeat(1 << 20);
    let body = format!(r#"{{"name":"{long}","type":"noop"}}"#);
    let made = ok(faults, "POST", TOXICS, &body).await;
    assert_eq!(made["name"].as_str().map(str::len), Some(1 << 20));
    let taken = upstream.address;
    let body = format!(r#"{{"name":"taken","listen":"{taken}","upstream":"{taken}"}}"#);
    assert_eq!(api(faults, "POST", "/proxies", &body).await.0, 500);
    let populate = async |listen: &str| {
        let body = format!(r#"[{{"name":"extra","listen":"{listen}","upstream":"{taken}"}}]"#);
        ok(faults, "POST", "/populate", &body).await
    };
    let first = populate("127.0.0.1:0").await;
    let second = populate(first["proxies"][0]["listen"].as_str().unwrap()).await;
    assert_eq!(first, second);
    let listed = ok(faults, "GET", "/proxies", "").await;
    assert_eq!(listed.as_object().unwrap().len(), 2, "{listed}");
    ping(&mut entryway.connect().await, b"hello").await;
    ok(faults, "DELETE", "/proxies/extra", "").await;
    no_leaks(entryway).await;
}

/// A transfer that never ends, between threads of its own, so that nothing in the test holds it up. Every byte is checked.
struct Transfer {
    /// Bytes that have arrived.
    arrived: Arc<AtomicU64>,
    /// When the last of them did, in microseconds since `start`.
    last: Arc<AtomicU64>,
    start: Instant,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Transfer {
    fn run(client: TcpStream, server: TcpStream) -> Self {
        let blocking = |stream: TcpStream| {
            let stream = stream.into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            stream
        };
        let (mut client, mut server) = (blocking(client), blocking(server));
        let (arrived, last) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let start = Instant::now();
        let sender = std::thread::spawn(move || {
            let mut sent = 0;
            while server.write_all(&pattern(sent, 64 * 1024)).is_ok() {
                sent += 64 * 1024;
            }
        });
        let (count, at) = (Arc::clone(&arrived), Arc::clone(&last));
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            let mut seen = 0;
            while let Ok(read @ 1..) = client.read(&mut buffer) {
                assert_eq!(
                    buffer[..read],
                    pattern(seen, read),
                    "wrong bytes after {seen}"
                );
                seen += read;
                at.store(start.elapsed().as_micros() as u64, Relaxed);
                count.store(seen as u64, Relaxed);
            }
        });
        Self {
            arrived,
            last,
            start,
            threads: vec![sender, reader],
        }
    }

    /// Waits until at least so many more bytes have arrived.
    async fn moves(&self, bytes: u64) {
        let from = self.arrived.load(Relaxed);
        eventually("bytes arrive", || {
            self.arrived.load(Relaxed) >= from + bytes
        })
        .await;
    }

    /// Waits until nothing has arrived for this long; when the last byte did.
    async fn rests(&self, quiet: Duration) -> Duration {
        let mut last = Duration::ZERO;
        eventually("nothing arrives", || {
            last = Duration::from_micros(self.last.load(Relaxed));
            self.start.elapsed() > last + quiet
        })
        .await;
        last
    }
}

#[tokio::test]
async fn a_toxic_on_a_spliced_transfer_acts_and_goes_within_50_ms() {
    let stage = Stage::new().await;
    let (entryway, faults) = start_at(Conf::to(&[stage.address()])).await;
    let (client, server) = stage.pair(entryway.address()).await;
    let transfer = Transfer::run(client, server);
    let spliced = || entryway.sum("entryway_bytes_spliced_total");
    let (mut acted, mut gone) = (Duration::MAX, Duration::MAX);
    let within = Duration::from_millis(50);
    for _ in 0..40 {
        let before = spliced();
        transfer.moves(4 << 20).await;
        if PIPES {
            eventually("it is spliced", || spliced() > before).await;
        }
        let set = transfer.start.elapsed();
        let body = r#"{"name":"stop","type":"bandwidth","attributes":{"rate":0}}"#;
        ok(faults, "POST", TOXICS, body).await;
        let last = transfer.rests(Duration::from_millis(300)).await;
        acted = acted.min(last.saturating_sub(set));
        let from = transfer.arrived.load(Relaxed);
        let removed = transfer.start.elapsed();
        ok(faults, "DELETE", &format!("{TOXICS}/stop"), "").await;
        eventually("it goes on", || transfer.arrived.load(Relaxed) > from).await;
        gone = gone.min(transfer.start.elapsed() - removed);
        if acted < within && gone < within {
            break;
        }
    }
    println!("a toxic acted after {acted:?} and was gone after {gone:?}");
    // Of all rounds the best: the machine may be busy, the mechanism may not be slow.
    assert!(acted < within && gone < within, "{acted:?} {gone:?}");
    // A toxic that changes the shape of the stream changes none of its bytes.
    let body =
        r#"{"name":"cut","type":"slicer","attributes":{"average_size":700,"size_variation":300}}"#;
    ok(faults, "POST", TOXICS, body).await;
    transfer.moves(1 << 20).await;
    ok(faults, "POST", "/reset", "").await;
    let before = spliced();
    transfer.moves(4 << 20).await;
    assert_eq!(spliced() > before, PIPES, "it is spliced again");
    let id = entryway.handles.registry.oldest(1)[0].id;
    entryway.handles.registry.each(|entry| {
        assert_eq!(entry.id, id);
        entry.commands.send(entryway::relay::ConnectionCommand::Cut(
            entryway::events::Reason::Killed,
        ));
    });
    for thread in transfer.threads {
        thread.join().unwrap();
    }
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_half_close_goes_through_toxics_as_one() {
    let stage = Stage::new().await;
    let (entryway, faults) = start_at(Conf::to(&[stage.address()])).await;
    for stream in ["upstream", "downstream"] {
        let body =
            format!(r#"{{"type":"latency","stream":"{stream}","attributes":{{"latency":60}}}}"#);
        ok(faults, "POST", TOXICS, &body).await;
    }
    let (mut client, mut server) = stage.pair(entryway.address()).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let (question, end) = read_out(&mut server).await;
    assert_eq!((&question[..], end), (&b"question"[..], End::Fin));
    // The other direction is open, also when the toxics go meanwhile.
    ok(faults, "POST", "/reset", "").await;
    server.write_all(b"answer").await.unwrap();
    drop(server);
    let (answer, end) = read_out(&mut client).await;
    assert_eq!((&answer[..], end), (&b"answer"[..], End::Fin));
    no_leaks(entryway).await;
}

#[tokio::test]
async fn what_is_set_is_shown_where_people_look() {
    let upstream = Upstream::echo().await;
    let (entryway, faults) = start(&upstream).await;
    let admin = entryway.admin.unwrap();
    let status: Value = serde_json::from_str(&get(admin, "/v1/status").await).unwrap();
    assert_eq!(status["faults"], faults.to_string());
    assert!(
        !get(admin, "/readyz?verbose&upstream=none")
            .await
            .contains("faults")
    );
    let body = r#"{"name":"<slow>","type":"latency"}"#;
    ok(faults, "POST", TOXICS, body).await;
    let ready = get(admin, "/readyz?verbose&upstream=none").await;
    assert!(ready.contains("datomic: <slow> (latency)"), "{ready}");
    let page = get(admin, "/").await;
    assert!(page.contains("Faults are set on purpose"), "{page}");
    assert!(page.contains("datomic: &lt;slow&gt; (latency)"), "{page}");
    ok(faults, "PATCH", "/proxies/datomic", r#"{"enabled":false}"#).await;
    assert!(TcpStream::connect(entryway.address()).await.is_err());
    let ready = get(admin, "/readyz?verbose&upstream=none").await;
    assert!(ready.contains("datomic: down"), "{ready}");
    // A page in a browser may not.
    let (status, _) = http_raw(
        faults,
        b"POST /reset HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(status, 403);
    assert_eq!(http(faults, "POST", "/reset").await.0, 204);
    assert!(TcpStream::connect(entryway.address()).await.is_ok());
    no_leaks(entryway).await;
}

#[tokio::test]
async fn only_a_free_loopback_address_is_taken() {
    let args = [
        "run",
        "--endpoint",
        "127.0.0.1:9",
        "--listen",
        "127.0.0.1:0",
    ];
    let (code, _, err) = run(&[&args[..], &["--faults", "0.0.0.0:0"]].concat()).await;
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("not a loopback address"), "{err}");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let args = [&args[..], &["--admin", "127.0.0.1:0", "--faults", &taken]].concat();
    let (code, _, err) = run(&args).await;
    assert_eq!(code, 73, "{err}");
}

#[tokio::test]
async fn a_listener_whose_port_was_taken_meanwhile_is_said_and_comes_back() {
    let upstream = Upstream::echo().await;
    let (entryway, faults) = start(&upstream).await;
    let path = "/proxies/datomic";
    ok(faults, "POST", path, r#"{"enabled":false}"#).await;
    let down = entryway.logged("listener.down").await;
    assert!(
        down[0]["message"].as_str().unwrap().contains("on purpose"),
        "{down:?}"
    );
    let taken = tokio::net::TcpListener::bind(entryway.address()).await;
    let taken = taken.unwrap();
    let (status, answer) = api(faults, "POST", path, r#"{"enabled":true}"#).await;
    assert_eq!(status, 500, "{answer}");
    let said = answer["error"].as_str().unwrap();
    assert!(said.contains("does not accept again yet"), "{said}");
    let warned = |line: &Value| line["level"] == "warn" && line["listener"] == "datomic";
    eventually("the warning", || {
        entryway.events("fault.set").iter().any(warned)
    })
    .await;
    drop(taken);
    let up = || entryway.metric("entryway_listener_up", &[("listener", "datomic")]) == 1.0;
    eventually("it accepts again by itself", up).await;
    ping(&mut entryway.connect().await, b"again").await;
    assert_eq!(ok(faults, "GET", path, "").await["enabled"], true);
    no_leaks(entryway).await;
}

/// While a toxic carries a connection its upstream may read as slowly as it likes, and not at all for a while: the
/// kernel's timer, which counts the time of a closed window, does not end it.
#[tokio::test]
async fn a_slow_reader_outlives_the_user_timeout_behind_a_toxic() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let stage = Stage::new().await;
    let conf = Conf::to(&[stage.address()]).upstream(r#"tcp.user_timeout = "300ms""#);
    let (entryway, faults) = start_at(conf).await;
    let body = r#"{"name":"slow","type":"latency","attributes":{"latency":1}}"#;
    ok(faults, "POST", TOXICS, body).await;
    let (mut client, mut server) = stage.pair(entryway.address()).await;
    let sent = fill(&mut client, 0).await;
    tokio::time::sleep(8 * TIMEOUT).await;
    client.shutdown().await.unwrap();
    let (bytes, end) = read_out(&mut server).await;
    assert_eq!(end, End::Fin);
    assert!(bytes == pattern(0, sent), "{} of {sent}", bytes.len());
    drop((client, server));
    no_leaks(entryway).await;
}
