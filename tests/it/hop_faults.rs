//! Hops that misbehave: whom that is blamed on, what is said about it, and that it ends.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::harness::child::{BINARY, Process, mock_command};
use crate::harness::client::{End, get, ping, read_out};
use crate::harness::proxy::{Proxy, Way};
use crate::harness::upstream::{Upstream, datomic, echo, entry_point};
use crate::harness::{Conf, Entryway, LONG, eventually, no_leaks};

/// Names that no resolver knows.
const NAME: &str = "entry.prod.internal:8182";
const OTHER: &str = "other.prod.internal:8182";

/// What a proxy does with a request.
#[derive(Clone)]
enum Proxies {
    /// Answers with these bytes and echoes from then on.
    Echo(Vec<u8>),
    /// The same, this much later.
    Late(Duration, Vec<u8>),
    /// Answers with these bytes and ends.
    End(Vec<u8>),
    /// Answers with these bytes again and again.
    Endless(&'static [u8]),
}

/// Who is to blame.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nobody,
    Hop,
    Address,
}

/// A proxy that reads the first bytes of a client and does this.
async fn proxy(does: Proxies) -> Upstream {
    Upstream::start("127.0.0.1:0", move |mut stream, read| {
        let does = does.clone();
        async move {
            // One read: a head of CONNECT and a greeting of SOCKS come as one segment.
            let _ = stream.read(&mut [0; 4096]).await;
            match does {
                Proxies::Echo(answer) => {
                    let _ = stream.write_all(&answer).await;
                    echo(stream, read).await;
                }
                Proxies::Late(time, answer) => {
                    sleep(time).await;
                    let _ = stream.write_all(&answer).await;
                    echo(stream, read).await;
                }
                Proxies::End(answer) => {
                    let _ = stream.write_all(&answer).await;
                    // A close with unread bytes would reset what was sent.
                    let _ = stream.shutdown().await;
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
                Proxies::Endless(answer) => while stream.write_all(answer).await.is_ok() {},
            }
        }
    })
    .await
}

async fn only_hop(admin: SocketAddr) -> Value {
    let answer: Value = serde_json::from_str(&get(admin, "/v1/hops").await).unwrap();
    answer["hops"][0].clone()
}

fn head_of(kib: usize) -> Vec<u8> {
    let line = format!("X-Filler: {}\r\n", "x".repeat(1012));
    let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", line.repeat(kib));
    head.into_bytes()
}

/// What a proxy may answer; each is blamed on the right one, in words, and none holds anything up.
#[tokio::test]
async fn whatever_a_proxy_answers_the_right_one_is_blamed() {
    let soon = Duration::from_millis(300);
    let with_body = |status: &str| {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 12\r\n\r\nno such host");
        Proxies::End(text.into_bytes())
    };
    let ok = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let html = b"HTTP/1.1 400 Bad Request\r\n\r\n<html>".to_vec();
    let cases = [
        ("http", "200", Proxies::Echo(ok.clone()), Fault::Nobody, ""),
        (
            "http",
            "200 late",
            Proxies::Late(soon, ok.clone()),
            Fault::Nobody,
            "",
        ),
        (
            "http",
            "200 too late",
            Proxies::Late(LONG, ok),
            Fault::Hop,
            "answer",
        ),
        ("http", "chunked", Proxies::Echo(chunked), Fault::Nobody, ""),
        (
            "http",
            "head of 60 KiB",
            Proxies::Echo(head_of(60)),
            Fault::Nobody,
            "",
        ),
        (
            "http",
            "head of 64 KiB",
            Proxies::End(head_of(64)),
            Fault::Hop,
            "above 64 KiB",
        ),
        (
            "http",
            "407",
            with_body("407 Proxy Authentication Required"),
            Fault::Hop,
            "wants a login",
        ),
        (
            "http",
            "502 with a body",
            with_body("502 Bad Gateway"),
            Fault::Address,
            "502",
        ),
        (
            "http",
            "garbage",
            Proxies::End(b"\0\xff\x1b[31mgarbage".to_vec()),
            Fault::Hop,
            "does not answer like an HTTP proxy",
        ),
        (
            "http",
            "a SOCKS server",
            Proxies::End(b"\x05\xff".to_vec()),
            Fault::Hop,
            "does not answer like an HTTP proxy",
        ),
        (
            "http",
            "the end",
            Proxies::End(Vec::new()),
            Fault::Address,
            "reset",
        ),
        (
            "http",
            "interim answers only",
            Proxies::Endless(b"HTTP/1.1 100 Continue\r\n\r\n"),
            Fault::Hop,
            "answer",
        ),
        (
            "http",
            "a line without end",
            Proxies::Endless(b"HTTP/1.1 200 OK OK OK OK OK"),
            Fault::Hop,
            "above 64 KiB",
        ),
        (
            "socks5",
            "an HTTP server",
            Proxies::End(html),
            Fault::Hop,
            "does not answer like SOCKS5",
        ),
        (
            "socks5",
            "a login",
            Proxies::End(b"\x05\xff".to_vec()),
            Fault::Hop,
            "wants a login",
        ),
        (
            "socks5",
            "the end",
            Proxies::End(Vec::new()),
            Fault::Hop,
            "closed the connection",
        ),
        (
            "socks5",
            "nothing",
            Proxies::Late(LONG, Vec::new()),
            Fault::Hop,
            "answer",
        ),
    ];
    let mut played = tokio::task::JoinSet::new();
    for (scheme, what, does, fault, says) in cases {
        played.spawn(async move {
            let proxy = proxy(does).await;
            let url = format!("{scheme}://{}", proxy.address);
            let limit = if fault == Fault::Nobody { "20s" } else { "1s" };
            let conf = Conf::to(&[NAME])
                .upstream(&format!(
                    "via = {{ url = \"{url}\", connect_timeout = \"{limit}\" }}"
                ))
                .upstream("health.kind = \"tcp\"")
                .upstream(&format!("health.timeout = \"{limit}\""))
                .upstream("health.interval = \"200ms\"")
                .upstream("health.fall = 1")
                .listener("hold_timeout = \"500ms\"");
            let entryway = Entryway::start(&conf).await;
            let hop = || entryway.handles.hops()[0].1.health().status();
            let address = || {
                let view = entryway.handles.upstreams[0].view.load();
                view.endpoints[0].addresses[0].state.as_str()
            };
            let about = format!("{scheme}, {what}");
            match fault {
                Fault::Nobody => {
                    entryway.ready(1).await;
                    let mut client = entryway.connect().await;
                    // What belongs to the answer never reaches a client, and what follows it does.
                    ping(&mut client, b"5\r\nbytes\r\n0\r\n\r\n").await;
                    assert_eq!(hop().state.as_str(), "up", "{about}");
                }
                Fault::Hop => {
                    eventually(&about, || hop().state.as_str() == "down").await;
                    let error = hop().last_error.unwrap_or_default();
                    assert!(error.contains(says), "{about}: {error}");
                    assert!(
                        error.len() < 300 && !error.contains('\x1b'),
                        "{about}: {error}"
                    );
                    // No answer to a request is the address's fault until all of them are silent.
                    assert!(says == "answer" || address() != "down", "{about}");
                }
                Fault::Address => {
                    eventually(&about, || address() == "down").await;
                    assert_eq!(hop().state.as_str(), "up", "{about}");
                    let lines = entryway.logged("probe.fail").await;
                    assert!(lines[0].to_string().contains(says), "{about}: {}", lines[0]);
                }
            }
            if fault != Fault::Nobody {
                // A client of this moment is held, and then let go without a byte.
                let mut client = entryway.connect().await;
                client.write_all(b"request").await.unwrap();
                let (bytes, end) = read_out(&mut client).await;
                assert!(bytes.is_empty() && end != End::Open, "{about}: {end:?}");
            }
            no_leaks(entryway).await;
        });
    }
    while let Some(played) = played.join_next().await {
        played.unwrap();
    }
}

/// Two names behind one proxy, of which it can resolve one: the other is down, and nothing is said about the hop.
#[tokio::test]
async fn a_name_that_the_hop_cannot_resolve_is_down_alone() {
    let echo = Upstream::echo().await;
    for scheme in ["socks5", "http"] {
        let proxy = Proxy::start("127.0.0.1:0", echo.address).await;
        proxy.tell(NAME, Way::Unknown);
        let conf = Conf::to(&[format!("{NAME}?name=near"), format!("{OTHER}?name=far")])
            .upstream(&format!("via = \"{scheme}://{}\"", proxy.address))
            .upstream("health.kind = \"tcp\"")
            .upstream("health.interval = \"200ms\"")
            .upstream("health.down_interval = \"200ms\"")
            .upstream("health.fall = 1");
        let entryway = Entryway::start(&conf).await;
        let states = || {
            let view = entryway.handles.upstreams[0].view.load();
            let endpoints = view.endpoints.iter();
            endpoints
                .map(|endpoint| endpoint.addresses[0].state.as_str())
                .collect::<Vec<_>>()
        };
        eventually("one is down and one is up", || states() == ["down", "up"]).await;
        for number in 0..20 {
            let mut client = entryway.connect().await;
            ping(&mut client, format!("client {number}").as_bytes()).await;
        }
        assert_eq!(only_hop(entryway.admin.unwrap()).await["state"], "up");
        assert!(entryway.events("hop.down").is_empty(), "{}", entryway.log());
        proxy.tell(NAME, Way::To(echo.address));
        eventually("it is back", || states()[0] != "down").await;
        no_leaks(entryway).await;
    }
}

/// What direct endpoints have, those behind a hop have too: failover, hedging, and the check of the identity.
#[tokio::test]
async fn endpoints_behind_a_hop_fail_over_are_hedged_and_identified() {
    let (one, two, odd) = (
        datomic("b/one").await,
        datomic("b/one").await,
        datomic("b/two").await,
    );
    let names = ["a.internal:8182", "b.internal:8182", "odd.internal:8182"];
    let proxy = Proxy::start("127.0.0.1:0", one.address).await;
    proxy.tell(names[1], Way::To(two.address));
    proxy.tell(names[2], Way::To(odd.address));
    let endpoints = names.map(|name| format!("{name}?name={}", &name[..1]));
    let conf = Conf::to(&endpoints)
        .upstream(&format!("via = \"socks5://{}\"", proxy.address))
        .upstream("health.kind = \"datomic\"")
        // Known once, and never asked again unless a client's attempt fails.
        .upstream("health.interval = \"1h\"");
    let entryway = Entryway::start(&conf).await;
    let told = entryway.logged("identity.mismatch").await;
    assert_eq!(told[0]["endpoint"], "o", "{told:?}");
    entryway.ready(2).await;
    let asks = async || {
        let mut client = entryway.connect().await;
        let from = client.local_addr().unwrap();
        client.write_all(b"POST").await.unwrap();
        let expected = entry_point("b/one");
        let mut got = vec![0; expected.len()];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, expected);
        drop(client);
        entryway.close_of(from).await
    };
    assert_eq!(asks().await["endpoint"], "a");
    // Its request is never answered: the second endpoint overtakes it.
    proxy.tell(names[0], Way::Silent);
    let line = asks().await;
    assert_eq!(
        (&line["endpoint"], &line["conn.hedged"]),
        (&"b".into(), &true.into()),
        "{line}"
    );
    proxy.tell(names[0], Way::Unknown);
    for _ in 0..5 {
        assert_eq!(asks().await["endpoint"], "b");
    }
    no_leaks(entryway).await;
}

fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

/// A supervised hop with this command, which is a forward.
fn forward(command: &str, more: &str) -> Conf {
    Conf::to(&[NAME])
        .upstream(&format!(
            "via = {{ supervise = {command}, speaks = \"forward\"{more} }}"
        ))
        .upstream("health.kind = \"tcp\"")
        .upstream("health.interval = \"200ms\"")
}

#[tokio::test]
async fn a_command_that_cannot_work_is_named_with_its_reason() {
    for (via, says) in [
        (
            "exec:/no/such/program %h",
            "`/no/such/program` is not found",
        ),
        (
            "supervise:/no/such/program %l",
            "`/no/such/program` is not found",
        ),
        (
            "supervise:/etc/passwd %l",
            "`/etc/passwd` may not be executed",
        ),
        (
            "supervise:sh -c 'echo \"Permission denied (publickey).\" >&2; exit 255' %l",
            "exit status: 255; it said: Permission denied (publickey).",
        ),
        ("supervise:sh -c 'kill -9 $$' %l", "signal: 9"),
    ] {
        let conf = Conf::to(&[NAME])
            .upstream(&format!("via = {via:?}"))
            .upstream("health.kind = \"tcp\"")
            .upstream("health.interval = \"200ms\"");
        let entryway = Entryway::start(&conf).await;
        let hop = || entryway.handles.hops()[0].1.health().status();
        eventually(via, || hop().state.as_str() == "down").await;
        let error = hop().last_error.unwrap_or_default();
        assert!(error.contains(says), "{via}: {error}");
        no_leaks(entryway).await;
    }
}

