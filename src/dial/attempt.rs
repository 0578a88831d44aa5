//! One attempt: a socket, its options, and what an error of connect means.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::hop::{Hops, Lease, Reached};
use super::spare_stream::{NewSpare, SpareStream};
use crate::addr::is_own_listener;
use crate::clock::Moment;
use crate::events::{Events, Reason, event};
use crate::interference::{Interference, Refused};
use crate::stream::Stream;
use crate::sys::congestion::LoopbackCongestion;
use crate::sys::connect::{self, ConnectError, ConnectStatus};
use crate::sys::local_address::is_local_address;
use crate::sys::socket::{self, TcpOptions};
use crate::types::EndpointName;
use crate::upstream::constants;
use crate::upstream::endpoint::{Address, Candidate};

/// The shortest stagger, however fast the address usually connects.
const MIN_STAGGER: Duration = Duration::from_millis(10);

/// How one upstream is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialSettings {
    /// Limit of one attempt; 1.5 s allows for one lost SYN.
    pub connect_timeout: Duration,
    pub hedge_after: HedgeAfter,
    /// Options of the upstream leg, here for spares; the others get them from the relay.
    pub tcp: TcpOptions,
    /// What to do about congestion controls that pace loopback.
    pub loopback_congestion: LoopbackCongestion,
}

/// Upper bound of the stagger, the delay before the next candidate starts beside one that has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// 250 ms, or three round trips of the address where that is more: on a long path a connect that takes its time
    /// is no sign of trouble.
    Auto,
    /// This long; zero: the next candidate starts on failure only.
    AtMost(Duration),
}

/// Whether the client has sent bytes that will follow the connect at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientData {
    /// The last packet of the handshake goes with the first bytes: one packet less, and an upstream that waits for a
    /// request is woken once.
    Ready,
    None,
}

/// Starts attempts.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) settings: DialSettings,
    /// Addresses we listen on, which are never dialled.
    pub(super) own: Vec<SocketAddr>,
    pub(super) hops: Hops,
    pub(super) events: Events,
    pub(super) interference: Interference,
}

/// One attempt that has ended.
#[derive(Debug)]
pub struct Attempt {
    pub candidate: Candidate,
    pub started: Moment,
    pub took: Duration,
    /// Whether it was started beside another that was under way.
    pub hedge: bool,
    pub outcome: ConnectOutcome,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectOutcome {
    /// Connected, and the one that is used.
    Ok,
    /// A reset to our SYN: nothing listens there (or it was ourselves).
    Refused,
    Timeout,
    /// With the reason, for people.
    Unreachable(Cow<'static, str>),
    /// Reset during the handshake.
    Reset,
    /// This process lacked something (a descriptor, a port, memory). Says nothing about the address.
    Local(String),
    /// The hop before the address failed. Says nothing about the address.
    Hop(String),
    /// Another attempt was faster; this one was closed before any byte.
    LostRace {
        /// The winner had started later (a lost hedge).
        later: bool,
    },
}

/// A connected socket and how it came to be.
#[derive(Debug)]
pub struct Dialed {
    /// Connected; nothing has been sent to the target or read from it.
    pub stream: Stream,
    /// Keeps what the stream goes through, as long as it is in use.
    pub lease: Option<Lease>,
    pub candidate: Candidate,
    /// Attempts started for it; 0 for a spare.
    pub attempts: u32,
    /// Whether a second attempt was started while the first was under way.
    pub hedged: bool,
    /// From the call to the connected socket.
    pub took: Duration,
    /// When it was connected; of a spare, when it was taken.
    pub at: Moment,
    /// It was a spare.
    pub warm: bool,
}

/// Nothing could be dialled. All candidates were tried once.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The order was empty.
    #[error("no address to dial")]
    NoCandidate,
    /// All failed. This is the last failure that was not a local one, or the first local one.
    #[error("dial {endpoint} ({address}): {outcome}")]
    Failed {
        endpoint: EndpointName,
        address: String,
        outcome: ConnectOutcome,
    },
}

// === impl Connector ===

impl Connector {
    /// One attempt to one address, within `limit`: for probes and spares. Through a hop, its own limit holds.
    pub(super) async fn connect(
        &self,
        to: &Address,
        limit: Duration,
    ) -> Result<Reached, ConnectOutcome> {
        if self.interference.on_connect(to.socket).is_some() {
            let allowed = self.interference.may_connect(to.socket);
            tokio::time::timeout(limit, allowed)
                .await
                .map_err(|_late| ConnectOutcome::Timeout)?
                .map_err(|Refused| ConnectOutcome::Refused)?;
        }
        if let Some(target) = &to.target {
            return self.hops.open(target).await;
        }
        let (stream, status) = self.start(to.socket, ClientData::None)?;
        if status == ConnectStatus::Waiting {
            connected(&stream, to.socket, limit).await?;
        }
        Ok(Reached {
            stream: Stream::from(stream),
            lease: None,
        })
    }

