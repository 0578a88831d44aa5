//! Upstreams that are reached through hops: proxies, commands per connection, commands that are kept alive.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::harness::child::{BINARY, Process, mock_command};
use crate::harness::client::{End, get, ping, read_out};
use crate::harness::proxy::{Proxy, Way};
use crate::harness::upstream::Upstream;
use crate::harness::{Conf, Entryway, LONG, eventually, no_leaks};

/// A name that no resolver knows.
const NAME: &str = "entry.prod.internal:8182";

async fn hops(entryway: &Entryway) -> Vec<Value> {
    let text = get(entryway.admin.unwrap(), "/v1/hops").await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    answer["hops"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_name_goes_through_a_proxy_as_it_is() {
    let echo = Upstream::echo().await;
    let proxy = Proxy::start("127.0.0.1:0", echo.address).await;
    for scheme in ["socks5", "http"] {
        let conf = Conf::to(&[NAME])
            .upstream(&format!("via = \"{scheme}://{}\"", proxy.address))
            .upstream("health.kind = \"tcp\"");
        let entryway = Entryway::start(&conf).await;
        entryway.ready(1).await;
        let mut client = entryway.connect().await;
        let from = client.local_addr().unwrap();
        ping(&mut client, b"through").await;
        client.shutdown().await.unwrap();
        assert_eq!(read_out(&mut client).await, (Vec::new(), End::Fin));
        let line = entryway.closes(from, "client_fin").await;
        assert_eq!(line["server.address"], "entry.prod.internal", "{line}");
        assert_eq!(line["server.port"], 8182, "{line}");
        assert!(proxy.asked().iter().all(|asked| asked == NAME));
        let rows = hops(&entryway).await;
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(
            (&rows[0]["kind"], &rows[0]["state"]),
            (&scheme.into(), &"up".into())
        );
        assert_eq!(
            entryway.metric("entryway_hop_up", &[("upstream", "default")]),
            1.0
        );
        assert!(entryway.sum("entryway_hop_connect_seconds") > 0.0);
        let endpoints = get(entryway.admin.unwrap(), "/v1/endpoints").await;
        assert!(endpoints.contains(NAME), "{endpoints}");
        assert!(!endpoints.contains("100::"), "{endpoints}");
        no_leaks(entryway).await;
    }
}

/// The key of an address behind a hop, `100::…`, is nothing for people.
#[tokio::test]
async fn an_address_behind_a_hop_is_shown_by_its_name() {
    let echo = Upstream::echo().await;
    let proxy = Proxy::start("127.0.0.1:0", echo.address).await;
    let literal = "10.9.8.7:8182";
    let start = |name: &str, dns: &str| {
        let via = format!(
            "via = {{ url = \"http://{}\", dns = \"{dns}\" }}",
            proxy.address
        );
        let conf = Conf::to(&[name])
            .upstream(&via)
            .upstream("health.kind = \"tcp\"")
            .upstream("health.interval = \"200ms\"")
            .upstream("health.fall = 1");
        async move { Entryway::start(&conf).await }
    };
    let locally = start(literal, "local").await;
    let remotely = start(NAME, "remote").await;
    locally.ready(1).await;
    remotely.ready(1).await;
    // The proxy answers 502, which is about the address.
    for name in [literal, NAME] {
        proxy.tell(name, Way::Unknown);
    }
    for (entryway, name) in [(&locally, literal), (&remotely, NAME)] {
        eventually("the event", || {
            !entryway.events("upstream.unreachable").is_empty()
        })
        .await;
        let (host, _) = name.split_once(':').unwrap();
        for event in ["endpoint.state", "probe.fail"] {
            for line in entryway.logged(event).await {
                assert_eq!(line["server.address"], host, "{line}");
                assert_eq!(line["server.port"], 8182, "{line}");
            }
        }
        let line = &entryway.events("upstream.unreachable")[0];
        let error = line["error"].as_str().unwrap();
        assert!(error.starts_with(name), "{error}");
        let admin = entryway.admin.unwrap();
        let history = get(admin, "/v1/history").await;
        assert!(history.contains(name), "{history}");
        let page = get(admin, "/").await;
        assert!(page.contains("<svg"), "no strip: {page}");
        let incidents: Value = serde_json::from_str(&get(admin, "/v1/incidents").await).unwrap();
        let id = incidents["incidents"][0]["id"].as_str().unwrap();
        let incident = get(admin, &format!("/v1/incidents/{id}")).await;
        for text in [entryway.log(), history, page, incident] {
            assert!(!text.contains("100::"), "{text}");
        }
    }
    for name in [literal, NAME] {
        proxy.tell(name, Way::To(echo.address));
    }
    for entryway in [locally, remotely] {
        no_leaks(entryway).await;
    }
}

#[tokio::test]
async fn a_hop_that_fails_is_blamed_itself() {
    let echo = Upstream::echo().await;
    let proxy = Proxy::start("127.0.0.1:0", echo.address).await;
    let (address, at) = (proxy.address, proxy.address.to_string());
    let conf = Conf::to(&[NAME])
        .upstream(&format!("via = \"socks5://{address}\""))
        .upstream("health.kind = \"tcp\"")
        .upstream("health.interval = \"200ms\"");
    let entryway = Entryway::start(&conf).await;
    entryway.ready(1).await;
    proxy.task.abort();
    let _ = proxy.task.await;
    let state = || {
        let view = entryway.handles.upstreams[0].view.load();
        view.endpoints[0].addresses[0].state.as_str()
    };
    eventually("the address is unknown, not down", || state() == "unknown").await;
    assert_eq!(hops(&entryway).await[0]["state"], "down");
    eventually("the event", || !entryway.events("hop.down").is_empty()).await;
    assert!(
        !entryway
            .events("endpoint.state")
            .iter()
            .any(|line| line["to"] == "down"),
        "{}",
        entryway.log()
    );
    // A client of this moment waits, and is served when the hop is back.
    let mut client = entryway.connect().await;
    client.write_all(b"held").await.unwrap();
    let back = Proxy::start(&at, echo.address).await;
    let mut got = [0; 4];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"held");
    entryway.ready(1).await;
    assert_eq!(hops(&entryway).await[0]["state"], "up");
    drop((client, back));
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_hop_that_is_silent_is_down_and_its_address_is_not() {
    let echo = Upstream::echo().await;
    let proxy = Proxy::start("127.0.0.1:0", echo.address).await;
    let conf = Conf::to(&[NAME])
        .upstream(&format!("via = \"socks5://{}\"", proxy.address))
        .upstream("health.kind = \"tcp\"")
        .upstream("health.interval = \"200ms\"")
        .upstream("health.timeout = \"100ms\"");
    let entryway = Entryway::start(&conf).await;
    entryway.ready(1).await;
    proxy.mute.store(true, SeqCst);
    eventually("the hop is down", || {
        let hop = &entryway.handles.hops()[0].1;
        hop.health().status().state.as_str() == "down"
    })
    .await;
    let error = hops(&entryway).await[0]["last_error"].to_string();
    assert!(error.contains("silent"), "{error}");
    proxy.mute.store(false, SeqCst);
    entryway.ready(1).await;
    no_leaks(entryway).await;
}

/// Regular probes never come here: whoever waits for a dead tunnel has everything behind it asked at once.
#[tokio::test]
async fn a_connection_that_waits_finds_out_that_the_hop_is_silent() {
    let echo = Upstream::echo().await;
    let proxy = Proxy::start("127.0.0.1:0", echo.address).await;
    let conf = Conf::to(&[NAME, "other.prod.internal:8182"])
        // Its own limit would end the attempt long after the test has given up.
        .upstream(&format!(
            "via = {{ url = \"socks5://{}\", connect_timeout = \"10m\" }}",
            proxy.address
        ))
        .upstream("health.kind = \"tcp\"")
        .upstream("health.interval = \"1h\"");
    let entryway = Entryway::start(&conf).await;
    entryway.ready(2).await;
    proxy.mute.store(true, SeqCst);
    let mut client = entryway.connect().await;
    client.write_all(b"held").await.unwrap();
    let hop = || {
        entryway.handles.hops()[0]
            .1
            .health()
            .status()
            .state
            .as_str()
    };
    eventually("the hop is down", || hop() == "down").await;
    // It is the hop's fault alone.
    for state in entryway.events("endpoint.state") {
        assert_ne!(state["to"], "down", "{state}");
    }
    proxy.mute.store(false, SeqCst);
    let mut got = [0; 4];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"held");
    drop(client);
    no_leaks(entryway).await;
}

/// The connections that are open are the only sign of it: a forward takes new ones as before.
#[tokio::test]
async fn a_silent_forward_is_replaced_when_an_answer_is_overdue() {
    let command = mock_command();
    let conf = Conf::to(&[NAME])
        .upstream(&format!(
            "via = {{ supervise = {command}, speaks = \"forward\" }}"
        ))
        .upstream("health.kind = \"datomic\"")
        .upstream("health.interval = \"1h\"");
    let entryway = Entryway::start(&conf).await;
    entryway.ready(1).await;
    let ask = async |client: &mut TcpStream| {
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = [0; 15];
        client.read_exact(&mut answer).await.map(|_| answer)
    };
    let mut client = entryway.connect().await;
    assert_eq!(&ask(&mut client).await.unwrap(), b"HTTP/1.1 200 OK");
    let first = hops(&entryway).await[0]["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let is_stopped = |stat: std::path::PathBuf| {
        std::fs::read_to_string(stat).is_ok_and(|stat| stat.contains(") T "))
    };
    eventually("all its threads stand still", || {
        let threads = std::fs::read_dir(format!("/proc/{first}/task")).unwrap();
        threads
            .flatten()
            .all(|thread| is_stopped(thread.path().join("stat")))
    })
    .await;
    let mut waiting = entryway.connect().await;
    // It ends with the command that it went through.
    ask(&mut waiting).await.unwrap_err();
    entryway.ready(1).await;
    let mut next = entryway.connect().await;
    assert_eq!(&ask(&mut next).await.unwrap(), b"HTTP/1.1 200 OK");
    assert_eq!(
        entryway.metric(
            "entryway_hop_restarts_total",
            &[("upstream", "default"), ("reason", "silent")]
        ),
        1.0
    );
    drop((client, waiting, next));
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_command_per_connection() {
    let conf = Conf::to(&[NAME])
        .upstream("via = \"exec:cat\"")
        .upstream("health.kind = \"tcp\"");
    let entryway = Entryway::start(&conf).await;
    entryway.ready(1).await;
    let mut client = entryway.connect().await;
    ping(&mut client, b"cat says it back").await;
    client.shutdown().await.unwrap();
    assert_eq!(read_out(&mut client).await, (Vec::new(), End::Fin));
    no_leaks(entryway).await;
}

#[tokio::test]
async fn spares_wait_behind_a_command_per_connection() {
    let conf = Conf::to(&[NAME])
        .upstream("via = \"exec:cat\"")
        .upstream("health.kind = \"tcp\"")
        .upstream("warm.spares = 2");
    let entryway = Entryway::start(&conf).await;
    entryway.ready(1).await;
    let spares = || entryway.metric("entryway_warm_spares", &[]);
    eventually("two spares", || spares() == 2.0).await;
    let mut clients = Vec::new();
    for text in [&b"first"[..], b"second", b"third", b"fourth"] {
        let mut client = entryway.connect().await;
        ping(&mut client, text).await;
        clients.push(client);
    }
    for client in &mut clients {
        // Whatever came for one client came for no other.
        ping(client, b"again").await;
        client.shutdown().await.unwrap();
        assert_eq!(read_out(client).await, (Vec::new(), End::Fin));
    }
    let used = entryway.metric("entryway_warm_total", &[("result", "used")]);
    assert!(used >= 2.0, "{used}");
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_command_is_kept_alive() {
    let command = mock_command();
    let conf = Conf::to(&[NAME])
        .upstream(&format!(
            "via = {{ supervise = {command}, speaks = \"forward\" }}"
        ))
        .upstream("health.kind = \"datomic\"");
    let entryway = Entryway::start(&conf).await;
    entryway.ready(1).await;
    let first = hops(&entryway).await[0]["pid"].as_u64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let hop = || entryway.handles.hops()[0].1.health().status();
    eventually("another one runs", || {
        let status = hop();
        status.restarts == 1 && status.pid.is_some_and(|pid| u64::from(pid) != first)
    })
    .await;
    entryway.ready(1).await;
    assert_eq!(
        entryway.metric(
            "entryway_hop_restarts_total",
            &[("upstream", "default"), ("reason", "exit")]
        ),
        1.0
    );
    let last = hop().pid.unwrap();
    no_leaks(entryway).await;
    let gone = || !std::path::Path::new(&format!("/proc/{last}")).exists();
    eventually("no command outlives its hop", gone).await;
}

async fn only_hop(admin: SocketAddr) -> Value {
    let answer: Value = serde_json::from_str(&get(admin, "/v1/hops").await).unwrap();
    answer["hops"][0].clone()
}

/// A command per target belongs to its target: a reload that leads elsewhere ends it, and its end says nothing about
/// the hop.
#[tokio::test]
async fn a_command_ends_with_its_target() {
    let script = format!("exec {BINARY} mock --zones a --base-ip 127.0.0.1 --listen 127.0.0.1:%l");
    let conf = |target: &str| {
        Conf::to(&[target])
            .upstream(&format!(
                "via = {{ supervise = ['sh', '-c', '{script}', '%h', '%p'], speaks = \"forward\" }}"
            ))
            .upstream("health.kind = \"datomic\"")
    };
    let mut process = Process::with(&conf("one.internal:8182")).await;
    let admin = process.admin().await;
    let pid_but = async |other: u64| {
        let began = Instant::now();
        loop {
            let hop = only_hop(admin).await;
            if let Some(pid) = hop["pid"].as_u64().filter(|pid| *pid != other) {
                break pid;
            }
            assert!(began.elapsed() < LONG, "{hop}: {}", process.err());
            sleep(Duration::from_millis(10)).await;
        }
    };
    let first = pid_but(0).await;
    std::fs::write(process.config(), conf("two.internal:8182").text()).unwrap();
    process.signal(Signal::HUP);
    let second = pid_but(first).await;
    let lives = |pid: u64| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
    };
    eventually("the first has ended", || !lives(first)).await;
    let hop = only_hop(admin).await;
    assert_eq!((&hop["state"], &hop["pid"]), (&"up".into(), &second.into()));
    assert_eq!(hop["restarts"], 0, "{hop}");
    assert!(process.events("hop.down").is_empty(), "{}", process.err());
    process.signal(Signal::TERM);
    process.wait().await;
    assert!(!lives(second));
}

/// socat, for one, cannot bind a port that is reserved.
#[tokio::test]
async fn a_command_that_does_not_share_its_port_gets_one_of_its_own() {
    let script = "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(9)\n\
                  while True: c = s.accept()[0]; c.sendall(c.recv(9))";
    let command = format!("['python3', '-c', {script:?}, '%l']");
    let conf = Conf::to(&[NAME])
        .upstream(&format!(
            "via = {{ supervise = {command}, speaks = \"forward\" }}"
        ))
        .upstream("health.kind = \"tcp\"");
    let entryway = Entryway::start(&conf).await;
    entryway.ready(1).await;
    let mut client = entryway.connect().await;
    ping(&mut client, b"through").await;
    assert!(entryway.events("hop.down").is_empty(), "{}", entryway.log());
    drop(client);
    no_leaks(entryway).await;
}

#[tokio::test]
async fn endpoints_may_have_hops_of_their_own() {
    let echo = Upstream::echo().await;
    let proxy = Proxy::start("127.0.0.1:0", echo.address).await;
    let text = format!(
        r#"
        admin.bind = "127.0.0.1:0"
        admin.control = "off"
        log.format = "json"
        runtime.workers = 2
        [[listener]]
        bind = ["127.0.0.1:0"]
        [[upstream]]
        zone = "none"
        health.kind = "tcp"
        via = "socks5://127.0.0.1:1"
        endpoint = [
            {{ address = "{direct}", name = "direct", via = "direct" }},
            {{ address = "{NAME}", name = "proxied", via = "socks5://{proxy}" }},
        ]
        "#,
        direct = echo.address,
        proxy = proxy.address,
    );
    let entryway = Entryway::start_text(&text).await;
    entryway.ready(2).await;
    assert_eq!(hops(&entryway).await.len(), 1);
    no_leaks(entryway).await;
}
