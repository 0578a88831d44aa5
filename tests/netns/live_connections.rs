//! Established connections: busy, waiting, idle, and a client that is not there any more.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{ask, eventually, last_word, within};
use crate::process::Proxy;
use crate::server::{Probes, Server};
use crate::topology::{Fault, PROXY_HOST, REMOTE, Topology, ZONES, address, inside, silence};
use crate::{MS, SECOND, Table};

/// `config/fast.toml` without the target that it samples: the topology gives its own.
pub fn fast() -> &'static str {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/fast.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let target = ["peering", "system", "region"];
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| !target.iter().any(|key| line.starts_with(key)))
        .collect();
    std::fs::write("/run/fast.toml", kept.join("\n")).unwrap();
    "/run/fast.toml"
}

/// Bytes are under way, both ways, when the zone falls silent.
pub fn busy(topology: &Topology, table: &mut Table) {
    let port = 9182;
    let limit = 1500 * MS;
    for fault in [Fault::BlackHole, Fault::OneWay] {
        let servers = ZONES.map(|zone| Server::start(zone, port, Probes::Well));
        let proxy = Proxy::at_port(port, &["--config", fast()]);
        eventually(5 * SECOND, || (proxy.healthy() == 3).then_some(()));
        let mut busy = TcpStream::connect(proxy.address).unwrap();
        busy.write_all(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut reads = busy.try_clone().unwrap();
        let read = std::thread::spawn(move || last_word(&mut reads, 20 * SECOND));
        eventually(5 * SECOND, || {
            (proxy.metric("entryway_bytes_total", &["download", "zone=\"a\""]) > 1e6).then_some(())
        });
        fault.begin(topology, "a");
        let began = Instant::now();
        let (error, took) = write_until_told(&mut busy, began);
        // Our kernel sends nothing when it gives up: the upstream hears of it when it says something that arrives.
        fault.end(topology, "a");
        let upstream = within(6 * SECOND, || {
            let seen = servers[0].seen();
            let ended = seen.iter().find(|seen| seen.bytes.starts_with(b"GET /s"))?;
            ended.ended.map(|(at, _)| at - began)
        });
        let (word, _) = read.join().unwrap();
        table.row(
            &format!("{fault:?}, busy, config/fast.toml"),
            "client told ≤ 1.5s, upstream once it can be",
            format!(
                "client {error:?} after {took:.2?} (read side {word}), upstream {upstream:.2?}"
            ),
            took <= limit && upstream.is_some(),
        );
    }
}

fn write_until_told(stream: &mut TcpStream, began: Instant) -> (ErrorKind, Duration) {
    let chunk = [0x5a; 16 * 1024];
    stream.set_write_timeout(Some(20 * MS)).unwrap();
    loop {
        match stream.write(&chunk) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return (error.kind(), began.elapsed()),
        }
        if began.elapsed() > 20 * SECOND {
            return (ErrorKind::TimedOut, began.elapsed());
        }
    }
}

/// A request waits for its answer on a zone that falls silent: reads must be able to go elsewhere within 10 s.
pub fn waiting(topology: &Topology, table: &mut Table) {
    let proxy = Proxy::entryway(&[]);
    topology.mode("a", "slow");
    let mut waits = TcpStream::connect(proxy.address).unwrap();
    waits
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut others = TcpStream::connect(proxy.address).unwrap();
    eventually(5 * SECOND, || {
        (proxy.metric("entryway_bytes_total", &["upload", "zone=\"a\""]) > 0.0).then_some(())
    });
    Fault::BlackHole.begin(topology, "a");
    let (end, took) = last_word(&mut waits, 40 * SECOND);
    let (rest, rested) = last_word(&mut others, 40 * SECOND);
    Fault::BlackHole.end(topology, "a");
    topology.mode("a", "ok");
    table.row(
        "BlackHole, request waits",
        "RST ≤ 10s; one at rest FIN ≤ 10s",
        format!("{end} after {took:.1?}; at rest {rest} {rested:.1?} later"),
        end == "RST" && took <= 10 * SECOND && rest == "FIN" && took + rested <= 10 * SECOND,
    );
}

