//! The JSON of `/v1/*`, as the server writes it and the command line reads it (see `guide/reference-api.md`).
//! `convert` makes it from the snapshots of the upstreams.
//!
//! Fields are added, never renamed or removed, while `schema_version` stays.

use serde::{Deserialize, Serialize};

/// Version of all the shapes here.
pub const SCHEMA_VERSION: u32 = 1;

/// Anything of `/v1/*`: the version beside the value's own fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// Version of the shape.
    pub schema_version: u32,
    #[serde(flatten)]
    pub value: T,
}

/// `/v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusJson {
    pub version: String,
    /// Our process.
    pub pid: u32,
    /// 1, and one more with each upgrade.
    pub generation: u64,
    /// The process that this one has replaced; null in the first.
    pub parent_pid: Option<u32>,
    /// Since the start.
    pub uptime_s: f64,
    /// What `/readyz` says.
    pub ready: bool,
    /// Shutting down.
    pub draining: bool,
    /// Connections at once over all listeners, by the limit of open files.
    pub max_connections: usize,
    /// The control socket's path.
    pub control_socket: Option<String>,
    /// Where the API that sets faults listens.
    pub faults: Option<String>,
    /// Whether this process is restricted, and to what.
    pub sandbox: SandboxJson,
    pub listeners: Vec<ListenerJson>,
    pub upstreams: Vec<UpstreamJson>,
}

/// The sandbox in `/v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxJson {
    /// It is in force.
    pub on: bool,
    /// Why not.
    pub reason: Option<String>,
    /// The version of Landlock's interface that is in force.
    pub landlock: Option<i32>,
    /// Files that settings named at the start.
    pub files: Vec<String>,
    /// Programs that settings named at the start.
    pub programs: Vec<String>,
    /// Names may be resolved by the system's library.
    pub system_resolver: bool,
}

/// A listener in `/v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListenerJson {
    pub name: String,
    /// Where it is bound.
    pub addresses: Vec<String>,
    /// The upstream that it leads to.
    pub upstream: String,
    /// What its clients speak: `http`, or `https` where a gateway takes TLS.
    pub scheme: String,
    /// Its open connections.
    pub connections: usize,
    /// Those of them that wait for an endpoint.
    pub parked: usize,
}

/// An upstream in `/v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamJson {
    pub name: String,
    /// The Datomic system, where the settings name it.
    pub system: Option<String>,
    /// The region, where it is known.
    pub region: Option<String>,
    /// Our own zone, where it is known.
    pub zone: Option<String>,
    /// The system it is pinned to.
    pub identity: Option<String>,
    /// Addresses that are up, suspect or returning.
    pub healthy: usize,
    /// Addresses known.
    pub addresses: usize,
}

/// `/v1/endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    /// All of all upstreams.
    pub endpoints: Vec<EndpointJson>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointJson {
    pub upstream: String,
    pub name: String,
    /// Its host as configured or derived.
    pub host: String,
    pub port: u16,
    /// Its zone, where known.
    pub zone: Option<String>,
    /// 0 own zone, 1 other zone, 2 peered name.
    pub tier: u8,
    /// One address is up, suspect or returning.
    pub healthy: bool,
    /// `ready` or `drain`.
    pub intent: String,
    /// New connections go there first.
    pub active: bool,
    /// Open connections to it.
    pub connections: usize,
    pub addresses: Vec<AddressJson>,
}

/// An address of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressJson {
    /// `IP:PORT`.
    pub address: String,
    /// `unknown up suspect returning down`.
    pub state: String,
    /// Since when it is in this state.
    pub since: String,
    /// Why.
    pub reason: String,
    /// The median of its recent connects.
    pub connect_ms: Option<f64>,
    pub last_probe: Option<Probe>,
    /// Whether its name answers with it.
    pub in_dns: bool,
    /// The system it last answered as.
    pub identity: Option<String>,
}

/// A probe that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probe {
    /// When it was sent.
    pub at: String,
    /// `ok`, or what was wrong.
    pub result: String,
    /// What was seen beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How long it took.
    pub ms: f64,
}

/// `/v1/connections`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionsJson {
    /// The first ones.
    pub connections: Vec<ConnectionJson>,
}

/// An open connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionJson {
    /// Its number, as in the log.
    pub id: u64,
    pub listener: String,
    /// The client's `IP:PORT`.
    pub client: String,
    /// Its endpoint; absent before one is chosen.
    pub endpoint: Option<String>,
    /// The endpoint's address.
    pub address: Option<String>,
    /// Since accept.
    pub age_s: f64,
    /// Since the last byte moved.
    pub idle_s: f64,
    /// Whether it may be closed early.
    pub at_rest: bool,
    /// `idle`, `request`, `waiting`, `answer` or `unknown`, by HTTP framing; null without it.
    pub phase: Option<String>,
    /// `buffer` or `pipe`.
    pub lane: String,
    /// What it carried so far.
    pub bytes: BytesJson,
}

/// Bytes each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BytesJson {
    /// Client to endpoint.
    pub upload: u64,
    /// Endpoint to client.
    pub download: u64,
}

/// `/v1/dns`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsJson {
    /// The names behind the endpoints.
    pub names: Vec<NameJson>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameJson {
    /// As asked.
    pub name: String,
    /// What its last good answer said.
    pub addresses: Vec<String>,
    /// How long that holds; null while there was none.
    pub ttl_s: Option<f64>,
    /// How old it is.
    pub age_s: Option<f64>,
    /// Whether later answers were bad.
    pub stale: bool,
    /// What was wrong with the last one.
    pub last_error: Option<String>,
    /// When the set last changed.
    pub last_change: Option<String>,
}

