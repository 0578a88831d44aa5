//! The route this machine takes to an address: source address, interface, and whether it is the default route.
//!
//! A UDP socket is connected, which sends nothing but asks the kernel. The interface is read from `/proc/net` where
//! there is one; what cannot be read is left out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IpRoute {
    /// The address it starts from.
    pub(super) source: IpAddr,
    /// The interface, where it can be told.
    pub(super) interface: Option<String>,
    /// Whether nothing more particular than the default route leads there.
    pub(super) by_default: bool,
}

/// Asks the kernel; an error is "no route".
pub(super) fn to(socket: SocketAddr) -> io::Result<IpRoute> {
    let any: IpAddr = match socket {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let probe = UdpSocket::bind((any, 0))?;
    probe.connect(socket)?;
    let source = probe.local_addr()?.ip();
    // To ourselves: the table of routes does not list it.
    if source == socket.ip() || socket.ip().is_loopback() {
        return Ok(IpRoute {
            source,
            interface: Some("lo".to_owned()),
            by_default: false,
        });
    }
    let found = match socket.ip() {
        IpAddr::V4(ip) => std::fs::read_to_string("/proc/net/route")
            .ok()
            .and_then(|table| interface_v4(&table, ip)),
        IpAddr::V6(_) => std::fs::read_to_string("/proc/net/if_inet6")
            .ok()
            .and_then(|table| interface_v6(&table, source)),
    };
    let (interface, by_default) =
        found.map_or((None, false), |(name, by_default)| (Some(name), by_default));
    Ok(IpRoute {
        source,
        interface,
        by_default,
    })
}

/// The route as text, or the error: `from 10.0.0.5 by eth0`.
pub(super) fn describe(socket: SocketAddr) -> String {
    match to(socket) {
        Ok(route) => route.describe(),
        Err(error) => format!("in vain: {error}"),
    }
}

// === impl Route ===

impl IpRoute {
    /// `from 10.0.0.5 by eth0, the default route`.
    pub(super) fn describe(&self) -> String {
        let interface = self
            .interface
            .as_ref()
            .map(|name| format!(" by {}", name.escape_debug()))
            .unwrap_or_default();
        let default = if self.by_default {
            ", the default route"
        } else {
            ""
        };
        format!("from {}{interface}{default}", self.source)
    }
}

/// The interface of the most particular route, and whether that is the default one. The kernel prints addresses in
/// the byte order of the machine.
fn interface_v4(table: &str, ip: Ipv4Addr) -> Option<(String, bool)> {
    let number = |text: &str| {
        u32::from_str_radix(text, 16)
            .ok()
            .map(|n| u32::from_be_bytes(n.to_ne_bytes()))
    };
    let wanted = u32::from(ip);
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (destination, mask) = (number(fields.get(1)?)?, number(fields.get(7)?)?);
        (wanted & mask == destination).then(|| (mask, (*fields.first().unwrap_or(&"")).to_owned()))
    });
    let (mask, name) = routes.max_by_key(|(mask, _)| *mask)?;
    Some((name, mask == 0))
}

/// The interface that has the source address.
fn interface_v6(table: &str, source: IpAddr) -> Option<(String, bool)> {
    let IpAddr::V6(source) = source else {
        return None;
    };
    let wanted: String = source
        .octets()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let line = table.lines().find(|line| line.starts_with(&wanted))?;
    line.split_ascii_whitespace()
        .last()
        .map(|name| (name.to_owned(), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_most_particular_route_is_the_one() {
        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            tun0\t0000010A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        let route_to = |ip: &str| interface_v4(table, ip.parse().unwrap());
        assert_eq!(route_to("10.1.2.3"), Some(("tun0".to_owned(), false)));
        assert_eq!(route_to("10.2.2.3"), Some(("eth0".to_owned(), true)));
        assert_eq!(interface_v4("", Ipv4Addr::LOCALHOST), None);
    }

    #[test]
    fn loopback_is_reached_by_loopback() {
        let route = to(SocketAddr::from(([127, 0, 0, 9], 1))).unwrap();
        assert_eq!(route.describe(), format!("from {} by lo", route.source));
    }
}
