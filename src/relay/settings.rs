//! The settings that the relay owns: the table `upstream.tcp`, and what it becomes for one connection.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sys::socket::TcpOptions;

/// `upstream.tcp`: how connections are supervised. Durations of 0 mean never.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpSettings {
    /// Idle time before the first keepalive probe, on the upstream leg and towards clients that are not on loopback.
    #[serde(with = "crate::duration")]
    pub keepalive: Duration,
    /// Time between keepalive probes.
    #[serde(with = "crate::duration")]
    pub keepalive_interval: Duration,
    /// Unanswered probes until a connection is dead.
    pub keepalive_probes: u32,
    /// How long sent bytes may stay unacknowledged, or unread by the upstream.
    #[serde(with = "crate::duration")]
    pub user_timeout: Duration,
    /// Ends a fully open connection on which nothing moved for this long.
    #[serde(with = "crate::duration")]
    pub idle_timeout: Duration,
    /// Ends a half-closed connection on which nothing moved for this long.
    #[serde(with = "crate::duration")]
    pub half_open_timeout: Duration,
    /// How long a reset waits for the other side to take what had been acknowledged; 0 means without limit.
    #[serde(with = "crate::duration")]
    pub reset_deadline: Duration,
    /// Closes older connections once they are at rest.
    #[serde(with = "crate::duration")]
    pub max_age: Duration,
}

/// The limits of one relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ends a fully open connection that is silent for this long.
    pub idle_timeout: Option<Duration>,
    /// Ends a half-closed connection that is silent for this long.
    pub half_open_timeout: Option<Duration>,
    /// How long a reset waits for delivery; `None`: without limit.
    pub reset_deadline: Option<Duration>,
    /// Whether two plain TCP sockets may be spliced.
    pub splice: bool,
    /// Size of the pipe for messages.
    pub pipe_size: u32,
    /// Whether HTTP/1.1 framing is followed.
    pub framing: bool,
    /// How the kernel watches over the upstream leg, and how long bytes may wait for a peer that acknowledges nothing.
    pub tcp: TcpOptions,
}

/// `upstream.framing`: how the end of an answer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FramingMode {
    /// By HTTP/1.1 framing, which is watched as bytes pass.
    Http,
    /// By silence.
    None,
}

// === impl TcpSettings ===

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_secs(15),
            keepalive_interval: Duration::from_secs(5),
            keepalive_probes: 3,
            user_timeout: Duration::from_secs(15),
            idle_timeout: Duration::ZERO,
            half_open_timeout: Duration::from_secs(300),
            reset_deadline: Duration::from_secs(30),
            max_age: Duration::ZERO,
        }
    }
}

impl TcpSettings {
    /// The socket options.
    pub fn options(&self) -> TcpOptions {
        TcpOptions {
            keepalive: some(self.keepalive),
            keepalive_interval: self.keepalive_interval,
            keepalive_probes: self.keepalive_probes,
            user_timeout: some(self.user_timeout),
        }
    }

    /// The limits of a relay.
    pub fn limits(&self, splice: bool, pipe_size: u32, framing: bool) -> Limits {
        Limits {
            idle_timeout: some(self.idle_timeout),
            half_open_timeout: some(self.half_open_timeout),
            reset_deadline: some(self.reset_deadline),
            splice,
            pipe_size,
            framing,
            tcp: self.options(),
        }
    }

    /// Age above which connections at rest are closed.
    pub fn max_age(&self) -> Option<Duration> {
        some(self.max_age)
    }
}

fn some(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

// === impl Limits ===

impl Limits {
    /// The default size of the pipe for messages.
    pub const PIPE_SIZE: u32 = 64 << 10;
}

impl Default for Limits {
    fn default() -> Self {
        TcpSettings::default().limits(true, Self::PIPE_SIZE, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_durations_and_refuses_unknown_keys() {
        let read: TcpSettings =
            toml::from_str("user_timeout = \"1s\"\nidle_timeout = \"0s\"").unwrap();
        assert_eq!(read.user_timeout, Duration::from_secs(1));
        assert_eq!(read.limits(true, 1, true).idle_timeout, None);
        let never: TcpSettings = toml::from_str("reset_deadline = \"0s\"").unwrap();
        assert_eq!(never.limits(true, 1, true).reset_deadline, None);
        assert_eq!(
            read.limits(true, 1, true).half_open_timeout,
            Some(Duration::from_secs(300))
        );
        assert!(toml::from_str::<TcpSettings>("user_timout = \"1s\"").is_err());
    }
}