/// It says more than anybody reads, for as long as it runs, and works all the same.
#[tokio::test]
async fn a_command_that_floods_its_output_works() {
    let script = format!(
        "(head -c 50000000 /dev/zero | tr '\\0' 'x'; yes flood | head -n 1000000) >&2 & \
         exec {BINARY} mock --zones a --base-ip 127.0.0.1 --listen 127.0.0.1:$0"
    );
    let mut process = Process::with(&forward(&format!("['sh', '-c', {script:?}, '%l']"), "")).await;
    let admin = process.admin().await;
    let began = Instant::now();
    loop {
        let hop = only_hop(admin).await;
        let lines = hop["last_output"].as_array().unwrap().clone();
        let lines: Vec<_> = lines.iter().map(|line| line.as_str().unwrap()).collect();
        assert!(lines.len() <= 20 && lines.iter().all(|line| line.len() <= 200));
        if hop["state"] == "up" && lines.iter().filter(|line| **line == "flood").count() > 10 {
            break;
        }
        assert!(began.elapsed() < 2 * LONG, "{hop}");
        sleep(Duration::from_millis(20)).await;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let peak = status.split("VmHWM:").nth(1).unwrap();
    let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    // 55 MB were said. A debug build at rest has 30.
    assert!(peak < 50_000, "{peak} KiB at the most");
    let mut client = TcpStream::connect(process.address()).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 15];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    assert_eq!(process.term().await, 0, "{}", process.err());
}

