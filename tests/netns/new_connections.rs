//! New connections: a zone is lost, races, detection, our own ports.

use std::collections::HashMap;
use std::io::Read;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{eventually, last, many, request, request_path, within};
use crate::process::Proxy;
use crate::server::{Probes, Server};
use crate::topology::{Fault, Topology, ZONES, sh, unreachables};
use crate::{MS, SECOND, Table};

/// The own zone stops taking connections.
pub fn connections(topology: &Topology, table: &mut Table, fault: Fault) {
    // The first one is a single look: the middle of three counts, so that one late wake-up decides nothing.
    let mut firsts = Vec::new();
    let mut failed = 0;
    let (mut before, mut after) = (None, None);
    for count in [20, 20, 10_000] {
        let proxy = Proxy::entryway(&[]);
        let well = many(proxy.address, 1000);
        let mut usual = well.p99;
        if fault == Fault::Unreachable {
            // The router must have rested before it answers, and so has everybody else: the first request after a rest
            // takes longer without any fault.
            last(3 * SECOND);
            usual = usual.max(many(proxy.address, 1).first);
            last(3 * SECOND);
        }
        let told = unreachables();
        fault.begin(topology, "a");
        let lost = many(proxy.address, 1);
        let answered = unreachables() > told;
        let later = many(proxy.address, count);
        fault.end(topology, "a");
        // A Linux router sends one host five such answers, then one a second: a trial in which it sent none is a black
        // hole to us.
        if fault != Fault::Unreachable || answered {
            firsts.push(lost.first.saturating_sub(usual));
        }
        failed += lost.failed + later.failed;
        (before, after) = (Some(well), Some(later));
    }
    let (before, after) = (before.unwrap(), after.unwrap());
    assert!(!firsts.is_empty(), "the router never answered");
    firsts.sort_unstable();
    let first = firsts[firsts.len() / 2];
    let later = after.p99.saturating_sub(before.p99);
    let first_limit = match fault {
        Fault::Refuse | Fault::Unreachable => 5 * MS,
        _ => 100 * MS,
    };
    table.row(
        &format!("{fault:?}, new connections"),
        &format!("0 of 10000 fail; first ≤ +{first_limit:?}, p99 ≤ +5ms"),
        format!(
            "{failed} fail; first +{first:.1?} of {firsts:.1?}, p99 +{later:.1?} (well: p50 {:.1?}, p99 {:.1?})",
            before.p50, before.p99
        ),
        failed == 0 && first <= first_limit && later <= 5 * MS,
    );
    if let Some(control) = Proxy::haproxy() {
        fault.begin(topology, "a");
        let began = Instant::now();
        let mut failed = 0;
        let served = within(20 * SECOND, || match request(control.address, SECOND) {
            Ok(_) => Some(began.elapsed()),
            Err(_) => {
                failed += 1;
                None
            }
        });
        fault.end(topology, "a");
        table.control(
            &format!("{fault:?}, new connections"),
            format!("{failed} fail (given up after 1 s), the first served {served:.1?} after"),
        );
    }
}

/// The process is stopped; a TCP connect proves nothing.
pub fn frozen(topology: &Topology, table: &mut Table) {
    let proxy = Proxy::entryway(&[]);
    many(proxy.address, 200);
    Fault::Freeze.begin(topology, "a");
    let began = Instant::now();
    // Traffic: one request after the other, each on a connection of its own, given up after 400 ms.
    let out = within(12 * SECOND, || {
        let _ = request(proxy.address, 400 * MS);
        (proxy.state("a") == "down").then(|| began.elapsed())
    });
    let after = many(proxy.address, 500);
    let plan = promised("silent_under_traffic", &[]);
    Fault::Freeze.end(topology, "a");
    table.row(
        "Freeze, under traffic",
        &format!("out ≤ 2s, ≤ plan ({plan:.2?}); then 0 of 500 fail"),
        format!(
            "out after {out:.1?}; {} fail, p99 {:.1?}",
            after.failed, after.p99
        ),
        out.is_some_and(|out| out <= plan.min(2 * SECOND)) && after.failed == 0,
    );
    drop(proxy);
    let proxy = Proxy::entryway(&[]);
    Fault::Freeze.begin(topology, "a");
    let began = Instant::now();
    let out = within(12 * SECOND, || {
        (proxy.state("a") == "down").then(|| began.elapsed())
    });
    Fault::Freeze.end(topology, "a");
    table.row(
        "Freeze, no traffic",
        "out ≤ interval (5s) + 3s",
        format!("out after {out:.1?}"),
        out.is_some_and(|out| out <= 8 * SECOND),
    );
    drop(proxy);
    if let Some(control) = Proxy::haproxy() {
        Fault::Freeze.begin(topology, "a");
        let began = Instant::now();
        let mut failed = 0;
        while began.elapsed() < 8 * SECOND {
            failed += usize::from(request(control.address, 400 * MS).is_err());
        }
        Fault::Freeze.end(topology, "a");
        table.control(
            "Freeze, 8 s of traffic",
            format!("{failed} requests unanswered (connects succeed: its checks see nothing)"),
        );
    }
}

