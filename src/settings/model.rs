//! The settings structs that no other module owns, and the struct of all settings.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admin::settings::AdminSettings;
use crate::dial::hop::ViaSettings;
use crate::dial::{HedgeAfter, PreconnectSettings};
use crate::dns::DnsSettings;
use crate::events::LogSettings;
use crate::gateway::GatewaySettings;
use crate::listener::ListenerSettings;
use crate::metrics::emf::MetricsSettings;
use crate::relay::{FramingMode, TcpSettings};
use crate::sys::congestion::LoopbackCongestion;
use crate::sys::limits::{DescriptorBudget, DescriptorUse};
use crate::target::{EndpointSettings, Target};
use crate::types::{UpstreamName, Zone};
use crate::upstream::settings::{FailbackSettings, HealthSettings, ProbeKind};

use super::byte_size::ByteSize;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Version of the file format; 1 is the only one.
    pub schema: u32,
    /// Other defaults for another environment.
    pub profile: Profile,
    /// At least one.
    #[serde(rename = "listener")]
    pub listeners: Vec<ListenerSettings>,
    /// At least one.
    #[serde(rename = "upstream")]
    pub upstreams: Vec<UpstreamSettings>,
    pub dns: DnsSettings,
    pub admin: AdminSettings,
    pub readiness: ReadinessSettings,
    pub faults: FaultsSettings,
    pub shutdown: ShutdownSettings,
    pub log: LogSettings,
    pub metrics: MetricsSettings,
    pub runtime: RuntimeSettings,
    pub gateway: GatewaySettings,
}

/// One `[[upstream]]`: endpoints that lead to one Datomic system or query group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamSettings {
    /// Metric label, and the value of `listener.upstream`.
    pub name: UpstreamName,
    /// Target: explicit endpoints.
    #[serde(rename = "endpoint")]
    pub endpoints: Vec<EndpointSettings>,
    /// Target: the regional name of a VPC endpoint, with or without a port.
    pub vpce: Option<String>,
    /// Target: the name of a network load balancer of one's own, with or without a port.
    pub nlb: Option<String>,
    /// Target: the entry name of a peered VPC, derived from system and region.
    pub peering: bool,
    pub system: Option<String>,
    pub region: Option<String>,
    /// The query group whose entry name peering uses.
    pub query_group: Option<String>,
    /// Target: path of a Datomic client map, `FILE[#KEY/KEY…]`.
    pub from_client: Option<String>,
    /// The availability zone of this host.
    pub zone: ZoneSetting,
    /// Timeout of one connection attempt. The default covers one lost SYN.
    #[serde(with = "crate::duration")]
    pub connect_timeout: Duration,
    /// Upper bound of the delay before a second attempt; zero disables hedging.
    pub hedge_after: HedgeAfter,
    /// How the endpoints are reached; directly by default.
    pub via: ViaSettings,
    pub health: HealthSettings,
    pub failback: FailbackSettings,
    pub tcp: TcpSettings,
    /// By the kind of probe where it is not set.
    pub framing: Option<FramingMode>,
    pub splice: Splice,
    /// Size of the pipes used by splice.
    pub pipe_size: ByteSize,
    pub warm: PreconnectSettings,
}

/// `upstream.zone`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ZoneSetting {
    /// Detected.
    #[default]
    Auto,
    /// Without a preference for a zone.
    None,
    Named(Zone),
}

/// `upstream.splice`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Splice {
    /// Used where both sides are plain TCP and messages are large.
    #[default]
    Auto,
    Off,
}

/// `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownSettings {
    /// Time after the signal during which connections are still accepted, so that an application that is stopped at the
    /// same moment can finish.
    #[serde(with = "crate::duration")]
    pub min_delay: Duration,
    /// Connections still open after this time are reset.
    #[serde(with = "crate::duration")]
    pub max_delay: Duration,
    /// Exit with code 3 if connections had to be reset.
    pub strict_exit: bool,
}

/// `[runtime]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeSettings {
    /// Congestion control of connections within this host.
    pub loopback_congestion: LoopbackCongestion,
    /// Data threads; the available CPUs where absent.
    pub workers: Option<NonZeroUsize>,
    pub sandbox: SandboxSetting,
}

/// `runtime.sandbox`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxSetting {
    /// Where the kernel can; never beside a command of ours (`run -- CMD`).
    #[default]
    Auto,
    Off,
}

/// `[faults]`: the HTTP API that sets faults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultsSettings {
    /// Where the API listens; loopback only. Absent: there is no API.
    pub bind: Option<SocketAddr>,
    /// The longest time that a fault stays, and how long it stays when no time is given.
    #[serde(with = "crate::duration")]
    pub max_ttl: Duration,
}

impl Default for FaultsSettings {
    fn default() -> Self {
        Self {
            bind: None,
            max_ttl: Duration::from_secs(600),
        }
    }
}

/// `[readiness]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadinessSettings {
    /// What `/readyz` requires of upstreams.
    pub upstream: ReadinessRule,
}

/// What `/readyz` requires of upstreams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadinessRule {
    #[default]
    None,
    /// One healthy address.
    Any,
    /// A healthy address of every upstream.
    All,
    /// This many healthy addresses.
    AtLeast(usize),
}

