//! Faults of the path that are neither silence nor a refusal: full-size packets that vanish, a route of this machine
//! that swallows a zone, and clients of upstreams that read slowly.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::client::{eventually, last_word, request, within};
use crate::live_connections::fast;
use crate::process::Proxy;
use crate::server::{Probes, Server};
use crate::topology::{Fault, Topology, ZONES, address, sh};
use crate::{SECOND, Table, long};

/// Small packets pass, those of full size never do: probes succeed, an upload is stuck. Whoever reads the log is told.
pub fn full_size_packets_vanish(topology: &Topology, table: &mut Table) {
    let proxy = Proxy::entryway(&["--config", fast()]);
    Fault::LargePackets.begin(topology, "a");
    let mut upload = TcpStream::connect(proxy.address).unwrap();
    let body = [0x5a; 64 * 1024];
    let head = format!(
        "POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    upload.write_all(head.as_bytes()).unwrap();
    upload.write_all(&body).unwrap();
    let (end, took) = last_word(&mut upload, 20 * SECOND);
    let small = request(proxy.address, 5 * SECOND);
    let (state, served) = (
        proxy.state("a"),
        proxy.metric("entryway_bytes_total", &["download", "zone=\"a\""]),
    );
    let line = within(5 * SECOND, || closed_line(&proxy, "user_timeout"));
    Fault::LargePackets.end(topology, "a");
    let hint = line
        .as_ref()
        .and_then(|line| line["hint"].as_str())
        .unwrap_or("none")
        .to_owned();
    table.row(
        "packets over 1000 bytes vanish, fast.toml",
        "upload RST ≤ 5s with the MTU hint; zone a serves",
        format!(
            "{end} after {took:.1?}; small {small:.1?}, a {state}, {served} bytes; hint: {hint}"
        ),
        end == "RST"
            && took <= 5 * SECOND
            && small.is_ok()
            && state == "up"
            && served > 0.0
            && hint.contains("MTU"),
    );
}

/// The last `conn.close` line with this reason.
fn closed_line(proxy: &Proxy, reason: &str) -> Option<Value> {
    let log = proxy.process.log();
    log.lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["event"] == "conn.close" && line["conn.reason"] == reason)
}

/// A blackhole route of the proxy's own machine: connect fails with EINVAL.
pub fn blackhole_route(_lab: &Topology, table: &mut Table) {
    let proxy = Proxy::entryway(&[]);
    let route = format!("{}/32", address("a"));
    sh(&format!("ip route add blackhole {route}"));
    let began = Instant::now();
    let first = request(proxy.address, 5 * SECOND);
    let down = within(20 * SECOND, || {
        (proxy.state("a") == "down").then(|| began.elapsed())
    });
    // Lines are written by a thread of their own: the state can be seen before the line.
    let named = within(5 * SECOND, || {
        let log = proxy.process.log();
        let mut lines = log.lines();
        lines
            .any(|line| line.contains("endpoint.state") && line.contains("blackhole"))
            .then_some(())
    })
    .is_some();
    sh(&format!("ip route del blackhole {route}"));
    table.row(
        "a blackhole route of this machine",
        "other zone ≤ 0.5s, a down ≤ 11s, route named",
        format!("first {first:.1?}, down after {down:.1?}, named {named}"),
        first.is_ok_and(|took| took <= SECOND / 2)
            && down.is_some_and(|took| took <= 11 * SECOND)
            && named,
    );
}

/// Upstreams that read slowly acknowledge: `user_timeout` is for those that acknowledge nothing.
pub fn slow_readers(_lab: &Topology, table: &mut Table) {
    let port = 9182;
    let _servers = ZONES.map(|zone| Server::start(zone, port, Probes::Well));
    let proxy = Proxy::at_port(port, &["--config", fast()]);
    eventually(5 * SECOND, || (proxy.healthy() == 3).then_some(()));
    let lasts = Duration::from_secs(if long() { 60 } else { 10 });
    let clients = [4, 64, 1024].map(|kib_per_second: usize| {
        let to = proxy.address;
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(to).unwrap();
            let head = format!(
                "POST /slowly/{kib_per_second} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.set_write_timeout(Some(SECOND / 10)).unwrap();
            let (began, mut sent) = (Instant::now(), 0);
            while began.elapsed() < lasts {
                match stream.write(&[0x5a; 16 * 1024]) {
                    Ok(bytes) => sent += bytes,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err((error.kind(), began.elapsed(), sent)),
                }
            }
            // Alive until everybody has been looked at.
            Ok((stream, sent))
        })
    });
    let outcomes = clients.map(|client| client.join().unwrap());
    let ended = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let timeouts = proxy.metric(
        "entryway_connections_closed_total",
        &["reason=\"user_timeout\""],
    );
    let sent: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok((_, sent)) => format!("{} KiB", sent / 1024),
            Err((kind, after, _)) => format!("{kind:?} after {after:.1?}"),
        })
        .collect();
    table.row(
        "upstreams that read 4, 64, 1024 KiB/s",
        "0 ended in many × user_timeout (1s)",
        format!("{ended} ended, {timeouts} timeouts, sent {sent:?} in {lasts:?}"),
        ended == 0 && timeouts == 0.0,
    );
}
