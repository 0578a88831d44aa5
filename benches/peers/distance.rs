//! Question: what do spares save where the upstream is far away?
//!
//! On loopback a connect costs CPU and no time, so spares cannot gain there. Here the upstream is behind a TUN device
//! in a network namespace of our own: what is sent to [`FAR`] comes back one way later as if `FAR` had sent it to us, and
//! our upstream, or the far end of a pair, answers. Needs root, `unshare`, `ip`, and `socat`, which hands us the packets
//! as datagrams.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::cpu::count_as_own;

/// Where the upstream seems to be (RFC 2544: addresses for benchmarks).
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// Our end of the way.
const NEAR: &str = "198.18.0.1/30";

const DEVICE: &str = "far0";

/// The argument of the run inside the namespace, followed by the file for its JSON.
pub(crate) const INSIDE: &str = "--inside-namespace";

/// The argument for its row, followed by the name.
pub(crate) const ROW: &str = "--far-row";

/// Runs this bench once more, with the same arguments, in a namespace of its own; returns the JSON of that run.
pub(crate) fn run_apart(dir: &Path, row: &str) -> Option<serde_json::Value> {
    let file = dir.join("far.json");
    let inside = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().ok()?)
        .args(std::env::args_os().skip(1))
        .arg(INSIDE)
        .arg(&file)
        .args([ROW, row])
        .status();
    if !inside.is_ok_and(|status| status.success()) {
        eprintln!("no row `{row}`: a distance needs root, unshare, ip and socat");
        return None;
    }
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// The way to [`FAR`], until it is dropped.
#[derive(Debug)]
pub(crate) struct Way(Child);

impl Drop for Way {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes it; `one_way` is half a round trip.
pub(crate) fn open(one_way: Duration) -> io::Result<Way> {
    let ip = |line: &str| {
        Command::new("ip")
            .args(line.split(' '))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
    };
    if !ip("link set lo up")?.success() {
        return Err(io::Error::other("ip link set lo up failed"));
    }
    let line = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let carrier = Command::new("socat")
        .arg(format!("TUN:{NEAR},tun-name={DEVICE},iff-no-pi,iff-up"))
        .arg(format!("UDP4:{}", line.local_addr()?))
        .stdin(Stdio::null())
        .spawn()?;
    count_as_own(carrier.id());
    let mut way = Way(carrier);
    hold_back(line, one_way)?;
    while !ip(&format!("link show dev {DEVICE}"))?.success() {
        if let Some(status) = way.0.try_wait()? {
            return Err(io::Error::other(format!("socat ended: {status}")));
        }
    }
    Ok(way)
}

/// Sends every packet back one way later.
fn hold_back(line: UdpSocket, one_way: Duration) -> io::Result<()> {
    let back = line.try_clone()?;
    let (send, held) = mpsc::channel();
    thread::spawn(move || {
        let mut packet = [0; 65_536];
        while let Ok((length, from)) = line.recv_from(&mut packet) {
            let due = Instant::now() + one_way;
            let sent = turned(&packet[..length]).map(|packet| send.send((due, packet, from)));
            if sent.is_some_and(|sent| sent.is_err()) {
                return;
            }
        }
    });
    #[expect(
        clippy::disallowed_methods,
        reason = "to hold packets back is what it is for"
    )]
    thread::spawn(move || {
        for (due, packet, to) in held {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // A packet that is not taken is one that was lost.
            let _ = back.send_to(&packet, to);
        }
    });
    Ok(())
}

/// The packet with source and destination exchanged, which leaves its checksums as they are; `None` if it is not IPv4.
fn turned(packet: &[u8]) -> Option<Vec<u8>> {
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return None;
    }
    let mut turned = packet.to_vec();
    turned[12..16].copy_from_slice(&packet[16..20]);
    turned[16..20].copy_from_slice(&packet[12..16]);
    Some(turned)
}
