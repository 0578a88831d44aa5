//! What the mock is started with, and what can be changed per zone while it runs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use super::latency::Latency;

#[derive(Clone, Debug)]
pub struct MockConfig {
    /// Zone names, one entry point each.
    pub zones: Vec<String>,
    /// The first zone's address; the others follow it (127.0.0.11, .12, …).
    pub base_ip: IpAddr,
    /// The port they share; 0 takes one that is free on all of them.
    pub port: u16,
    /// What every zone starts with.
    pub behaviour: Behaviour,
    /// The `:s3-auth-path` they answer with.
    pub identity: String,
    /// Address of the HTTP port that switches zones.
    pub admin: Option<SocketAddr>,
}

/// How a zone answers and when it closes idle connections; independent of its mode.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Delay before every answer.
    pub latency: Latency,
    /// What mode `slow` adds to the latency, and over how long `slow-body` spreads a body.
    pub slow_by: Duration,
    /// Size of the answers' bodies; `None`: the identity's own size, and a POST is echoed.
    pub body: Option<usize>,
    /// Close connections that were idle for that long, as an ALB does after 60 s.
    pub idle_cut: Option<Duration>,
    /// Forget connections that were idle for that long, as an NLB does after 350 s: nothing is sent, and what comes
    /// later is answered by a reset.
    pub idle_cut_silent: Option<Duration>,
}

/// The filler of bodies, one allocation for all answers.
pub(super) fn filler(size: usize) -> Bytes {
    static ZEROS: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    const SHARED: usize = 1 << 20;
    match size {
        0..=SHARED => ZEROS
            .get_or_init(|| Bytes::from(vec![b'.'; SHARED]))
            .slice(..size),
        _ => Bytes::from(vec![b'.'; size]),
    }
}

// === impl MockConfig ===

impl Default for MockConfig {
    fn default() -> Self {
        Self {
            zones: ["a", "b", "c"].map(str::to_owned).to_vec(),
            base_ip: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)),
            port: 0,
            behaviour: Behaviour::default(),
            identity: "mock-bucket/mock-system".to_owned(),
            admin: None,
        }
    }
}

// === impl Behaviour ===

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            latency: Latency::default(),
            slow_by: Duration::from_secs(2),
            body: None,
            idle_cut: None,
            idle_cut_silent: None,
        }
    }
}