/// `/v1/hops`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HopsJson {
    pub hops: Vec<HopRow>,
}

/// One hop of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HopRow {
    pub upstream: String,
    /// As it is configured, without secrets.
    pub via: String,
    pub kind: String,
    /// `up`, `starting` or `down`.
    pub state: String,
    pub since: String,
    /// Of the supervised command.
    pub pid: Option<u32>,
    pub restarts: u64,
    pub last_error: Option<String>,
    /// The last lines of the command.
    pub last_output: Vec<String>,
}

/// `/v1/explain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explain {
    /// Where a new connection would go, best first; then what is never offered.
    pub order: Vec<RankedAddress>,
    /// In a sentence.
    pub verdict: String,
}

/// One address in an order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RankedAddress {
    pub upstream: String,
    pub endpoint: String,
    /// `IP:PORT`.
    pub address: String,
    /// From 1; null: never offered.
    pub rank: Option<usize>,
    /// What decided, most important first.
    pub reasons: Vec<String>,
}

/// `/v1/history`: one value a minute, oldest first, the running minute last; null where nothing was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    pub step_s: u32,
    pub end: String,
    pub series: Vec<HistorySeries>,
}

/// One address in `/v1/history`. All lists are equally long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistorySeries {
    pub endpoint: String,
    pub address: String,
    pub probe_ok: Vec<Option<u32>>,
    pub probe_failed: Vec<Option<u32>>,
    pub probe_p50_ms: Vec<Option<f64>>,
    pub connect_p50_ms: Vec<Option<f64>>,
    pub state: Vec<Option<String>>,
}

/// `/v1/slo`: how many connections reached an upstream since the start, against a target. A client that gives up before
/// one was reached counts as failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slo {
    /// In percent.
    pub target: f64,
    pub window_s: f64,
    /// Connections that reached an upstream.
    pub good: u64,
    /// Connections that ended without one; clients that left by themselves are not counted.
    pub bad: u64,
    pub ratio: f64,
    /// The share of the failures allowed by the target that is left: 1 untouched, below 0 overspent.
    pub budget_left: f64,
    pub by_endpoint: Vec<EndpointSlo>,
}

/// One endpoint in `/v1/slo`: connections it served, and attempts to connect to it that failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSlo {
    pub upstream: String,
    pub endpoint: String,
    pub good: u64,
    pub bad: u64,
    pub ratio: f64,
}

/// `/v1/incidents`, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Incidents {
    pub incidents: Vec<Incident>,
}

/// An incident in the list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Incident {
    pub id: String,
    pub at: String,
    /// `all-down`, `identity-mismatch` or `flapping`.
    pub kind: String,
    pub upstream: String,
    pub summary: String,
}

/// `/v1/incidents/{id}`: the incident with what was known when it began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IncidentReport {
    #[serde(flatten)]
    pub incident: Incident,
    pub status: StatusJson,
    pub endpoints: Vec<EndpointJson>,
    pub dns: Vec<NameJson>,
    pub explain: Explain,
    pub history: History,
    /// The events before it and, once they have happened, those after it.
    pub events: Vec<serde_json::Value>,
}

/// What an operator's order changed: `POST /v1/endpoints/…`, `POST /v1/probe`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Changed {
    /// The endpoints it took hold of.
    pub endpoints: Vec<ChangedEndpoint>,
}

/// One endpoint an order took hold of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangedEndpoint {
    pub upstream: String,
    pub name: String,
    /// `drain`, `ready` or `probe`.
    pub action: String,
}

/// What a reload did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloaded {
    /// Nothing was changed, only looked at.
    pub dry_run: bool,
    /// The keys that differ and are in force (or would be) for new work.
    pub changed: Vec<String>,
    /// The keys that differ and need a restart.
    pub restart_needed: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// `POST /v1/upgrade`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradedJson {
    /// The new process's.
    pub generation: u64,
    /// The new process.
    pub pid: u32,
    /// The keys in which its settings differ.
    pub changed: Vec<String>,
}

/// `/v1/version` and `version --output json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    /// The commit; absent outside a checkout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The compiler; absent where it could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rustc: Option<String>,
}

/// A value with the version beside it.
pub fn versioned<T>(value: T) -> Versioned<T> {
    Versioned {
        schema_version: SCHEMA_VERSION,
        value,
    }
}

/// This build.
pub fn version() -> Version {
    Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("ENTRYWAY_COMMIT").map(str::to_owned),
        rustc: option_env!("ENTRYWAY_RUSTC").map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    fn reads_without_fields<T: DeserializeOwned>() {
        let read =
            serde_json::from_str::<Versioned<T>>(r#"{"schema_version": 1, "of_later": [1]}"#);
        assert!(
            read.is_ok(),
            "{}: {:?}",
            std::any::type_name::<T>(),
            read.err()
        );
    }

    /// A command of one version talks to an instance of another one, above all in `upgrade`.
    #[test]
    fn fields_that_another_version_lacks_are_no_error() {
        reads_without_fields::<StatusJson>();
        reads_without_fields::<Endpoints>();
        reads_without_fields::<ConnectionsJson>();
        reads_without_fields::<DnsJson>();
        reads_without_fields::<HopsJson>();
        reads_without_fields::<Explain>();
        reads_without_fields::<History>();
        reads_without_fields::<Slo>();
        reads_without_fields::<Incidents>();
        reads_without_fields::<IncidentReport>();
        reads_without_fields::<Changed>();
        reads_without_fields::<Reloaded>();
        reads_without_fields::<UpgradedJson>();
        let row = serde_json::from_str::<Endpoints>(r#"{"endpoints": [{"addresses": [{}]}]}"#);
        assert_eq!(row.unwrap().endpoints[0].addresses.len(), 1);
    }
}
