//! Faults of a real network, one namespace per zone, a router between: what new and established connections see.
//!
//! Needs root (or unprivileged user namespaces), `ip` and `curl`; builds its own namespaces and takes nothing from the
//! machine's network. Plain `cargo test` says so and goes on; with `ENTRYWAY_NETNS=1`, as CI sets it, whatever is
//! missing is a failure. Prints a table: fault → required → measured, with HAProxy (default checks) as the control.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may stop at the first surprise"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use lab::{Fault, Lab, Proxy, ask, build, eventually, request};
use tokio::time::Instant;

#[path = "netns/lab.rs"]
mod lab;

const MS: Duration = Duration::from_millis(1);

fn main() {
    if std::env::var_os("ENTRYWAY_NETNS").is_none() {
        println!(
            "netns: not run. It needs root: ENTRYWAY_NETNS=1 cargo test --test netns (CI does)"
        );
        return;
    }
    if std::env::var_os("ENTRYWAY_NETNS_INSIDE").is_none() {
        // Before any thread exists: the whole test moves into namespaces of its own.
        let itself = std::env::current_exe().unwrap();
        let error = Command::new("unshare")
            .args(["-r", "-n", "-m"])
            .arg(itself)
            .args(std::env::args_os().skip(1))
            .env("ENTRYWAY_NETNS_INSIDE", "1")
            .exec();
        panic!("netns: unshare: {error}");
    }
    build();
    let lab = Lab::start();
    let mut table = Table::default();
    let only = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    for (name, row) in ROWS {
        if only
            .as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
        {
            row(&lab, &mut table);
        }
    }
    table.end();
}

type Row = fn(&Lab, &mut Table);

const ROWS: &[(&str, Row)] = &[
    ("refuse", |lab, table| {
        new_connections(lab, table, Fault::Refuse)
    }),
    ("unreachable", |lab, table| {
        new_connections(lab, table, Fault::Unreachable)
    }),
    ("blackhole", |lab, table| {
        new_connections(lab, table, Fault::BlackHole)
    }),
    ("frozen", frozen),
    ("detection", detection_against_plan),
    ("all-dead", all_dead),
    ("busy", busy_and_black_holed),
    ("waiting", waiting_on_a_dead_upstream),
    ("idle", idle_and_black_holed),
    ("ports", local_ports_run_out),
];

/// What was asked, and what was seen.
#[derive(Default)]
struct Table {
    passed: u32,
    failed: u32,
}

impl Table {
    fn row(&mut self, fault: &str, required: &str, measured: String, fine: bool) {
        let word = if fine { "PASS" } else { "FAIL" };
        println!("{word}  {fault:<44} {required:<40} {measured}");
        if fine {
            self.passed += 1
        } else {
            self.failed += 1
        }
    }

    /// The control: no requirement.
    fn control(&self, fault: &str, measured: String) {
        println!(
            "      {fault:<44} {:<40} {measured}",
            "(HAProxy, for comparison)"
        );
    }

    fn end(self) {
        println!("{} passed, {} failed", self.passed, self.failed);
        assert!(self.failed == 0, "netns: {} rows failed", self.failed);
    }
}

/// `count` requests on connections of their own: failures, the first one's time, and the 99th percentile of the rest.
fn many(to: std::net::SocketAddr, count: usize) -> (usize, Duration, Duration) {
    let limit = Duration::from_secs(12);
    let first = request(to, limit);
    let mut failed = usize::from(first.is_err());
    let mut times: Vec<Duration> = (1..count)
        .filter_map(|_| request(to, limit).map_err(|_| failed += 1).ok())
        .collect();
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(limit);
    (failed, first.unwrap_or(limit), p99)
}

