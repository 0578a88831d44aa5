//! DNS servers that die, and an /etc/resolv.conf that changes.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use crate::client::{eventually, last, request, within};
use crate::process::Proxy;
use crate::topology::{PORT, Topology, address};
use crate::{MS, SECOND, Table};

/// A DNS server on port 53 of a loopback address, with one address for every name; TTL 1 s. Dead once dropped.
struct Dns {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Dns {
    fn start(at: &str, answer: &str) -> Self {
        let socket = UdpSocket::bind((at, 53)).unwrap();
        socket.set_read_timeout(Some(20 * MS)).unwrap();
        let answer: Ipv4Addr = answer.parse().unwrap();
        let (stop, asked) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<AtomicU64>::default(),
        );
        let (ended, count) = (Arc::clone(&stop), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !ended.load(Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    count.fetch_add(1, Relaxed);
                    let _ = socket.send_to(&reply(&buffer[..len], answer), from);
                }
            }
        });
        Self {
            stop,
            asked,
            thread: Some(thread),
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// The question back, with an A record when one was asked for.
fn reply(query: &[u8], answer: Ipv4Addr) -> Vec<u8> {
    let name = query[12..].iter().position(|byte| *byte == 0).unwrap();
    let question = &query[12..12 + name + 5];
    let is_a = question[name + 1..name + 3] == [0, 1];
    let mut out = query[..2].to_vec();
    out.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    out.extend(question);
    if is_a {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        out.extend(answer.octets());
    }
    out
}

/// Puts a file of ours where /etc/resolv.conf is, in this mount namespace.
fn own_resolv_conf() -> PathBuf {
    let known = Path::new("/etc/resolv.conf");
    let target =
        std::fs::read_link(known).map_or(known.to_owned(), |to| Path::new("/etc").join(to));
    if target.exists() {
        std::fs::write("/run/resolv.conf", "").unwrap();
        let target = target.display();
        crate::topology::sh(&format!("mount --bind /run/resolv.conf {target}"));
    } else {
        // A link into the /run that we have covered.
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    }
    target
}

/// The server dies: data path unaffected. The file names another: that one is asked.
pub fn servers_die_and_change(_lab: &Topology, table: &mut Table) {
    let file = own_resolv_conf();
    std::fs::write(&file, "nameserver 127.0.0.53\n").unwrap();
    let old = Dns::start("127.0.0.53", &address("a"));
    let endpoint = format!("entry.test:{PORT}");
    let flags = ["--endpoint", &endpoint, "--probe-interval", "1s"];
    let proxy = Proxy::run(&flags);
    eventually(5 * SECOND, || (proxy.healthy() == 1).then_some(()));
    drop(old);
    let stale = within(10 * SECOND, || {
        (proxy.metric("entryway_dns_stale", &[]) == 1.0).then_some(())
    });
    let began = Instant::now();
    let (mut failed, mut slowest) = (0, std::time::Duration::ZERO);
    while began.elapsed() < 5 * SECOND {
        match request(proxy.address, 5 * SECOND) {
            Ok(took) => slowest = slowest.max(took),
            Err(_) => failed += 1,
        }
    }
    table.row(
        "the DNS server is dead, 5 s",
        "0 fail, dns_stale = 1",
        format!(
            "{failed} fail, slowest {slowest:.1?}, stale {}",
            stale.is_some()
        ),
        failed == 0 && stale.is_some(),
    );
    let late = Proxy::run(&flags);
    let (address_of_late, limit) = (late.address, 9 * SECOND);
    let held = std::thread::spawn(move || request(address_of_late, limit));
    last(3 * SECOND);
    let old = Dns::start("127.0.0.53", &address("a"));
    let back = Instant::now();
    let held = held.join().unwrap();
    let served = back.elapsed();
    table.row(
        "no DNS at the start, back after 3 s",
        "held, then served ≤ 1.5s after",
        format!(
            "{} {served:.1?} after",
            if held.is_ok() { "served" } else { "failed" }
        ),
        held.is_ok() && served <= 1500 * MS,
    );
    drop((late, old));
    let new = Dns::start("127.0.0.54", &address("b"));
    std::fs::write(&file, "nameserver 127.0.0.54\n").unwrap();
    let changed = Instant::now();
    let followed = within(30 * SECOND, || {
        let endpoints = proxy.admin("/v1/endpoints");
        endpoints.contains(&address("b")).then(|| changed.elapsed())
    });
    let served = request(proxy.address, 5 * SECOND);
    table.row(
        "/etc/resolv.conf names another server",
        "followed ≤ 12s (10s backoff + lookup)",
        format!(
            "followed after {followed:.1?}, asked {} times, served {}",
            new.asked.load(Relaxed),
            served.is_ok()
        ),
        followed.is_some_and(|took| took <= 12 * SECOND) && served.is_ok(),
    );
}
