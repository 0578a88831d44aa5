//! The settings structs that belong to no single module below, and their sum.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Deserialize;

use crate::addr::{self, HostPort, NameError};
use crate::admin::settings::AdminSettings;
use crate::dial::PreconnectSettings;
use crate::dns::DnsSettings;
use crate::events::LogSettings;
use crate::listener::ListenerSettings;
use crate::relay::TcpSettings;
use crate::sys::congestion::LoopbackCongestion;
use crate::types::{EndpointName, UpstreamName, Zone};
use crate::upstream::timing::{FailbackSettings, HealthSettings};

use super::size::Size;

/// Everything that can be set, validated.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Version of the file's layout; 1 is the only one.
    pub schema: u32,
    /// Other defaults for another place to run in.
    pub profile: Profile,
    /// Where clients connect; at least one.
    #[serde(rename = "listener")]
    pub listeners: Vec<ListenerSettings>,
    /// Where connections go; at least one.
    #[serde(rename = "upstream")]
    pub upstreams: Vec<UpstreamSettings>,
    /// How names are resolved.
    pub dns: DnsSettings,
    /// Admin HTTP and control socket.
    pub admin: AdminSettings,
    /// What `/readyz` asks for.
    pub readiness: ReadinessSettings,
    /// How it ends.
    pub shutdown: ShutdownSettings,
    /// What is logged, and how.
    pub log: LogSettings,
    /// Threads and sockets.
    pub runtime: RuntimeSettings,
}

/// One `[[upstream]]`: endpoints that lead to one Datomic system or query group.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamSettings {
    /// Metric label; what `listener.upstream` names.
    pub name: UpstreamName,
    /// Target: explicit endpoints.
    #[serde(rename = "endpoint")]
    pub endpoints: Vec<EndpointSettings>,
    /// Target: the regional name of a VPC endpoint, with or without a port.
    pub vpce: Option<String>,
    /// Target: the peered entry name, made of system and region.
    pub peering: bool,
    /// The Datomic system.
    pub system: Option<String>,
    /// The AWS region.
    pub region: Option<String>,
    /// Target: a Datomic client map.
    pub from_client: Option<String>,
    /// Our own zone.
    pub zone: ZoneSetting,
    /// Limit of one connect attempt; 1.5 s covers one lost SYN.
    #[serde(with = "crate::duration")]
    pub connect_timeout: Duration,
    /// Upper bound of the stagger between attempts; zero: never.
    #[serde(with = "crate::duration")]
    pub hedge_after: Duration,
    /// Probes, and what marks an address up or down.
    pub health: HealthSettings,
    /// The way back to an endpoint that was down.
    pub failback: FailbackSettings,
    /// Keepalive and the timers of a connection.
    pub tcp: TcpSettings,
    /// Whether bytes may move inside the kernel.
    pub splice: Splice,
    /// Size of the pipes they move through.
    pub pipe_size: Size,
    /// Connected spares.
    pub warm: PreconnectSettings,
}

/// One `[[upstream.endpoint]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSettings {
    /// `HOST:PORT`, as typed.
    pub address: String,
    /// Its zone, where known.
    #[serde(default)]
    pub zone: Option<Zone>,
    /// Its name, where the default (zone or host) is not wanted.
    #[serde(default)]
    pub name: Option<EndpointName>,
}

/// `upstream.zone`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum ZoneSetting {
    /// Found out.
    #[default]
    Auto,
    /// No zone is ours: nearest first.
    None,
    /// This one.
    Named(Zone),
}

/// `upstream.splice`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Splice {
    /// Where both ends are plain TCP and messages are large.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownSettings {
    /// Accepting goes on this long after the signal, so that an app that stops with us can finish.
    #[serde(with = "crate::duration")]
    pub min_delay: Duration,
    /// What is still open after this long is reset.
    #[serde(with = "crate::duration")]
    pub max_delay: Duration,
    /// Exit code 3 when connections had to be cut.
    pub strict_exit: bool,
}

/// `[runtime]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeSettings {
    /// Congestion control of legs that stay on this machine.
    pub loopback_congestion: LoopbackCongestion,
    /// Data threads; `None`: the CPUs available.
    pub workers: Option<NonZeroUsize>,
}

/// `[readiness]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadinessSettings {
    /// How much of the upstreams must be healthy for `/readyz` to say 200.
    pub upstream: Readiness,
}

/// What is asked of upstreams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// Nothing.
    #[default]
    None,
    /// One healthy address of any upstream.
    Any,
    /// Every upstream has a healthy address.
    All,
    /// So many healthy addresses.
    AtLeast(usize),
}

/// `profile`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Beside an app.
    #[default]
    Sidecar,
    /// On a developer's machine.
    Laptop,
    /// In front of a load test.
    Load,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            schema: 1,
            profile: Profile::default(),
            listeners: vec![ListenerSettings::default()],
            upstreams: vec![UpstreamSettings::default()],
            dns: DnsSettings::default(),
            admin: AdminSettings::default(),
            readiness: ReadinessSettings::default(),
            shutdown: ShutdownSettings::default(),
            log: LogSettings::default(),
            runtime: RuntimeSettings::default(),
        }
    }
}

// === impl UpstreamSettings ===

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            name: UpstreamName::new("default"),
            endpoints: Vec::new(),
            vpce: None,
            peering: false,
            system: None,
            region: None,
            from_client: None,
            zone: ZoneSetting::default(),
            connect_timeout: Duration::from_millis(1500),
            hedge_after: Duration::from_millis(250),
            health: HealthSettings::default(),
            failback: FailbackSettings::default(),
            tcp: TcpSettings::default(),
            splice: Splice::default(),
            pipe_size: Size(64 * 1024),
            warm: PreconnectSettings::default(),
        }
    }
}

// === impl EndpointSettings ===

impl EndpointSettings {
    /// Host and port; the error says what the address is instead.
    pub fn place(&self) -> Result<HostPort, NameError> {
        addr::check_name(addr::NameKind::Endpoint, &self.address)
    }
}

// === impl ShutdownSettings ===

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self {
            min_delay: Duration::ZERO,
            max_delay: Duration::from_secs(25),
            strict_exit: false,
        }
    }
}

// === impl ZoneSetting ===

impl From<String> for ZoneSetting {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" => ZoneSetting::Auto,
            "none" => ZoneSetting::None,
            _ => ZoneSetting::Named(Zone::new(text)),
        }
    }
}

// === impl Readiness ===

impl std::str::FromStr for Readiness {
    type Err = String;

    /// Also what `/readyz?upstream=` takes.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Readiness::None),
            "any" => Ok(Readiness::Any),
            "all" => Ok(Readiness::All),
            _ => text.parse().map(Readiness::AtLeast).map_err(|_| {
                format!(
                    "expected none, any, all or a number of addresses, found the text `{}`",
                    text.escape_debug()
                )
            }),
        }
    }
}

impl<'de> Deserialize<'de> for Readiness {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl serde::de::Visitor<'_> for Reads {
            type Value = Readiness;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"none\", \"any\", \"all\" or a number of addresses")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Readiness, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Readiness, E> {
                let words = serde::de::Unexpected::Signed(number);
                usize::try_from(number)
                    .map(Readiness::AtLeast)
                    .map_err(|_| E::invalid_value(words, &self))
            }
        }
        deserializer.deserialize_any(Reads)
    }
}