/// R20–R22: the own zone stops taking connections.
fn new_connections(lab: &Lab, table: &mut Table, fault: Fault) {
    let proxy = Proxy::entryway(&[]);
    let (_, _, before) = many(proxy.address, 500);
    fault.begin(lab, "a");
    let (failed, first, p99) = many(proxy.address, 10_000);
    let added = (first.saturating_sub(before), p99.saturating_sub(before));
    fault.end(lab, "a");
    let first_limit = if fault == Fault::BlackHole {
        100 * MS
    } else {
        5 * MS
    };
    table.row(
        &format!("{fault:?}, new connections"),
        &format!("0 of 10000 fail; first ≤ +{first_limit:?}, p99 ≤ +5ms"),
        format!(
            "{failed} fail; first +{:.1?}, p99 +{:.1?}",
            added.0, added.1
        ),
        failed == 0 && added.0 <= first_limit && added.1 <= 5 * MS,
    );
    drop(proxy);
    if let Some(control) = Proxy::haproxy() {
        fault.begin(lab, "a");
        let (failed, first, p99) = many(control.address, 300);
        fault.end(lab, "a");
        table.control(
            &format!("{fault:?}, new connections"),
            format!("{failed} of 300 fail; first {first:.1?}, p99 {p99:.1?}"),
        );
    }
}

/// R25: the process is stopped; a TCP connect proves nothing.
fn frozen(lab: &Lab, table: &mut Table) {
    let proxy = Proxy::entryway(&[]);
    many(proxy.address, 200);
    Fault::Freeze.begin(lab, "a");
    let began = Instant::now();
    // Traffic: a request every 20 ms, each on a connection of its own, given up after 300 ms.
    let out = eventually(Duration::from_secs(12), || {
        let _ = request(proxy.address, 300 * MS);
        (proxy.state("a") == "down").then(|| began.elapsed())
    });
    let (failed, _, p99) = many(proxy.address, 500);
    Fault::Freeze.end(lab, "a");
    table.row(
        "Freeze, under traffic",
        "out ≤ 2s, then 0 of 500 fail",
        format!("out after {out:.1?}; {failed} fail, p99 {p99:.1?}"),
        out <= Duration::from_secs(2) && failed == 0,
    );
    drop(proxy);
    let proxy = Proxy::entryway(&[]);
    Fault::Freeze.begin(lab, "a");
    let began = Instant::now();
    let out = eventually(Duration::from_secs(12), || {
        (proxy.state("a") == "down").then(|| began.elapsed())
    });
    Fault::Freeze.end(lab, "a");
    table.row(
        "Freeze, no traffic",
        "out ≤ interval (5s) + 3s",
        format!("out after {out:.1?}"),
        out <= Duration::from_secs(8),
    );
    drop(proxy);
    if let Some(control) = Proxy::haproxy() {
        Fault::Freeze.begin(lab, "a");
        let began = Instant::now();
        let mut failed = 0;
        while began.elapsed() < Duration::from_secs(8) {
            failed += usize::from(request(control.address, 300 * MS).is_err());
        }
        Fault::Freeze.end(lab, "a");
        table.control(
            "Freeze, 8 s of traffic",
            format!("{failed} requests unanswered (connects succeed, so its checks see nothing)"),
        );
    }
}