/// `profile`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Beside an application.
    #[default]
    Sidecar,
    Laptop,
    Load,
}

// === impl Settings ===

impl Settings {
    /// What this process, with its limits, may open under these settings; changes nothing.
    pub fn planned_budget(&self) -> DescriptorBudget {
        DescriptorBudget::planned(&self.descriptor_use())
    }

    /// What of these settings opens descriptors.
    pub fn descriptor_use(&self) -> DescriptorUse {
        let upstreams = self.upstreams.iter();
        let vias = upstreams.clone().flat_map(|upstream| {
            let own = upstream.endpoints.iter();
            own.filter_map(|endpoint| endpoint.via.as_ref())
                .chain([&upstream.via])
        });
        // Those that cannot be understood are refused elsewhere.
        let ways = vias.filter_map(|via| Some(via.hop().ok()??.descriptors()));
        let is_gateway = self.listeners.is_empty();
        let listening = match is_gateway {
            true => self.gateway.bind.len(),
            false => self.listeners.iter().map(|one| one.bind.len()).sum(),
        };
        DescriptorUse {
            workers: self.runtime.worker_threads(),
            spares: upstreams.map(|upstream| upstream.warm.spares).sum(),
            listening,
            per_connection: 1 + ways.max().unwrap_or(1),
            handshakes: match is_gateway {
                true => self.gateway.max_handshakes,
                false => 0,
            },
            faults: self.faults.bind.is_some(),
        }
    }
}

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
            faults: FaultsSettings::default(),
            shutdown: ShutdownSettings::default(),
            log: LogSettings::default(),
            metrics: MetricsSettings::default(),
            runtime: RuntimeSettings::default(),
            gateway: GatewaySettings::default(),
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
            nlb: None,
            peering: false,
            system: None,
            region: None,
            query_group: None,
            from_client: None,
            zone: ZoneSetting::default(),
            connect_timeout: Duration::from_millis(1500),
            hedge_after: HedgeAfter::Auto,
            via: ViaSettings::default(),
            health: HealthSettings::default(),
            failback: FailbackSettings::default(),
            tcp: TcpSettings::default(),
            framing: None,
            splice: Splice::default(),
            pipe_size: ByteSize(64 * 1024),
            warm: PreconnectSettings::default(),
        }
    }
}

impl UpstreamSettings {
    /// Whether HTTP/1.1 framing is followed.
    pub fn is_framed(&self) -> bool {
        match self.framing {
            Some(mode) => mode == FramingMode::Http,
            None => matches!(self.health.kind, ProbeKind::Datomic | ProbeKind::Http),
        }
    }

    /// What says where it leads.
    pub fn target(&self) -> Target<'_> {
        Target {
            endpoints: &self.endpoints,
            vpce: self.vpce.as_deref(),
            nlb: self.nlb.as_deref(),
            peering: self.peering,
            system: self.system.as_deref(),
            region: self.region.as_deref(),
            query_group: self.query_group.as_deref(),
            from_client: self.from_client.as_deref(),
        }
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

impl From<ZoneSetting> for String {
    fn from(zone: ZoneSetting) -> String {
        match zone {
            ZoneSetting::Auto => "auto".to_owned(),
            ZoneSetting::None => "none".to_owned(),
            ZoneSetting::Named(zone) => zone.as_str().to_owned(),
        }
    }
}

// === impl Readiness ===

impl std::str::FromStr for ReadinessRule {
    type Err = String;

    /// Also what `/readyz?upstream=` takes.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(ReadinessRule::None),
            "any" => Ok(ReadinessRule::Any),
            "all" => Ok(ReadinessRule::All),
            _ => text.parse().map(ReadinessRule::AtLeast).map_err(|_| {
                format!(
                    "expected none, any, all or a number of addresses, found the text `{}`",
                    text.escape_debug()
                )
            }),
        }
    }
}

impl Serialize for ReadinessRule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ReadinessRule::None => serializer.serialize_str("none"),
            ReadinessRule::Any => serializer.serialize_str("any"),
            ReadinessRule::All => serializer.serialize_str("all"),
            ReadinessRule::AtLeast(number) => serializer.serialize_u64(*number as u64),
        }
    }
}

impl<'de> Deserialize<'de> for ReadinessRule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl serde::de::Visitor<'_> for Reads {
            type Value = ReadinessRule;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"none\", \"any\", \"all\" or a number of addresses")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ReadinessRule, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<ReadinessRule, E> {
                let words = serde::de::Unexpected::Unsigned(number);
                usize::try_from(number)
                    .map(ReadinessRule::AtLeast)
                    .map_err(|_| E::invalid_value(words, &self))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<ReadinessRule, E> {
                let words = serde::de::Unexpected::Signed(number);
                usize::try_from(number)
                    .map(ReadinessRule::AtLeast)
                    .map_err(|_| E::invalid_value(words, &self))
            }
        }
        deserializer.deserialize_any(Reads)
    }
}

// === impl RuntimeSettings ===

impl RuntimeSettings {
    /// Data threads that are started.
    pub fn worker_threads(&self) -> usize {
        self.workers
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, usize::from)
    }
}