/// SIGTERM does not end it, nor what it has started: SIGKILL does, 5 s later.
#[tokio::test]
async fn a_command_that_ignores_the_end_is_killed_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let script = "import os, signal, socket, sys, time\n\
                  signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
                  child = os.fork()\n\
                  if child == 0: time.sleep(1000)\n\
                  s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                  s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(9)\n\
                  open(sys.argv[2], 'w').write(f'{os.getpid()} {child}')\n\
                  while True: c = s.accept()[0]; c.sendall(c.recv(9))";
    let command = format!("['python3', '-c', {script:?}, '%l', {pids:?}]");
    let entryway = Entryway::start(&forward(&command, "")).await;
    entryway.ready(1).await;
    let text = std::fs::read_to_string(&pids).unwrap();
    let pids: Vec<u32> = text.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.iter().all(|pid| lives(*pid)), "{pids:?}");
    no_leaks(entryway).await;
    eventually("both have ended", || !pids.iter().any(|pid| lives(*pid))).await;
}

/// One command after the other: no descriptor, process or connection is left of those that have gone, and a client that
/// came with the first one keeps it.
#[tokio::test]
async fn commands_that_were_renewed_leave_nothing_behind() {
    let command = mock_command();
    let mut process = Process::with(&forward(&command, ", renew_after = \"1s\"")).await;
    let admin = process.admin().await;
    let after = async |count: u64| {
        let began = Instant::now();
        loop {
            let hop = only_hop(admin).await;
            if hop["restarts"].as_u64().unwrap() >= count {
                break;
            }
            assert!(began.elapsed() < 2 * LONG, "{hop}");
            sleep(Duration::from_millis(10)).await;
        }
    };
    let ask = async |client: &mut TcpStream| {
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = vec![0; 15];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200 OK");
    };
    let mut first = TcpStream::connect(process.address()).await.unwrap();
    ask(&mut first).await;
    after(2).await;
    let (open, below) = (process.descriptors(), all_below(process.pid()).len());
    after(10).await;
    // Probes, a command that is just ending and one that is just starting have some; eight that stay would have more.
    let more = process.descriptors().saturating_sub(open);
    assert!(more < 8, "{open} descriptors, then {more} more");
    let pids = all_below(process.pid());
    assert!(pids.len() < below + 4, "{below}, then {pids:?}");
    assert!(process.events("hop.down").is_empty(), "{}", process.err());
    drop(first);
    assert_eq!(process.term().await, 0, "{}", process.err());
    eventually("all have ended", || !pids.iter().any(|pid| lives(*pid))).await;
}