/// An idle connection on a zone that falls silent, and nothing but keepalive to tell.
pub fn idle(topology: &Topology, table: &mut Table) {
    let keep = "\n[[upstream]]\n[upstream.health]\non_down = \"keep\"\n";
    std::fs::write("/run/keep.toml", keep).unwrap();
    let fast = std::fs::read_to_string(fast()).unwrap();
    let fast = fast.replace("[upstream.health]", "[upstream.health]\non_down = \"keep\"");
    std::fs::write("/run/fast-keep.toml", fast).unwrap();
    for (name, config, limit) in [
        ("config/fast.toml", "/run/fast-keep.toml", 3),
        ("defaults", "/run/keep.toml", 30),
    ] {
        let proxy = Proxy::entryway(&["--config", config]);
        let mut idle = TcpStream::connect(proxy.address).unwrap();
        ask(&mut idle, "").unwrap();
        Fault::BlackHole.begin(topology, "a");
        let (end, took) = last_word(&mut idle, 60 * SECOND);
        Fault::BlackHole.end(topology, "a");
        table.row(
            &format!("BlackHole, idle, {name}, keep"),
            &format!("told ≤ {limit}s"),
            format!("{end} after {took:.1?}"),
            end != "nothing" && took <= Duration::from_secs(limit),
        );
    }
}

/// A keepalive probe that is lost is no lost connection, although the user timeout is shorter than the probing.
pub fn lost_probes(topology: &Topology, table: &mut Table) {
    let config = "/run/lost-probes.toml";
    let text = "[[upstream]]\n[upstream.health]\non_down = \"keep\"\n[upstream.tcp]\nkeepalive = \"2s\"\n\
        keepalive_interval = \"2s\"\nkeepalive_probes = 6\nuser_timeout = \"5s\"\n";
    std::fs::write(config, text).unwrap();
    let proxy = Proxy::entryway(&["--config", config]);
    let mut idle = TcpStream::connect(proxy.address).unwrap();
    ask(&mut idle, "").unwrap();
    eventually(5 * SECOND, || has_keepalive_timer("a").then_some(()));
    Fault::BlackHole.begin(topology, "a");
    let (end, took) = last_word(&mut idle, 7 * SECOND);
    Fault::BlackHole.end(topology, "a");
    let again = ask(&mut idle, "");
    table.row(
        "BlackHole for 7s, idle, 6 keepalive probes 2s apart",
        "the connection lives",
        format!("{end} after {took:.1?}, then {again:?}"),
        end == "nothing" && again.is_ok(),
    );
}

/// Whether a connection to this zone has its keepalive on: timer 2 in the kernel's table.
fn has_keepalive_timer(zone: &str) -> bool {
    let ip: std::net::Ipv4Addr = address(zone).parse().unwrap();
    let to = format!("{:08X}:", u32::from_le_bytes(ip.octets()));
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = sockets.lines().map(|line| line.split_whitespace());
    lines.any(|mut fields| {
        fields.nth(2).is_some_and(|remote| remote.starts_with(&to))
            && fields.nth(2).is_some_and(|timer| timer.starts_with("02:"))
    })
}

/// A client on another machine that vanishes without a word frees its upstream.
pub fn vanished_client(_lab: &Topology, table: &mut Table) {
    let port = 9182;
    let servers = ZONES.map(|zone| Server::start(zone, port, Probes::Well));
    let listen = format!("{PROXY_HOST}:9183");
    let flags = ["--config", fast(), "--listen", &listen, "--allow-remote"];
    let proxy = Proxy::at_port(port, &flags);
    eventually(5 * SECOND, || (proxy.healthy() == 3).then_some(()));
    let to: SocketAddr = listen.parse().unwrap();
    let client = inside(REMOTE, move || {
        let mut stream = TcpStream::connect(to).unwrap();
        stream
            .write_all(b"GET /t HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        stream
    });
    let idle = client.join().unwrap();
    eventually(5 * SECOND, || {
        let seen = servers[0].seen();
        seen.iter().any(|seen| !seen.bytes.is_empty()).then_some(())
    });
    idle.set_nonblocking(true).unwrap();
    silence("add", REMOTE, "10.77.4.2");
    let began = Instant::now();
    let upstream = within(20 * SECOND, || {
        let seen = servers[0].seen();
        let ended = seen.iter().find_map(|seen| seen.ended)?;
        Some((ended.0 - began, ended.1))
    });
    silence("del", REMOTE, "10.77.4.2");
    table.row(
        "remote client vanishes, config/fast.toml",
        "its upstream freed ≤ 5s (keepalive 1s+1s×3)",
        format!("{upstream:.1?}"),
        upstream.is_some_and(|(at, _)| at <= 5 * SECOND),
    );
}
