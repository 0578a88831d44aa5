//! What the mock is asked to be.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// What to fake.
#[derive(Clone, Debug)]
pub struct MockConfig {
    /// Zone names, one entry point each.
    pub zones: Vec<String>,
    /// The first zone's address; the others follow it (127.0.0.11, .12, …).
    pub base_ip: IpAddr,
    /// The port they share; 0 takes one that is free on all of them.
    pub port: u16,
    /// Delay of every answer.
    pub latency: Duration,
    /// What mode `slow` adds to that.
    pub slow_by: Duration,
    /// The `:s3-auth-path` they answer with.
    pub identity: String,
    /// Where the HTTP port that switches zones listens; `None`: nowhere.
    pub admin: Option<SocketAddr>,
}

// === impl MockConfig ===

impl Default for MockConfig {
    fn default() -> Self {
        Self {
            zones: ["a", "b", "c"].map(str::to_owned).to_vec(),
            base_ip: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)),
            port: 0,
            latency: Duration::ZERO,
            slow_by: Duration::from_secs(2),
            identity: "mock-bucket/mock-system".to_owned(),
            admin: None,
        }
    }
}