/// The processes below one, those that have ended and were not waited for included.
fn all_below(pid: u32) -> Vec<u32> {
    let mut all = crate::harness::namespace::children(pid);
    for child in all.clone() {
        all.extend(all_below(child));
    }
    all
}

/// Killed without a word, we leave no command behind, in the sandbox and without it.
#[cfg_attr(
    any(not(target_os = "linux"), entryway_portable),
    ignore = "only Linux ends a process with its parent"
)]
#[tokio::test]
async fn no_command_outlives_a_kill() {
    for sandbox in ["auto", "off"] {
        let conf = forward(&mock_command(), "").rest(&format!("runtime.sandbox = \"{sandbox}\""));
        let mut process = Process::with(&conf).await;
        let admin = process.admin().await;
        let began = Instant::now();
        let pid = loop {
            if let Some(pid) = only_hop(admin).await["pid"].as_u64() {
                break u32::try_from(pid).unwrap();
            }
            assert!(began.elapsed() < LONG, "{}", process.err());
            sleep(Duration::from_millis(10)).await;
        };
        process.signal(Signal::KILL);
        process.wait().await;
        eventually("the command has ended", || !lives(pid)).await;
    }
}

/// Neither the command lines of ours, nor what they print, say or answer, show a password.
#[tokio::test]
async fn a_password_is_shown_nowhere() {
    const SECRET: &str = "hunter2-hunter2";
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    std::fs::write(&file, format!("me:{SECRET}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let refuses = Proxies::End(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".to_vec());
    let proxy = proxy(refuses).await;
    let conf = Conf::to(&[NAME])
        .upstream(&format!(
            "via = {{ url = \"http://me@{}\", credentials_file = {file:?} }}",
            proxy.address
        ))
        .upstream("health.kind = \"tcp\"")
        .upstream("health.interval = \"200ms\"");
    let mut process = Process::with(&conf).await;
    let admin = process.admin().await;
    eventually("the login is refused", || {
        !process.events("hop.down").is_empty()
    })
    .await;
    let mut seen = String::new();
    for path in [
        "/v1/hops",
        "/v1/config",
        "/v1/status",
        "/v1/endpoints",
        "/v1/incidents",
        "/metrics",
        "/",
    ] {
        seen += &get(admin, path).await;
    }
    assert!(seen.contains("407"), "{seen}");
    let pids = [vec![process.pid()], all_below(process.pid())].concat();
    for pid in pids {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            seen += &String::from_utf8_lossy(&bytes);
        }
    }
    let config = process.config().display().to_string();
    for command in [
        ["doctor", "--config", &config],
        ["check", "--config", &config],
    ] {
        let (_, out, err) = crate::harness::child::run(&command).await;
        seen += &(out + &err);
    }
    process.term().await;
    seen += &(process.out() + &process.err());
    // Nor in the form in which it is sent, "me:…" in base64.
    for secret in [SECRET, "bWU6aHVudGVyMi1odW50ZXIy"] {
        assert!(!seen.contains(secret), "{secret}");
    }
}
