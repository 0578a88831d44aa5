//! One attempt: a socket, its options, and what an error of connect means.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::clock::Moment;
use crate::events::Reason;
use crate::sys::congestion::LoopbackCongestion;
use crate::sys::connect::{self, Standing};
use crate::sys::socket::{self, TcpOptions};
use crate::types::EndpointName;
use crate::upstream::endpoint::Candidate;

/// The least delay before the next candidate starts, however fast the address usually is.
const LEAST_STAGGER: Duration = Duration::from_millis(10);

/// How one upstream is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialSettings {
    /// Limit of one attempt; 1.5 s covers one lost SYN.
    pub connect_timeout: Duration,
    /// Upper bound of the stagger; zero: the next candidate starts on failure only.
    pub hedge_after: Duration,
    /// Options of the upstream leg.
    pub tcp: TcpOptions,
    /// What to do about congestion controls that pace loopback.
    pub loopback_congestion: LoopbackCongestion,
}

/// Whether bytes will follow the connect at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The client has said something already: the end of the handshake goes with it, one packet less, and an upstream
    /// that waits for a request is woken once.
    Spoken,
    /// Nothing to say yet, or nobody to say it.
    Silent,
}

/// Starts attempts.
#[derive(Debug)]
pub(super) struct Opener {
    pub(super) settings: DialSettings,
    /// Addresses we listen on: dialling them would be a loop.
    pub(super) own: Vec<SocketAddr>,
}

/// What became of one attempt.
#[derive(Debug)]
pub struct Attempt {
    /// Where to.
    pub candidate: Candidate,
    /// When it started.
    pub started: Moment,
    /// How long it lasted.
    pub took: Duration,
    /// Whether it was started beside another that was under way.
    pub hedge: bool,
    /// What came of it.
    pub outcome: Outcome,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Connected, and the one that is used.
    Ok,
    /// A reset to our SYN: nothing listens there (or it was ourselves).
    Refused,
    /// No answer within the limit.
    Timeout,
    /// The network says there is no way.
    Unreachable,
    /// Reset during the handshake.
    Reset,
    /// Our own fault: no descriptor, no port, no memory. Blames no address.
    Local(String),
    /// Another attempt was faster; this one was closed before any byte.
    LostRace {
        /// The winner had started later: this address was outpaced, which is a lost hedge.
        later: bool,
    },
}

/// A connected socket and how it came to be.
#[derive(Debug)]
pub struct Dialed {
    /// Connected; not a byte sent or read.
    pub stream: TcpStream,
    /// Where it leads.
    pub candidate: Candidate,
    /// Attempts started for it; 0 for a spare.
    pub attempts: u32,
    /// Whether a second attempt was started while the first was under way.
    pub hedged: bool,
    /// From the call to the connected socket.
    pub took: Duration,
    /// It was a spare.
    pub warm: bool,
}

/// Nothing could be dialled. All candidates were tried once.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The order was empty.
    #[error("no address to dial")]
    NoCandidate,
    /// All failed; this is the last that was not our own fault, or our own fault if there was nothing else.
    #[error("dial {endpoint} ({socket}): {outcome}")]
    Failed {
        /// The endpoint dialled.
        endpoint: EndpointName,
        /// The address dialled.
        socket: SocketAddr,
        /// What came of it.
        outcome: Outcome,
    },
}

// === impl Opener ===

impl Opener {
    /// One attempt to one address, within `limit`: for probes and spares.
    pub(super) async fn connect(
        &self,
        to: SocketAddr,
        limit: Duration,
    ) -> Result<TcpStream, Outcome> {
        let (stream, standing) = self.start(to, Opening::Silent)?;
        if standing == Standing::Waiting {
            connected(&stream, to, limit).await?;
        }
        Ok(stream)
    }

    /// The same for sockets that no event loop is to know when they are connected: so many to one address at once, each
    /// given out as soon as it is. Fewer where one cannot even start.
    pub(super) fn connect_many(
        &self,
        to: SocketAddr,
        count: usize,
        limit: Duration,
    ) -> JoinSet<Result<std::net::TcpStream, Outcome>> {
        let started = (0..count).map_while(|_| self.start_std(to, Opening::Silent).ok());
        started
            .map(|(stream, standing)| async move {
                if standing == Standing::Connected {
                    return Ok(stream);
                }
                let stream = TcpStream::from_std(stream).map_err(Outcome::of)?;
                connected(&stream, to, limit).await?;
                stream.into_std().map_err(Outcome::of)
            })
            .collect()
    }