/// What `entryway plan` says about detection.
fn promised(key: &str, flags: &[&str]) -> Duration {
    let output = Command::new(env!("CARGO_BIN_EXE_entryway"))
        .args(["plan", "--output", "json"])
        .args(["--endpoint", "10.77.1.2:8182?zone=a"])
        .args(flags)
        .output()
        .unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    Duration::from_secs_f64(plan["detection_s"][key].as_f64().unwrap())
}

const QUICK: &str = "
[[upstream]]
[upstream.health]
interval = \"1s\"
down_interval = \"300ms\"
rise = 1
[upstream.failback]
after = \"300ms\"
ramp = \"0s\"
";

/// `entryway plan` must never promise less than what happens.
pub fn detection_against_plan(topology: &Topology, table: &mut Table) {
    std::fs::write("/run/quick.toml", QUICK).unwrap();
    let flags = ["--config", "/run/quick.toml"];
    let promised = |key: &str| promised(key, &flags);
    let trials = std::env::var("ENTRYWAY_TRIALS").map_or(3, |text| text.parse().unwrap());
    let cases = [
        (Fault::Refuse, "refused"),
        (Fault::BlackHole, "silent_at_rest"),
        (Fault::Freeze, "silent_at_rest"),
    ];
    for (fault, key) in cases {
        let proxy = Proxy::entryway(&flags);
        let mut seen = Vec::new();
        for trial in 0..trials {
            // Not always at the same moment between two probes.
            last(Duration::from_millis(u64::from(fastrand::u8(..)) * 4));
            fault.begin(topology, "b");
            let began = Instant::now();
            let out = within(40 * SECOND, || {
                (proxy.state("b") == "down").then(|| began.elapsed())
            });
            seen.push(out.unwrap_or(40 * SECOND));
            fault.end(topology, "b");
            let back = within(20 * SECOND, || (proxy.state("b") == "up").then_some(()));
            assert!(back.is_some(), "{fault:?}, trial {trial}: not back");
        }
        let worst = seen.iter().max().copied().unwrap();
        let mean = seen.iter().sum::<Duration>() / seen.len() as u32;
        table.row(
            &format!("{fault:?}, at rest, {trials} trials"),
            &format!("plan says ≤ {:.2?}", promised(key)),
            format!("worst {worst:.2?}, mean {mean:.2?}"),
            worst <= promised(key),
        );
    }
}

