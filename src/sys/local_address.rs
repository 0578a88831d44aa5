//! Whether an IP address belongs to this machine, and what number an interface has.
#![allow(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Whether `ip` is an address of this machine (of this network namespace). The kernel is asked by binding a socket to
/// it, which allows only own addresses. Where `ip_nonlocal_bind` allows all, no address but loopback is known.
pub fn is_local_address(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let bindable = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    // Documentation addresses (RFC 5737, RFC 3849), which no machine has.
    let foreign = match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    };
    !ip.is_unspecified()
        && !ip.is_multicast()
        && (ip.is_loopback() || bindable(ip) && !bindable(foreign))
}

/// The index of a network interface by its name.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: the string is valid for the whole call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_have_numbers() {
        // The name of loopback, on Linux and on macOS.
        assert!(interface_index("lo").or(interface_index("lo0")).is_some());
        assert_eq!(interface_index("no such"), None);
        assert_eq!(interface_index("l\0o"), None);
    }

    #[test]
    fn own_addresses_are_told_from_others() {
        for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(is_local_address(own.parse().unwrap()), "{own}");
        }
        for other in [
            "192.0.2.7",
            "0.0.0.0",
            "224.0.0.1",
            "8.8.8.8",
            "2001:db8::7",
        ] {
            assert!(!is_local_address(other.parse().unwrap()), "{other}");
        }
        // The address that a packet to the outside would leave from, where there is a way out.
        let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
        if probe.connect("192.0.2.7:9").is_ok() {
            assert!(is_local_address(probe.local_addr().unwrap().ip()));
        }
    }
}