/// `entryway plan` must never promise less than what happens.
fn detection_against_plan(lab: &Lab, table: &mut Table) {
    let flags = ["--probe-interval", "1s", "--failback-after", "1s"];
    let output = Command::new(env!("CARGO_BIN_EXE_entryway"))
        .args([
            "plan",
            "--output",
            "json",
            "--endpoint",
            "10.77.1.2:8182?zone=a",
        ])
        .args(flags)
        .output()
        .unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let promised = |key: &str| Duration::from_secs_f64(plan["detection_s"][key].as_f64().unwrap());
    let trials = std::env::var("ENTRYWAY_TRIALS").map_or(6, |text| text.parse().unwrap());
    for (fault, key) in [
        (Fault::Refuse, "refused"),
        (Fault::BlackHole, "silent_at_rest"),
    ] {
        let proxy = Proxy::entryway(&flags);
        let mut seen = Vec::new();
        for _ in 0..trials {
            fault.begin(lab, "b");
            let began = Instant::now();
            seen.push(eventually(Duration::from_secs(40), || {
                (proxy.state("b") == "down").then(|| began.elapsed())
            }));
            fault.end(lab, "b");
            eventually(Duration::from_secs(20), || {
                (proxy.state("b") == "up").then_some(())
            });
            if fault == Fault::BlackHole {
                // Silence marks at most one zone down in 30 s; each trial starts with a fresh allowance.
                break;
            }
        }
        let worst = seen.iter().max().copied().unwrap();
        let mean = seen.iter().sum::<Duration>() / seen.len() as u32;
        table.row(
            &format!("{fault:?}, at rest, {} trials", seen.len()),
            &format!("plan says ≤ {:.1?}", promised(key)),
            format!("worst {worst:.1?}, mean {mean:.1?}"),
            worst <= promised(key) + 100 * MS,
        );
    }
}

/// R30: nothing to dial.
fn all_dead(lab: &Lab, table: &mut Table) {
    let refuse_all = |on: bool| {
        lab::ZONES.iter().for_each(|zone| {
            if on {
                Fault::Refuse.begin(lab, zone)
            } else {
                Fault::Refuse.end(lab, zone)
            }
        })
    };
    let proxy = Proxy::entryway(&["--when-all-down", "try"]);
    refuse_all(true);
    let began = Instant::now();
    let end = last_word(&proxy);
    let took = began.elapsed();
    refuse_all(false);
    table.row(
        "all refuse, try",
        "FIN ≤ 100ms",
        format!("{end} after {took:.1?}"),
        end == "FIN" && took <= 100 * MS,
    );
    drop(proxy);

    let proxy = Proxy::entryway(&[]);
    refuse_all(true);
    let address = proxy.address;
    let held = std::thread::spawn(move || request(address, Duration::from_secs(15)));
    eventually(Duration::from_secs(5), || {
        (proxy.metric("entryway_connections_parked", &[]) == 1.0).then_some(())
    });
    std::thread::park_timeout(Duration::from_secs(2));
    refuse_all(false);
    let back = Instant::now();
    let held = held.join().unwrap();
    let late = back.elapsed();
    table.row(
        "all refuse for 2 s, hold",
        "served ≤ 1s after one is back",
        format!("{held:.1?}, {late:.1?} after"),
        held.is_ok() && late <= Duration::from_secs(1),
    );
    drop(proxy);

    let proxy = Proxy::entryway(&["--when-all-down", "refuse", "--probe-interval", "1s"]);
    refuse_all(true);
    let refused = eventually(Duration::from_secs(15), || {
        TcpStream::connect(proxy.address).is_err().then_some(true)
    });
    refuse_all(false);
    let back = Instant::now();
    let took = eventually(Duration::from_secs(15), || {
        request(proxy.address, Duration::from_secs(2))
            .is_ok()
            .then(|| back.elapsed())
    });
    table.row(
        "all refuse, refuse",
        "refused, and back again",
        format!("refused {refused}, serving {took:.1?} after"),
        took <= Duration::from_secs(8),
    );
}

/// How a connection that says nothing is ended.
fn last_word(proxy: &Proxy) -> &'static str {
    let mut stream = TcpStream::connect(proxy.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(12)))
        .unwrap();
    match stream.read(&mut [0; 16]) {
        Ok(0) => "FIN",
        Ok(_) => "bytes",
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => "RST",
        Err(_) => "nothing",
    }
}

