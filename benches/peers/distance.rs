//! Question: what do spares save where the upstream is far away?
//!
//! On loopback a connect costs CPU and no time, so spares cannot gain there. Here the upstream is behind a TUN device
//! in a network namespace of our own: what is sent to [`FAR`] comes back after [`ONE_WAY`] as if `FAR` had sent it to
//! us, and our upstream answers. Needs root, `unshare` and `ip`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// Where the upstream seems to be (RFC 2544: addresses for benchmarks).
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// Our end of the way.
const NEAR: &str = "198.18.0.1/30";

/// Half a round trip: two zones of a region are about 1 ms apart, a laptop and a region 10 and more.
const ONE_WAY: Duration = Duration::from_millis(2);

const DEVICE: &str = "far0";

/// The argument of the run inside the namespace, followed by the file for its JSON.
pub(crate) const INSIDE: &str = "--inside-namespace";

/// Runs this bench once more, with the same arguments, in a namespace with a way to [`FAR`]; returns its JSON.
pub(crate) fn run_apart(dir: &std::path::Path) -> Option<serde_json::Value> {
    let file = dir.join("far.json");
    let inside = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().ok()?)
        .args(std::env::args_os().skip(1))
        .arg(INSIDE)
        .arg(&file)
        .status();
    if !inside.is_ok_and(|status| status.success()) {
        eprintln!("no row with a distant upstream: it needs root, unshare, ip and /dev/net/tun");
        return None;
    }
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// Makes the way to [`FAR`], for as long as this process runs.
pub(crate) fn open() -> io::Result<()> {
    let mut device = tun()?;
    for line in [
        "link set lo up".to_owned(),
        format!("addr add {NEAR} dev {DEVICE}"),
        format!("link set {DEVICE} up"),
    ] {
        if !Command::new("ip").args(line.split(' ')).status()?.success() {
            return Err(io::Error::other(format!("ip {line} failed")));
        }
    }
    let mut back = device.try_clone()?;
    let (send, delayed) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut packet = [0; 65_536];
        while let Ok(length) = device.read(&mut packet) {
            let due = Instant::now() + ONE_WAY;
            let sent = turned(&packet[..length]).map(|packet| send.send((due, packet)));
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
        for (due, packet) in delayed {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // A packet that is not taken is one that was lost.
            let _ = back.write(&packet);
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

fn tun() -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data; all zeros is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which is valid for the whole call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}
