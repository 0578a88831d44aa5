//! The connect of a probe, and what an error of its socket means for the address.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::sys::socket::{Fault, fault_of, is_local_fault};
use crate::upstream::fact::ProbeOutcome;

/// A new connection, as traffic makes them.
pub(super) async fn connect(socket: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(socket).await?;
    // Refused only on a socket that is gone already; the next call on it says so.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// What an error says about the address, or about us.
pub(super) fn outcome(error: &io::Error) -> ProbeOutcome {
    if is_local_fault(error) {
        return ProbeOutcome::Local(error.to_string());
    }
    match (error.kind(), fault_of(error)) {
        (ErrorKind::ConnectionRefused, _) => ProbeOutcome::Refused,
        // A `prohibit` route or a local firewall: there is no way there.
        (ErrorKind::PermissionDenied, _) | (_, Some(Fault::Unreachable)) => {
            ProbeOutcome::Unreachable
        }
        (_, Some(Fault::Reset)) => ProbeOutcome::Reset,
        (_, Some(Fault::UserTimeout | Fault::KeepaliveTimeout)) => ProbeOutcome::Timeout,
        (_, None) => ProbeOutcome::Local(error.to_string()),
    }
}
