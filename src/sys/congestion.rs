//! Congestion control on loopback legs.
//!
//! Where the system's choice is bbr, every stream inside the machine is paced by timers, and bulk is a third slower
//! for nothing: a loopback leg has no loss and no queue to control (benches/README.md, "the loopback rule"). Legs that leave
//! the machine keep the system's choice.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use serde::Deserialize;

use super::socket;

/// `runtime.loopback_congestion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoopbackCongestion {
    /// One that does not pace, where the system's does.
    #[default]
    Auto,
    /// The system's, whatever it is.
    System,
}

// === impl LoopbackCongestion ===

impl LoopbackCongestion {
    /// Sets it on a socket whose other end is `peer` (for a listening socket: where it is bound). Where the kernel
    /// refuses, the system's stays: this is about speed only.
    pub fn apply(self, socket: &impl AsFd, peer: IpAddr) -> bool {
        self.choice(peer)
            .is_some_and(|name| socket::congestion(socket, name).is_ok())
    }

    /// The congestion control for a leg to `peer`; `None`: the system's.
    pub fn choice(self, peer: IpAddr) -> Option<&'static str> {
        static LOOPBACK: OnceLock<Option<&'static str>> = OnceLock::new();
        (self == LoopbackCongestion::Auto && peer.is_loopback())
            .then(|| *LOOPBACK.get_or_init(socket::loopback_congestion))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn only_loopback_and_only_when_asked() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let beyond = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1));
        assert!(!LoopbackCongestion::System.apply(&socket, loopback));
        assert!(!LoopbackCongestion::Auto.apply(&socket, beyond));
        let _set = LoopbackCongestion::Auto.apply(&socket, loopback);
        // There is no choice elsewhere.
        #[cfg(all(target_os = "linux", not(entryway_portable)))]
        if _set {
            use socket2::SockRef;
            let name = SockRef::from(&socket).tcp_congestion().unwrap();
            assert!(name.starts_with(b"reno"));
        }
    }
}
