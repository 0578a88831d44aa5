//! Idle and half-open limits, where asked for; without them a quiet connection stays.

use std::time::Duration;

use entryway::suspend::Interruption;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::harness::client::{End, ping, read_out};
use crate::harness::namespace::in_a_namespace;
use crate::harness::upstream::{Upstream, datomic};
use crate::harness::{Conf, Entryway, Stage, eventually, no_leaks, stays};

#[tokio::test]
async fn an_idle_pair_is_ended_when_asked_for() {
    let echo = Upstream::echo().await;
    let conf = Conf::to(&[echo.address]).upstream(r#"tcp.idle_timeout = "700ms""#);
    let entryway = Entryway::start(&conf).await;
    let mut client = entryway.connect().await;
    let from = client.local_addr().unwrap();
    // Used, it lives longer than the limit.
    for _ in 0..5 {
        ping(&mut client, b"busy").await;
        stays("used", Duration::from_millis(300), || {
            entryway.handles.registry.len() == 1
        })
        .await;
    }
    let began = Instant::now();
    let (rest, _) = read_out(&mut client).await;
    assert!(rest.is_empty());
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(300) && took < Duration::from_millis(1500),
        "{took:?}"
    );
    let line = entryway.closes(from, "idle_timeout").await;
    assert!(line["conn.idle_ms"].as_u64().unwrap() >= 690, "{line}");
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_quiet_pair_stays_by_default() {
    let echo = Upstream::echo().await;
    let entryway = Entryway::start(&Conf::to(&[echo.address])).await;
    let mut client = entryway.connect().await;
    ping(&mut client, b"then nothing").await;
    stays("quiet", Duration::from_secs(4), || {
        entryway.handles.registry.len() == 1
    })
    .await;
    ping(&mut client, b"still here").await;
    no_leaks(entryway).await;
}

#[tokio::test]
async fn a_silent_half_open_pair_is_reaped_from_either_side() {
    let stage = Stage::new().await;
    let conf = Conf::to(&[stage.address()]).upstream(r#"tcp.half_open_timeout = "500ms""#);
    let entryway = Entryway::start(&conf).await;
    for by_client in [true, false] {
        let (mut client, mut server) = stage.pair(entryway.address()).await;
        let from = client.local_addr().unwrap();
        ping_through(&mut client, &mut server).await;
        let (first, second) = if by_client {
            (&mut client, &mut server)
        } else {
            (&mut server, &mut client)
        };
        first.shutdown().await.unwrap();
        assert_eq!(read_out(second).await.1, End::Fin);
        assert_eq!(read_out(first).await.1, End::Reset);
        entryway.closes(from, "half_open_timeout").await;
    }
    no_leaks(entryway).await;
}

async fn ping_through(client: &mut tokio::net::TcpStream, server: &mut tokio::net::TcpStream) {
    client.write_all(b"q").await.unwrap();
    crate::harness::client::read_exactly(server, 1).await;
    server.write_all(b"a").await.unwrap();
    crate::harness::client::read_exactly(client, 1).await;
}

/// Two connections, and a network that has forgotten one of them while this process stood still. Prints how long the
/// forgotten one lived on after that, whether the other works, and the line that tells of it.
const FORGOTTEN: &str = r#"
exec python3 - "$0" <<'PYTHON'
import json, os, signal, socket, subprocess, sys, time
binary = sys.argv[1]
def sh(line): return subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout
sh('ip link set lo up')
# What is for this machine is looked up second, so that a rule can come before it.
sh('ip rule add pref 10 lookup local && ip rule del pref 0 lookup local')
quiet = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.DEVNULL}
subprocess.Popen([binary, 'mock', '--zones', 'a', '--base-ip', '127.0.0.1', '--listen', '127.0.0.1:7001'], **quiet)
log = open('log', 'w')
proxy = subprocess.Popen([binary, 'run', '-e', '127.0.0.1:7001', '--listen', '127.0.0.1:7002', '--admin', 'off', '--control', 'off',
    '--zone', 'none', '--probe-interval', '300ms', '--log-format', 'json'], stderr=log, **quiet)
def connect():
    end = time.monotonic() + 20
    while True:
        try:
            client = socket.create_connection(('127.0.0.1', 7002), timeout=20)
            client.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
            assert client.recv(4096).startswith(b'HTTP/1.1 200'), 'no answer'
            return client
        except OSError:
            if time.monotonic() > end: raise
            time.sleep(0.02)
def ports():
    lines = sh("ss -Htn state established 'dport = :7001'").splitlines()
    return {line.split()[2].rsplit(':', 1)[1] for line in lines}
def kept(): # those of connections that stay: a probe has one of its own, for a moment
    found = ports()
    for _ in range(30):
        time.sleep(0.05)
        found &= ports()
    return found
connect().close()
others = kept()
forgotten = connect()
[port] = kept() - others
other = connect()
for way in 'sport', 'dport': sh(f'ip rule add pref 5 ipproto tcp {way} {port} blackhole')
proxy.send_signal(signal.SIGSTOP)
time.sleep(6.5)
proxy.send_signal(signal.SIGCONT)
began = time.monotonic()
try: ended = forgotten.recv(1) == b''
except ConnectionResetError: ended = True
except TimeoutError: ended = False
print(ended, round(time.monotonic() - began, 1))
other.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
print(other.recv(4096).startswith(b'HTTP/1.1 200'))
def told(): return [line['message'] for line in map(json.loads, open('log')) if line['event'] == 'wake']
while len(told()) < 2 and time.monotonic() < began + 20: time.sleep(0.05)
print(told()[-1])
PYTHON
"#;

/// By itself the kernel would ask for the first time when the connection has been idle for 15 s.
#[cfg_attr(
    any(not(target_os = "linux"), entryway_portable),
    ignore = "needs network namespaces"
)]
#[tokio::test]
async fn after_a_stop_what_the_network_has_forgotten_is_closed_and_the_rest_kept() {
    let Some(out) = in_a_namespace(FORGOTTEN).await else {
        return;
    };
    let lines: Vec<&str> = out.lines().collect();
    let [ended, other, told] = lines[..] else {
        panic!("{out}")
    };
    let (ended, after) = ended.split_once(' ').unwrap();
    assert!(
        ended == "True" && after.parse::<f64>().unwrap() < 8.0,
        "{out}"
    );
    assert_eq!(other, "True");
    assert!(
        told.starts_with("stopped for ") && told.contains(": 1 connection closed, back in "),
        "{told}"
    );
}