    /// Starts a connect; with a local peer it is often finished on return.
    pub(super) fn start(
        &self,
        to: SocketAddr,
        opening: Opening,
    ) -> Result<(TcpStream, Standing), Outcome> {
        let (stream, standing) = self.start_std(to, opening)?;
        let stream = TcpStream::from_std(stream).map_err(Outcome::of)?;
        Ok((stream, standing))
    }

    fn start_std(
        &self,
        to: SocketAddr,
        opening: Opening,
    ) -> Result<(std::net::TcpStream, Standing), Outcome> {
        if self.is_own(to) {
            return Err(Outcome::Local("this is our own listener".to_owned()));
        }
        let settings = &self.settings;
        let (stream, standing) = connect::start(to, |socket| {
            socket::nodelay(socket)?;
            socket::keepalive(socket, &settings.tcp)?;
            settings.loopback_congestion.apply(socket, to.ip());
            if opening == Opening::Spoken {
                // A refusal costs a packet, not the connection.
                let _ = socket::hold_first_ack(socket);
            }
            Ok(())
        })
        .map_err(Outcome::of)?;
        if standing == Standing::Connected && connect::is_to_itself(&stream, to) {
            return Err(Outcome::Refused);
        }
        Ok((stream, standing))
    }

    fn is_own(&self, to: SocketAddr) -> bool {
        self.own.iter().any(|own| {
            own.port() == to.port()
                && (own.ip() == to.ip() || own.ip().is_unspecified() && to.ip().is_loopback())
        })
    }

    /// How long an attempt to this candidate may be alone; `None`: until it fails.
    pub(super) fn stagger(&self, candidate: &Candidate) -> Option<Duration> {
        let most = self.settings.hedge_after;
        if most.is_zero() {
            return None;
        }
        let usual = candidate.address.connects.quantile(0.99);
        Some(usual.map_or(most, |p99| most.min(LEAST_STAGGER.max(3 * p99))))
    }
}

// === impl Outcome ===

impl Outcome {
    /// What an error of connect means.
    pub(super) fn of(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Outcome::Refused,
            Kind::TimedOut => Outcome::Timeout,
            // Permission: a "prohibit" route or a firewall of this machine answers with it.
            Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::PermissionDenied => Outcome::Unreachable,
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => Outcome::Reset,
            // EMFILE, EADDRNOTAVAIL, ENOBUFS and what nobody expected: not the address's fault (contract 7.12).
            _ => Outcome::Local(error.to_string()),
        }
    }

    /// The metric label.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Timeout => "timeout",
            Outcome::Unreachable => "unreachable",
            Outcome::Reset => "reset",
            Outcome::Local(_) => "local",
            Outcome::LostRace { .. } => "lost_race",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Ok => "connected",
            Outcome::Refused => "refused",
            Outcome::Timeout => "timed out",
            Outcome::Unreachable => "unreachable",
            Outcome::Reset => "reset",
            Outcome::Local(error) => return write!(f, "our own fault: {error}"),
            Outcome::LostRace { .. } => "another was faster",
        })
    }
}

// === impl Error ===

impl Error {
    /// The reason a connection ends with when this was its last word.
    pub fn reason(&self) -> Reason {
        match self {
            Error::NoCandidate => Reason::NoEndpoint,
            Error::Failed { outcome, .. } => match outcome {
                Outcome::Timeout | Outcome::LostRace { .. } => Reason::ConnectTimeout,
                Outcome::Unreachable => Reason::Unreachable,
                Outcome::Local(_) => Reason::Resource,
                Outcome::Ok | Outcome::Refused | Outcome::Reset => Reason::ConnectRefused,
            },
        }
    }
}

/// Waits for the end of a connect.
async fn connected(stream: &TcpStream, to: SocketAddr, limit: Duration) -> Result<(), Outcome> {
    let connected = std::future::poll_fn(|cx| poll_connected(stream, to, cx));
    tokio::time::timeout(limit, connected)
        .await
        .map_err(|_late| Outcome::Timeout)?
}

/// Whether a waiting connect has come to its end.
pub(super) fn poll_connected(
    stream: &TcpStream,
    to: SocketAddr,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Outcome>> {
    loop {
        ready!(stream.poll_write_ready(cx)).map_err(Outcome::of)?;
        // Inside `try_io`, so that a wake-up for nothing clears the readiness instead of spinning.
        let asked = stream.try_io(Interest::WRITABLE, || {
            match connect::standing(stream, to)? {
                Standing::Connected => Ok(()),
                Standing::Waiting => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        return Poll::Ready(match asked {
            Ok(()) if connect::is_to_itself(stream, to) => Err(Outcome::Refused),
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => Err(Outcome::of(error)),
        });
    }
}
