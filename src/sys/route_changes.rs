//! What the kernel tells of changed addresses and routes (rtnetlink); off Linux nothing.

use std::io;

#[cfg(all(target_os = "linux", not(entryway_portable)))]
use {
    rustix::net::netlink::SocketAddrNetlink,
    rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with},
    std::os::fd::OwnedFd,
    tokio::io::unix::AsyncFd,
};

/// Subscribes to changes of addresses and routes.
#[derive(Debug)]
pub struct RouteChanges {
    #[cfg(all(target_os = "linux", not(entryway_portable)))]
    socket: AsyncFd<OwnedFd>,
}

/// RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE.
#[cfg(all(target_os = "linux", not(entryway_portable)))]
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;

// === impl RouteChanges ===

#[cfg(all(target_os = "linux", not(entryway_portable)))]
impl RouteChanges {
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Its protocol 0, none, is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        #[expect(
            deprecated,
            reason = "tokio's `register` is unsafe; an owned descriptor is what `new` needs"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Self { socket })
    }

    /// Resolves at the next change that may lead elsewhere: of an address, or of a default route.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut buffer = [0; 8192];
            let read = ready.try_io(|socket| {
                Ok(recv(socket.get_ref(), &mut buffer[..], RecvFlags::empty())?.0)
            });
            match read {
                Ok(Ok(length)) if tells_of_change(&buffer[..length]) => return Ok(()),
                Ok(Ok(_)) | Err(_) => {}
                // More has come than was kept for us.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Drops what has been told so far.
    pub fn forget(&mut self) {
        let mut buffer = [0; 8192];
        while recv(self.socket.get_ref(), &mut buffer[..], RecvFlags::empty()).is_ok() {}
    }
}

#[cfg(any(not(target_os = "linux"), entryway_portable))]
impl RouteChanges {
    pub fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub async fn next(&mut self) -> io::Result<()> {
        std::future::pending().await
    }

    pub fn forget(&mut self) {}
}

#[cfg(all(target_os = "linux", not(entryway_portable)))]
fn tells_of_change(mut messages: &[u8]) -> bool {
    /// Length of the head of a message; its body begins behind it.
    const HEAD: usize = 16;
    while let Some((head, _)) = messages.split_at_checked(HEAD) {
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let is_zero = |place| messages.get(HEAD + place) == Some(&0);
        let counts = match kind {
            // The fourth byte of an address is its scope: 0 where it is for other networks as well.
            libc::RTM_NEWADDR | libc::RTM_DELADDR => is_zero(3),
            // The second byte of a route is the length of its prefix: 0 for a default route.
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => is_zero(1),
            _ => false,
        };
        // Containers that come and go have neither here.
        if counts {
            return true;
        }
        // Messages begin at multiples of 4.
        let next = length.max(HEAD).next_multiple_of(4);
        messages = messages.get(next..).unwrap_or_default();
    }
    false
}

#[cfg(all(test, target_os = "linux", not(entryway_portable)))]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = (16 + body.len()) as u32;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend_from_slice(&kind.to_ne_bytes());
        message.resize(16, 0);
        message.extend_from_slice(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn addresses_for_other_networks_and_default_routes_count() {
        let host_route = message(24, &[2, 32, 0, 0, 254]);
        let default_route = message(25, &[2, 0, 0, 0, 254]);
        let address = message(20, &[2, 24, 0, 0, 0, 0, 0, 0]);
        let local_address = message(20, &[10, 64, 0, 253, 0, 0, 0, 0]);
        let link = message(16, &[0; 16]);
        for (messages, counts) in [
            (vec![&host_route, &link, &local_address], false),
            (vec![&host_route, &default_route], true),
            (vec![&link, &host_route, &address], true),
        ] {
            let bytes: Vec<u8> = messages.into_iter().flatten().copied().collect();
            assert_eq!(tells_of_change(&bytes), counts);
        }
        // What is cut off or lies about its length ends the reading.
        assert!(!tells_of_change(&[0; 40]));
        assert!(!tells_of_change(&host_route[..10]));
        assert!(!tells_of_change(&[0xff; 64]));
    }

    #[tokio::test]
    async fn anybody_may_open_it() {
        let mut changes = RouteChanges::open().unwrap();
        changes.forget();
    }
}