    /// Makes `count` attempts to one address at once; each socket is registered with no event loop when it is returned.
    /// Stops at the first attempt that cannot start.
    pub(super) fn connect_many(
        &self,
        to: &Address,
        count: usize,
        limit: Duration,
    ) -> JoinSet<Result<NewSpare, ConnectOutcome>> {
        if self.interference.on_connect(to.socket).is_some() {
            return JoinSet::new();
        }
        if let Some(target) = &to.target {
            let one = |_| {
                let (hops, target) = (self.hops.clone(), target.clone());
                async move { hops.open(&target).await.and_then(spare) }
            };
            return (0..count).map(one).collect();
        }
        let to = to.socket;
        let started = (0..count).map_while(|_| self.start_std(to, ClientData::None).ok());
        started
            .map(|(stream, status)| async move {
                if status == ConnectStatus::Connected {
                    return Ok(NewSpare {
                        stream: SpareStream::Tcp(stream),
                        lease: None,
                        is_local: true,
                    });
                }
                let stream =
                    TcpStream::from_std(stream).map_err(|error| ConnectOutcome::of(&error))?;
                connected(&stream, to, limit).await?;
                spare(Reached::directly(stream))
            })
            .collect()
    }

    /// Starts a connect; with a local peer it is often finished on return.
    pub(super) fn start(
        &self,
        to: SocketAddr,
        client_data: ClientData,
    ) -> Result<(TcpStream, ConnectStatus), ConnectOutcome> {
        let (stream, status) = self.start_std(to, client_data)?;
        let stream = TcpStream::from_std(stream).map_err(|error| ConnectOutcome::of(&error))?;
        Ok((stream, status))
    }

    /// Tries the options on a socket of no other use, so that a refusal is said once and not where they are set.
    pub(super) fn try_options(&self) {
        if let Err(error) = socket::try_options(&self.settings.tcp) {
            event!(
                self.events,
                WARN,
                "resource",
                "the kernel refuses an option of upstream.tcp; connections are made without it",
                error = %error,
                hint = "see `entryway guide reference settings` for the values of upstream.tcp",
            );
        }
    }

    fn start_std(
        &self,
        to: SocketAddr,
        client_data: ClientData,
    ) -> Result<(std::net::TcpStream, ConnectStatus), ConnectOutcome> {
        if is_own_listener(to, &self.own, is_local_address) {
            return Err(ConnectOutcome::Local("this is our own listener".to_owned()));
        }
        let settings = &self.settings;
        let (stream, status) = connect::start(to, |socket| {
            // A connection is worth more than an option. The others come when they can matter: see the supervisor.
            let _ = socket::nodelay(socket);
            settings.loopback_congestion.apply(socket, to.ip());
            if client_data == ClientData::Ready {
                // Without it the handshake takes one packet more.
                let _ = socket::defer_handshake_ack(socket);
            }
            Ok(())
        })
        .map_err(|error| ConnectOutcome::of(&error))?;
        if status == ConnectStatus::Connected && connect::is_to_itself(&stream, to) {
            return Err(ConnectOutcome::Refused);
        }
        Ok((stream, status))
    }

    /// How long after the start of this candidate the next one starts; `None`: when it fails.
    pub(super) fn stagger(&self, candidate: &Candidate) -> Option<Duration> {
        let cap = match self.settings.hedge_after {
            HedgeAfter::AtMost(cap) => Some(cap).filter(|cap| !cap.is_zero())?,
            HedgeAfter::Auto => {
                let round_trip = candidate.address.round_trip().unwrap_or_default();
                constants::STAGGER_CAP.max(constants::ROUND_TRIPS * round_trip)
            }
        };
        let usual = candidate.address.connects.quantile(0.99);
        Some(usual.map_or(cap, |p99| cap.min(MIN_STAGGER.max(3 * p99))))
    }
}

// === impl HedgeAfter ===

impl HedgeAfter {
    /// The upper bound on a path that does not ask for more.
    pub const fn cap(self) -> Duration {
        match self {
            HedgeAfter::Auto => constants::STAGGER_CAP,
            HedgeAfter::AtMost(cap) => cap,
        }
    }

    /// Reads `auto` or a duration.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(HedgeAfter::Auto),
            _ => crate::duration::parse(text).map(HedgeAfter::AtMost),
        }
    }
}

