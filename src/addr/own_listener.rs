//! Whether a connect would come back to one of our own listeners. A proxy that forwards to itself goes round until
//! the descriptors run out, so such an address is never used, wherever it comes from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Whether a connect to `socket` reaches one of `listeners`. `is_this_machine` says whether an address belongs to this
/// machine; it is asked only about listeners on the unspecified address.
pub fn is_own_listener(
    socket: SocketAddr,
    listeners: &[SocketAddr],
    is_this_machine: impl Fn(IpAddr) -> bool,
) -> bool {
    // A connect to the unspecified address reaches the machine itself.
    let local = |ip: IpAddr| match ip.to_canonical() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    let unspecified = |ip: IpAddr| ip.to_canonical().is_unspecified();
    listeners
        .iter()
        .filter(|listener| listener.port() == socket.port() && listener.port() != 0)
        .any(|listener| {
            let to = local(socket.ip());
            if unspecified(listener.ip()) {
                return to.is_loopback() || is_this_machine(to);
            }
            local(listener.ip()) == to
                || unspecified(socket.ip()) && listener.ip().to_canonical().is_loopback()
        })
}
