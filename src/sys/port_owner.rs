//! Who holds a TCP port: read from `/proc`, for the error message of a listener that cannot bind.
//!
//! Promises nothing: processes of other users hide their descriptors, and off Linux there is no `/proc`.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// The process that listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOwner {
    /// Its process id.
    pub pid: u32,
    /// Its command, as the kernel names it.
    pub command: String,
}

/// The process that listens on this address, or on its port of all addresses, where it can be seen.
pub fn port_owner(address: SocketAddr) -> Option<PortOwner> {
    let ip = match address.ip() {
        IpAddr::V4(ip) => hex(&ip.octets()),
        IpAddr::V6(ip) => hex(&ip.octets()),
    };
    let inodes: Vec<u64> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening(&table, &ip, address.port()))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let wanted: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(process.path().join("fd"))
            .ok()?
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| wanted.iter().any(|socket| target.as_os_str() == &**socket));
        holds.then(|| PortOwner {
            pid,
            command: fs::read_to_string(process.path().join("comm"))
                .map(|comm| comm.trim().to_owned())
                .unwrap_or_default(),
        })
    })
}

/// An IP as `/proc/net` writes it: words of the machine's own byte order.
fn hex(octets: &[u8]) -> String {
    octets
        .chunks_exact(4)
        .map(|word| {
            format!(
                "{:08X}",
                u32::from_ne_bytes([word[0], word[1], word[2], word[3]])
            )
        })
        .collect()
}

/// The inodes of the sockets in a table of `/proc/net` that listen on this port, of this IP or of all.
fn listening(table: &str, ip: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (local_ip, local_port) = fields.get(1)?.rsplit_once(':')?;
            let is_all = local_ip.bytes().all(|digit| digit == b'0');
            let matches = (is_all || local_ip == ip)
                && *fields.get(3)? == LISTEN
                && u16::from_str_radix(local_port, 16).ok()? == port;
            matches.then(|| fields.get(9)?.parse().ok()).flatten()
        })
        .collect()
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

/// Whether a program that sets SO_REUSEADDR can bind a port beside its reservation. With the kernels of the BSD family
/// nobody can.
pub const RESERVED_PORTS_ARE_SHARED: bool = cfg!(all(target_os = "linux", not(entryway_portable)));

/// A local port that is kept from being given to another program for as long as this lives.
///
/// The socket is bound and does not listen, so that a program that sets SO_REUSEADDR, as ssh and most servers do, can
/// bind the port beside it.
#[derive(Debug)]
pub struct PortReservation {
    _socket: Socket,
    port: u16,
}

/// Reserves a free port of 127.0.0.1.
pub fn reserve_port() -> io::Result<PortReservation> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let address = socket.local_addr()?.as_socket();
    let port = address.map_or(0, |address| address.port());
    Ok(PortReservation {
        _socket: socket,
        port,
    })
}

// === impl PortReservation ===

impl PortReservation {
    pub fn port(&self) -> u16 {
        self.port
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn finds_ourselves() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = port_owner(listener.local_addr().unwrap()).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.command.is_empty());
    }

    #[test]
    fn a_free_port_has_no_holder() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = SocketAddr::from(([127, 0, 0, 9], held.local_addr().unwrap().port()));
        assert_eq!(port_owner(other), None);
    }
}