/// Links so slow that all attempts of a race are under way together.
pub fn races(_lab: &Topology, table: &mut Table) {
    let port = 9182;
    let servers = ZONES.map(|zone| Server::start(zone, port, Probes::Well));
    let proxy = Proxy::at_port(port, &["--probe", "off", "--hedge-after", "10ms"]);
    for zone in ZONES {
        sh(&format!(
            "tc -n r qdisc add dev r-{zone} root tbf rate 160kbit burst 1600 latency 300ms"
        ));
    }
    let (threads, each) = (8, if crate::long() { 2000 } else { 100 });
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let address = proxy.address;
            std::thread::spawn(move || {
                let path = |nth: usize| format!("/t/{thread}-{nth}");
                (0..each)
                    .filter(|nth| request_path(address, &path(*nth), 12 * SECOND).is_err())
                    .count()
            })
        })
        .collect();
    let failed: usize = workers.into_iter().map(|one| one.join().unwrap()).sum();
    for zone in ZONES {
        sh(&format!("tc -n r qdisc del dev r-{zone} root"));
    }
    let mut places: HashMap<Vec<u8>, u32> = HashMap::new();
    let (mut losers, mut late, mut slowest) = (0, 0, Duration::ZERO);
    let ended = |servers: &[Server; 3]| {
        let mut all = servers.iter().flat_map(Server::seen);
        all.all(|seen| seen.ended.is_some()).then_some(())
    };
    let all_ended = within(5 * SECOND, || ended(&servers)).is_some();
    for seen in servers.iter().flat_map(Server::seen) {
        if seen.bytes.is_empty() {
            losers += 1;
            let (ended, _) = seen.ended.unwrap_or((Instant::now(), "never"));
            let took = ended.duration_since(seen.accepted);
            slowest = slowest.max(took);
            late += usize::from(took > 50 * MS);
        } else {
            let line = seen.bytes.split(|byte| *byte == b'\r').next();
            *places.entry(line.unwrap_or_default().to_vec()).or_default() += 1;
        }
    }
    let twice = places.values().filter(|count| **count > 1).count();
    let hedges = proxy.metric("entryway_connect_hedges_total", &[]);
    let connects = threads * each;
    table.row(
        &format!("{connects} connects, slow links"),
        "races; no byte to two; losers closed: p95 ≤ 50ms, all ≤ 500ms",
        format!(
            "{hedges} hedges, {losers} losers accepted, slowest closed {slowest:.1?}, {late} late; {twice} twice; {failed} fail"
        ),
        hedges > connects as f64 / 10.0
            && twice == 0
            // The end itself waits in the queue of the slow link, up to its 300 ms.
            && late * 20 <= losers
            && slowest <= 500 * MS
            && failed == 0
            && all_ended
            && places.len() == connects,
    );
}

/// Our own ports run out; no address is to blame.
pub fn local_ports_run_out(_lab: &Topology, table: &mut Table) {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let before = std::fs::read_to_string(path).unwrap();
    let proxy = Proxy::entryway(&["--when-all-down", "try"]);
    // Held by somebody else towards zone a: the proxy has no port left for it, nor for b and c once they are full.
    std::fs::write(path, "40000 40029").unwrap();
    let hold = |zone: &str| -> Vec<TcpStream> {
        let to = format!(
            "{}:{}",
            crate::topology::address(zone),
            crate::topology::PORT
        );
        let mut held = Vec::new();
        // A probe or a request may have one for a moment, a connection of an earlier row for the minute of TIME_WAIT.
        eventually(70 * SECOND, || {
            held.extend(std::iter::from_fn(|| TcpStream::connect(&to).ok()));
            (held.len() == 30).then_some(())
        });
        held
    };
    let changes = proxy.transitions();
    let held = hold("a");
    let elsewhere = request(proxy.address, 5 * SECOND);
    let more: Vec<_> = [hold("b"), hold("c")].into_iter().flatten().collect();
    // The client's own leg has ports: it goes to another address.
    let refused = TcpStream::connect(proxy.address).map(|mut stream| {
        stream.set_read_timeout(Some(5 * SECOND)).unwrap();
        stream.read(&mut [0; 16]).map_err(|error| error.kind())
    });
    // Long enough for every address to have been probed without a port.
    last(7 * SECOND);
    let states = ZONES.map(|zone| proxy.state(zone));
    let (count, blamed) = (
        held.len() + more.len(),
        states.iter().filter(|state| *state != "up").count(),
    );
    std::fs::write(path, before.trim()).unwrap();
    drop((held, more));
    let local = proxy.metric("entryway_connect_attempts_total", &["result=\"local\""]);
    let rounds = proxy.metric("entryway_local_fault_rounds_total", &[]);
    let lines = || {
        let log = proxy.process.log();
        let told =
            |line: &&str| line.contains("\"event\":\"resource\"") && line.contains("no local port");
        let count = log.lines().filter(told).count();
        (count > 0).then_some(count)
    };
    let said = within(5 * SECOND, lines).unwrap_or(0);
    let transitions = proxy.transitions() - changes;
    let after = eventually(5 * SECOND, || request(proxy.address, 5 * SECOND).ok());
    table.row(
        "30 local ports, all taken",
        "other zone, then FIN; no address blamed; served",
        format!(
            "{count} held; a full: {}; all full: {refused:?}; {blamed} not up, {transitions} changes, {local} local, {rounds} rounds, {said} lines; then {after:.1?}",
            elsewhere.map_or_else(|error| error.to_string(), |took| format!("served {took:.1?}"))
        ),
        blamed == 0 && transitions == 0.0 && local > 0.0 && rounds > 0.0 && said > 0 && matches!(refused, Ok(Ok(0))),
    );
}