impl Serialize for HedgeAfter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            HedgeAfter::Auto => serializer.serialize_str("auto"),
            HedgeAfter::AtMost(cap) => crate::duration::serialize(cap, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for HedgeAfter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;

        impl Visitor<'_> for Reads {
            type Value = HedgeAfter;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\", or a duration in quotes, such as \"250ms\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HedgeAfter, E> {
                HedgeAfter::parse(text).map_err(E::custom)
            }

            /// A bare number gets the error about missing units.
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<HedgeAfter, E> {
                HedgeAfter::parse(&number.to_string()).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<HedgeAfter, E> {
                HedgeAfter::parse(&number.to_string()).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Reads)
    }
}

// === impl ConnectOutcome ===

impl ConnectOutcome {
    pub(super) fn of(error: &io::Error) -> Self {
        match ConnectError::classify(error) {
            ConnectError::Refused => ConnectOutcome::Refused,
            ConnectError::TimedOut => ConnectOutcome::Timeout,
            ConnectError::Unreachable(why) => ConnectOutcome::Unreachable(why.into()),
            ConnectError::Reset => ConnectOutcome::Reset,
            ConnectError::Local(why) => ConnectOutcome::Local(why),
        }
    }

    /// The metric label.
    pub const fn as_str(&self) -> &'static str {
        match self {
            ConnectOutcome::Ok => "ok",
            ConnectOutcome::Refused => "refused",
            ConnectOutcome::Timeout => "timeout",
            ConnectOutcome::Unreachable(_) => "unreachable",
            ConnectOutcome::Reset => "reset",
            ConnectOutcome::Local(_) | ConnectOutcome::Hop(_) => "local",
            ConnectOutcome::LostRace { .. } => "lost_race",
        }
    }
}

impl fmt::Display for ConnectOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectOutcome::Ok => "connected",
            ConnectOutcome::Refused => "refused",
            ConnectOutcome::Timeout => "timed out",
            ConnectOutcome::Unreachable(why) => return write!(f, "unreachable: {why}"),
            ConnectOutcome::Reset => "reset",
            ConnectOutcome::Local(error) => return write!(f, "local error: {error}"),
            ConnectOutcome::Hop(error) => return write!(f, "hop: {error}"),
            ConnectOutcome::LostRace { .. } => "another attempt was faster",
        })
    }
}

// === impl Error ===

impl Error {
    /// Every candidate failed because this process lacked something.
    pub fn is_local(&self) -> bool {
        let Error::Failed { outcome, .. } = self else {
            return false;
        };
        matches!(outcome, ConnectOutcome::Local(_))
    }

    /// The close reason of a connection that ends because of this.
    pub fn reason(&self) -> Reason {
        match self {
            Error::NoCandidate => Reason::NoEndpoint,
            Error::Failed { outcome, .. } => match outcome {
                ConnectOutcome::Timeout | ConnectOutcome::LostRace { .. } => Reason::ConnectTimeout,
                ConnectOutcome::Unreachable(_) | ConnectOutcome::Hop(_) => Reason::Unreachable,
                ConnectOutcome::Local(_) => Reason::Resource,
                ConnectOutcome::Ok | ConnectOutcome::Refused | ConnectOutcome::Reset => {
                    Reason::ConnectRefused
                }
            },
        }
    }
}

fn spare(reached: Reached) -> Result<NewSpare, ConnectOutcome> {
    let stream = SpareStream::new(reached.stream).map_err(|error| ConnectOutcome::of(&error))?;
    Ok(NewSpare {
        stream,
        lease: reached.lease,
        is_local: false,
    })
}

/// Waits until a started connect has ended.
async fn connected(
    stream: &TcpStream,
    to: SocketAddr,
    limit: Duration,
) -> Result<(), ConnectOutcome> {
    let connected = std::future::poll_fn(|cx| poll_connected(stream, to, cx));
    tokio::time::timeout(limit, connected)
        .await
        .map_err(|_late| ConnectOutcome::Timeout)?
}

/// Polls a started connect.
pub(super) fn poll_connected(
    stream: &TcpStream,
    to: SocketAddr,
    cx: &mut Context<'_>,
) -> Poll<Result<(), ConnectOutcome>> {
    loop {
        ready!(stream.poll_write_ready(cx)).map_err(|error| ConnectOutcome::of(&error))?;
        // Inside `try_io`, so that a wake-up for nothing clears the readiness instead of spinning.
        let asked = stream.try_io(Interest::WRITABLE, || match connect::status(stream, to)? {
            ConnectStatus::Connected => Ok(()),
            ConnectStatus::Waiting => Err(io::ErrorKind::WouldBlock.into()),
        });
        return Poll::Ready(match asked {
            Ok(()) if connect::is_to_itself(stream, to) => Err(ConnectOutcome::Refused),
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => Err(ConnectOutcome::of(&error)),
        });
    }
}