/// R23: bytes are under way when the zone falls silent.
fn busy_and_black_holed(lab: &Lab, table: &mut Table) {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config/fast.toml");
    let proxy = Proxy::entryway(&["--config", config]);
    let mut busy = TcpStream::connect(proxy.address).unwrap();
    ask(&mut busy, "").unwrap();
    let mut other = TcpStream::connect(proxy.address).unwrap();
    ask(&mut other, "").unwrap();
    Fault::BlackHole.begin(lab, "a");
    let began = Instant::now();
    busy.write_all(b"POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        .unwrap();
    busy.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let chunk = [0x5a; 16 * 1024];
    busy.set_write_timeout(Some(100 * MS)).unwrap();
    let error = loop {
        match busy.write(&chunk) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => break error,
        }
        assert!(began.elapsed() < Duration::from_secs(20), "never told");
    };
    let took = began.elapsed();
    Fault::BlackHole.end(lab, "a");
    table.row(
        "BlackHole, busy, config/fast.toml",
        "told ≤ 1.5s",
        format!("{:?} after {took:.1?}", error.kind()),
        took <= 1500 * MS,
    );
}

/// A request waits for its answer on a zone that falls silent: reads must be able to go elsewhere within 10 s.
fn waiting_on_a_dead_upstream(lab: &Lab, table: &mut Table) {
    let proxy = Proxy::entryway(&[]);
    lab.mode("a", "slow");
    let mut waits = TcpStream::connect(proxy.address).unwrap();
    waits
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    waits
        .set_read_timeout(Some(Duration::from_secs(40)))
        .unwrap();
    eventually(Duration::from_secs(5), || {
        proxy
            .admin("/v1/connections")
            .contains("\"upload\":2")
            .then_some(())
    });
    Fault::BlackHole.begin(lab, "a");
    let began = Instant::now();
    let end = waits.read(&mut [0; 16]);
    let took = began.elapsed();
    Fault::BlackHole.end(lab, "a");
    lab.mode("a", "ok");
    let reset = end
        .as_ref()
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
    table.row(
        "BlackHole, request waits",
        "reset ≤ 10s",
        format!("{end:?} after {took:.1?}"),
        reset && took <= Duration::from_secs(10),
    );
}

/// R24: an idle pair on a zone that falls silent.
fn idle_and_black_holed(lab: &Lab, table: &mut Table) {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config/fast.toml");
    for (name, flags, limit) in [
        ("config/fast.toml", vec!["--config", config], 3),
        ("defaults", vec![], 30),
    ] {
        let proxy = Proxy::entryway(&flags);
        let mut idle = TcpStream::connect(proxy.address).unwrap();
        ask(&mut idle, "").unwrap();
        idle.set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Fault::BlackHole.begin(lab, "a");
        let began = Instant::now();
        let end = idle.read(&mut [0; 16]);
        let took = began.elapsed();
        Fault::BlackHole.end(lab, "a");
        let told = !end
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        table.row(
            &format!("BlackHole, idle, {name}"),
            &format!("told ≤ {limit}s"),
            format!("{end:?} after {took:.1?}"),
            told && took <= Duration::from_secs(limit),
        );
    }
}

/// R36, R53: our own ports run out; no address is to blame.
fn local_ports_run_out(_lab: &Lab, table: &mut Table) {
    let before = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let proxy = Proxy::entryway(&["--probe", "off", "--when-all-down", "try"]);
    // Clients and upstream legs share the range; with three upstream addresses it is the clients' side that is full.
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40049").unwrap();
    let mut held = Vec::new();
    for _ in 0..50 {
        let Ok(mut stream) = TcpStream::connect(proxy.address) else {
            break;
        };
        if ask(&mut stream, "").is_ok() {
            held.push(stream);
        }
    }
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", before.trim()).unwrap();
    let down = lab::ZONES
        .iter()
        .filter(|zone| proxy.state(zone) == "down")
        .count();
    let count = held.len();
    drop(held);
    let after = request(proxy.address, Duration::from_secs(5));
    table.row(
        "50 local ports",
        "no address blamed, then served",
        format!("{count} held, {down} down, then {after:.1?}"),
        down == 0 && after.is_ok(),
    );
}
