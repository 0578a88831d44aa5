//! The connect of a probe, and what an error of its socket means for the address.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::dial::ConnectOutcome;
use crate::sys::connect::ConnectError;
use crate::upstream::input::ProbeOutcome;

/// A new connection, as traffic makes them.
pub(super) async fn connect(socket: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(socket).await?;
    // Refused only on a socket that is gone already; the next call on it says so.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// What an error says about the address, or about us.
pub(super) fn outcome(error: &io::Error) -> ProbeOutcome {
    match ConnectError::classify(error) {
        ConnectError::Refused => ProbeOutcome::Refused,
        ConnectError::TimedOut => ProbeOutcome::Timeout,
        ConnectError::Unreachable(why) => ProbeOutcome::Unreachable(why.into()),
        ConnectError::Reset => ProbeOutcome::Reset,
        ConnectError::Local(why) => ProbeOutcome::Local(why),
    }
}

/// The same for a connection that the dialer was asked for.
pub(super) fn dial_outcome(outcome: ConnectOutcome) -> ProbeOutcome {
    match outcome {
        ConnectOutcome::Refused => ProbeOutcome::Refused,
        ConnectOutcome::Timeout => ProbeOutcome::Timeout,
        ConnectOutcome::Unreachable(why) => ProbeOutcome::Unreachable(why),
        ConnectOutcome::Reset => ProbeOutcome::Reset,
        ConnectOutcome::Local(_)
        | ConnectOutcome::Hop(_)
        | ConnectOutcome::Ok
        | ConnectOutcome::LostRace { .. } => ProbeOutcome::Local(outcome.to_string()),
    }
}