/// An address comes, then a default route; what does not lead elsewhere is no reason. Prints how often something was said
/// after each, and whether everything was probed again.
const ANOTHER_NETWORK: &str = r#"
exec python3 - "$0" <<'PYTHON'
import json, subprocess, sys, time
binary = sys.argv[1]
def sh(line): subprocess.run(line, shell=True, check=True)
sh('ip link set lo up')
quiet = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.DEVNULL}
log = open('log', 'w')
subprocess.Popen([binary, 'run', '-e', '127.0.0.1:9', '--listen', '127.0.0.1:0', '--admin', 'off', '--control', 'off', '--zone', 'none',
    '--probe-interval', '1h', '--log-format', 'json', '--log-level', 'debug'], stderr=log, **quiet)
def count(event): return sum(json.loads(line)['event'] == event for line in open('log') if line.endswith('\n'))
def until(holds, limit=20):
    end = time.monotonic() + limit
    while not holds() and time.monotonic() < end: time.sleep(0.02)
    return holds()
assert until(lambda: count('probe.fail') >= 1)
sh('ip link add one type dummy 2>/dev/null || ip link add one type veth peer name two')
sh('ip link set one up; ip route add 10.9.0.0/16 dev one')
time.sleep(1)
print(count('network.change'))
for change in 'ip address add 10.8.0.1/24 dev one', 'ip route add default dev one':
    told, probed = count('network.change'), count('probe.fail')
    sh(change)
    print(until(lambda: count('network.change') > told) and until(lambda: count('probe.fail') > probed))
PYTHON
"#;

#[cfg_attr(
    any(not(target_os = "linux"), entryway_portable),
    ignore = "only Linux tells of changed addresses here"
)]
#[tokio::test]
async fn in_another_network_everything_is_probed_again() {
    let Some(out) = in_a_namespace(ANOTHER_NETWORK).await else {
        return;
    };
    assert_eq!(out.trim(), "0\nTrue\nTrue");
}

/// They may lead nowhere by now.
#[tokio::test]
async fn after_a_sleep_no_spare_of_before_is_used() {
    let echo = Upstream::echo().await;
    let conf = Conf::to(&[echo.address]).upstream("warm.spares = 3");
    let entryway = Entryway::start(&conf).await;
    let spares = || entryway.metric("entryway_warm_spares", &[]);
    eventually("the spares", || spares() == 3.0).await;
    let slept = Interruption::Suspended(Duration::from_secs(8000));
    entryway.handles.woke(slept);
    let dropped = || entryway.metric("entryway_warm_total", &[("result", "expired")]);
    eventually("others", || echo.accepted() == 6).await;
    eventually("as spares", || spares() == 3.0 && dropped() == 3.0).await;
    ping(&mut entryway.connect().await, b"x").await;
    no_leaks(entryway).await;
}

#[tokio::test]
async fn after_a_sleep_one_line_says_what_it_did() {
    let entry = datomic("prod/x").await;
    let conf = Conf::to(&[entry.address])
        .upstream("health.kind = \"datomic\"")
        .upstream("health.interval = \"500ms\"");
    let entryway = Entryway::start(&conf).await;
    entryway.ready(1).await;
    let slept = Interruption::Suspended(Duration::from_secs(8000));
    entryway.handles.woke(slept);
    let said = |part: &str| {
        let lines = entryway.events("wake");
        let mut texts = lines.iter().filter_map(|line| line["message"].as_str());
        texts.any(|text| text.contains(part))
    };
    eventually("the line", || said("back in")).await;
    assert!(said("slept 2 h 13 min: no connection closed, back in "));
    no_leaks(entryway).await;
}
