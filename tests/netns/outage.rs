//! Nothing to dial, nothing that probes like, everything back at once.

use std::net::TcpStream;
use std::sync::{Arc, Barrier};

use tokio::time::Instant;

use crate::client::{eventually, last, last_word, request, request_path, within};
use crate::process::Proxy;
use crate::server::{Probes, Server};
use crate::topology::{Topology, ZONES};
use crate::{MS, SECOND, Table};

/// Every address is down, with `when_all_down` = `try`.
pub fn all_dead_try(topology: &Topology, table: &mut Table) {
    let proxy = Proxy::entryway(&["--when-all-down", "try"]);
    topology.mode_of_all("refuse");
    let ends: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(proxy.address).unwrap();
            last_word(&mut stream, 12 * SECOND)
        })
        .collect();
    topology.mode_of_all("ok");
    let fins = ends.iter().filter(|(end, _)| *end == "FIN").count();
    let slowest = ends.iter().map(|(_, took)| *took).max().unwrap();
    table.row(
        "all refuse, try",
        "50 of 50 FIN ≤ 100ms",
        format!("{fins} FIN, slowest {slowest:.1?}"),
        fins == 50 && slowest <= 100 * MS,
    );
}

/// Every address is down, with `when_all_down` = `hold`.
pub fn all_dead_hold(topology: &Topology, table: &mut Table) {
    let proxy = Proxy::entryway(&[]);
    topology.mode_of_all("refuse");
    let address = proxy.address;
    let held = std::thread::spawn(move || request(address, 15 * SECOND));
    eventually(5 * SECOND, || {
        (proxy.metric("entryway_connections_parked", &[]) == 1.0).then_some(())
    });
    last(2 * SECOND);
    topology.mode_of_all("ok");
    let back = Instant::now();
    let held = held.join().unwrap();
    let late = back.elapsed();
    table.row(
        "all refuse for 2 s, hold",
        "served ≤ 1.3s after one is back",
        format!("{held:.1?}, {late:.1?} after"),
        held.is_ok() && late <= 1300 * MS,
    );
    drop(proxy);
    let proxy = Proxy::entryway(&[]);
    topology.mode_of_all("refuse");
    let mut stream = TcpStream::connect(proxy.address).unwrap();
    let (end, took) = last_word(&mut stream, 15 * SECOND);
    topology.mode_of_all("ok");
    table.row(
        "all refuse, hold",
        "FIN at hold_timeout (10s)",
        format!("{end} after {took:.1?}"),
        end == "FIN" && took.abs_diff(10 * SECOND) <= 300 * MS,
    );
}

/// Every address is down, with `when_all_down` = `refuse`.
pub fn all_dead_refuse(topology: &Topology, table: &mut Table) {
    let flags = ["--when-all-down", "refuse", "--probe-interval", "1s"];
    let proxy = Proxy::entryway(&flags);
    topology.mode_of_all("refuse");
    eventually(5 * SECOND, || {
        ZONES
            .iter()
            .all(|zone| proxy.state(zone) == "down")
            .then_some(())
    });
    let down = Instant::now();
    let refused = within(5 * SECOND, || {
        TcpStream::connect(proxy.address)
            .is_err()
            .then(|| down.elapsed())
    });
    topology.mode_of_all("ok");
    eventually(8 * SECOND, || (proxy.healthy() > 0).then_some(()));
    let healthy = Instant::now();
    let served = within(5 * SECOND, || {
        request(proxy.address, 2 * SECOND)
            .is_ok()
            .then(|| healthy.elapsed())
    });
    table.row(
        "all refuse, refuse",
        "closed ≤ 1s, bound again ≤ 1s",
        format!(
            "closed {refused:.1?} after the last was down, serves {served:.1?} after one was not"
        ),
        refused.is_some_and(|took| took <= SECOND) && served.is_some_and(|took| took <= SECOND),
    );
}

/// Probes fail everywhere, connects work everywhere.
pub fn fail_open(_lab: &Topology, table: &mut Table) {
    let port = 9182;
    let _servers = ZONES.map(|zone| Server::start(zone, port, Probes::Never));
    let proxy = Proxy::at_port(port, &["--probe-interval", "1s"]);
    eventually(15 * SECOND, || {
        ZONES
            .iter()
            .all(|zone| proxy.state(zone) == "down")
            .then_some(())
    });
    let count = 1000;
    let failed = (0..count)
        .filter(|_| request_path(proxy.address, "/t", 5 * SECOND).is_err())
        .count();
    let gauge = proxy.metric("entryway_fail_open", &[]);
    table.row(
        "every probe fails, connects work",
        "0 of 1000 fail, fail_open = 1",
        format!("{failed} fail, fail_open = {gauge}"),
        failed == 0 && gauge == 1.0,
    );
}

/// 500 wait, then one zone returns.
pub fn parked(_lab: &Topology, table: &mut Table) {
    let (port, count) = (9182, 500);
    let proxy = Proxy::at_port(port, &[]);
    let ready = Arc::new(Barrier::new(count + 1));
    let clients: Vec<_> = (0..count)
        .map(|nth| {
            let (address, ready) = (proxy.address, Arc::clone(&ready));
            std::thread::Builder::new()
                .stack_size(128 << 10)
                .spawn(move || {
                    ready.wait();
                    request_path(address, &format!("/t/{nth}"), 15 * SECOND)
                })
                .unwrap()
        })
        .collect();
    ready.wait();
    eventually(8 * SECOND, || {
        (proxy.metric("entryway_connections_parked", &[]) == count as f64).then_some(())
    });
    let server = Server::start("b", port, Probes::Well);
    let back = Instant::now();
    let failed = clients
        .into_iter()
        .filter_map(|client| client.join().unwrap().err())
        .count();
    let seen = server.seen();
    let mut times: Vec<_> = seen
        .iter()
        .filter(|seen| !seen.bytes.is_empty())
        .map(|seen| seen.accepted.duration_since(back))
        .collect();
    times.sort_unstable();
    // The canary goes before, alone.
    let alone = times[1] - times[0];
    let (begins, ends) = (times[1], times[times.len() - 1]);
    let mut buckets = vec![0_u32; (ends - begins).as_millis() as usize / 100 + 1];
    for time in &times[1..] {
        buckets[(*time - begins).as_millis() as usize / 100] += 1;
    }
    let peak = f64::from(*buckets.iter().max().unwrap());
    let mean = (times.len() - 1) as f64 / buckets.len() as f64;
    table.row(
        "500 parked, then one zone is back",
        "0 fail; peak of 100 ms ≤ 3 × mean",
        format!(
            "{failed} fail; first after {:.1?}, next {alone:.1?} later, all within {:.1?}; peak {peak}, mean {mean:.0}",
            times[0], ends
        ),
        failed == 0 && times.len() == count && peak <= 3.0 * mean && buckets.len() >= 3,
    );
}
