//! The table of every metric family: name, help, kind, labels, buckets. The reference page is made from it.
//!
//! A constant is named like its family, in upper case, without the prefix and without `_total`. Units are base units and
//! stand in the name. Label values come from the configuration or from closed lists, never from the network.

/// What a family's series are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FamilyKind {
    /// Only goes up.
    Counter,
    /// Goes both ways.
    Gauge,
    /// Counts by upper bounds; `+Inf` is added.
    Histogram(&'static [f64]),
}

/// One metric family.
#[derive(Debug)]
pub struct Family {
    /// The name in the exposition, prefix included.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// What its series are.
    pub kind: FamilyKind,
    /// Label names, in the order in which handles give values.
    pub labels: &'static [&'static str],
}

/// The labels of an endpoint's series.
pub const ENDPOINT_LABELS: &[&str] = &["upstream", "endpoint", "zone"];

/// Connects, probes, first answers: 0.1 ms (same machine) to 10 s.
const QUICK: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Time that connections are held: the default hold is 10 s, a laptop's 30 s.
const PARKED: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0];

/// Lives of connections; 60 s and 350 s are the idle limits of ALB and NLB.
const LIVES: &[f64] = &[
    0.01, 0.1, 1.0, 10.0, 60.0, 350.0, 1800.0, 3600.0, 14400.0, 86400.0,
];

macro_rules! families {
    ($($id:ident $name:literal $kind:expr, $labels:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $id: Family = Family { name: $name, help: $help, kind: $kind, labels: $labels };
        )*

        /// All of them.
        pub static ALL: &[&Family] = &[$(&$id),*];
    };
}

use FamilyKind::{Counter, Gauge, Histogram};

families! {
    BUILD_INFO "entryway_build_info" Gauge, &["version", "commit"], "1; the labels are the version and commit that run.";
    START_TIME_SECONDS "entryway_start_time_seconds" Gauge, &[], "Start time of this instance, in seconds since the epoch.";
    WORKERS "entryway_workers" Gauge, &[], "Worker threads that carry connections.";
    CONFIG_LAST_RELOAD_SUCCESSFUL "entryway_config_last_reload_successful" Gauge, &[], "1 if the last reload was applied, 0 if it was refused.";
    CONFIG_LAST_RELOAD_TIMESTAMP_SECONDS "entryway_config_last_reload_timestamp_seconds" Gauge, &[],
        "Time at which the settings in force were loaded, in seconds since the epoch.";

    LISTENER_UP "entryway_listener_up" Gauge, &["listener"], "1 while the listener accepts connections.";
    CONNECTIONS "entryway_connections" Gauge, &["listener", "upstream", "endpoint", "zone"], "Open connections.";
    CONNECTIONS_ACCEPTED "entryway_connections_accepted_total" Counter, &["listener"], "Connections accepted.";
    CONNECTIONS_REJECTED "entryway_connections_rejected_total" Counter, &["listener", "reason"],
        "Connections accepted and closed without being served.";
    FRONT_REJECTED "entryway_front_rejected_total" Counter, &["listener", "reason"],
        "Requests to a SOCKS or CONNECT front that were refused, by reason.";
    CONNECTIONS_CLOSED "entryway_connections_closed_total" Counter,
        &["listener", "upstream", "endpoint", "zone", "reason"], "Connections ended, by reason.";
    CONNECTIONS_PARKED "entryway_connections_parked" Gauge, &["listener"],
        "Connections held until an address can be reached.";
    FAULTS_ACTIVE "entryway_faults_active" Gauge, &["listener"], "Faults that are set on a listener.";
    PARKED_SECONDS "entryway_parked_seconds" Histogram(PARKED), &[], "How long connections were held.";
    CONNECTION_DURATION_SECONDS "entryway_connection_duration_seconds" Histogram(LIVES), &[],
        "Lifetime of connections.";
    SETUP_SECONDS "entryway_setup_seconds" Histogram(QUICK), &[], "Time from accept to a connected upstream.";
    ACCEPT_ERRORS "entryway_accept_errors_total" Counter, &["class"], "Failed accepts, by class of error.";

    CONNECT_ATTEMPTS "entryway_connect_attempts_total" Counter, &["upstream", "endpoint", "zone", "result"],
        "Attempts to connect for traffic, by result.";
    CONNECT_SECONDS "entryway_connect_seconds" Histogram(QUICK), ENDPOINT_LABELS, "Duration of successful connects.";
    INPUTS_DROPPED "entryway_upstream_inputs_dropped_total" Counter, &["upstream"],
        "Observations of an upstream's health that were dropped because its queue was full.";
    LOCAL_FAULT_ROUNDS "entryway_local_fault_rounds_total" Counter, &["upstream"],
        "Rounds of attempts that failed because this host lacked something (descriptors, local ports, memory).";
    CONNECT_HEDGES "entryway_connect_hedges_total" Counter, &["upstream", "endpoint", "zone", "result"],
        "Second attempts started while the first was still under way, by result.";
    FAILOVERS "entryway_failovers_total" Counter, &["upstream", "from", "to"], "Moves of the active zone to a farther one.";
    FAILBACKS "entryway_failbacks_total" Counter, &["upstream"], "Moves of the active zone back to a nearer one.";
    WARM_SPARES "entryway_warm_spares" Gauge, ENDPOINT_LABELS, "Preconnected spare connections ready for use.";
    WARM "entryway_warm_total" Counter, &["upstream", "endpoint", "zone", "result"], "Preconnected spare connections, by what became of them.";

    BYTES "entryway_bytes_total" Counter, &["upstream", "endpoint", "zone", "direction"], "Bytes forwarded.";
    BYTES_SPLICED "entryway_bytes_spliced_total" Counter, &["direction"], "Bytes forwarded by splice, without passing through user space.";
    SPLICE_FALLBACKS "entryway_splice_fallbacks_total" Counter, &["reason"], "Times splice was unavailable and the buffer was used, by reason.";
    PIPES_IN_USE "entryway_pipes_in_use" Gauge, &[], "Pipes in use for splice.";
    STALLS "entryway_stalls_total" Counter, &[], "Times a direction made no progress although it could have; a bug of entryway.";
    RESET_GAVE_UP "entryway_reset_gave_up_total" Counter, &[],
        "Resets forwarded before the peer had acknowledged all data (reset_deadline).";

    ENDPOINT_HEALTHY "entryway_endpoint_healthy" Gauge, ENDPOINT_LABELS, "1 if at least one address of the endpoint is up, suspect or returning.";
    ENDPOINT_ADDRESSES "entryway_endpoint_addresses" Gauge, &["upstream", "endpoint", "zone", "state"],
        "Addresses of the endpoint, by state.";
    ENDPOINT_ACTIVE "entryway_endpoint_active" Gauge, ENDPOINT_LABELS, "1 if new connections go to this endpoint first.";
    ENDPOINT_TRANSITIONS "entryway_endpoint_transitions_total" Counter,
        &["upstream", "endpoint", "zone", "to", "reason"], "State changes of addresses, by new state and reason.";
    FAIL_OPEN "entryway_fail_open" Gauge, &["upstream"], "1 while every address is down, so that all of them are tried.";

    HOP_UP "entryway_hop_up" Gauge, &["upstream"], "1 if every hop of the upstream is up.";
    HOP_RESTARTS "entryway_hop_restarts_total" Counter, &["upstream", "reason"],
        "Restarts of the commands of hops, by reason.";
    HOP_CONNECT_SECONDS "entryway_hop_connect_seconds" Histogram(QUICK), &["upstream"],
        "Time of successful connects through hops.";

    PROBES "entryway_probes_total" Counter, &["upstream", "endpoint", "zone", "result"], "Health probes, by result.";
    PROBE_DURATION_SECONDS "entryway_probe_duration_seconds" Histogram(QUICK), ENDPOINT_LABELS, "Duration of health probes.";
    PROBE_SUCCESS "entryway_probe_success" Gauge, ENDPOINT_LABELS, "1 if the last probe of at least one address succeeded.";
    IDENTITY_MISMATCHES "entryway_identity_mismatches_total" Counter, ENDPOINT_LABELS, "Times an address answered as another Datomic system.";
    UPSTREAM_HEALTHY_ADDRESSES "entryway_upstream_healthy_addresses" Gauge, &["upstream"],
        "Addresses that are up, suspect or returning.";
    UPSTREAM_ADDRESSES "entryway_upstream_addresses" Gauge, &["upstream"], "Known addresses.";

    DNS_LOOKUPS "entryway_dns_lookups_total" Counter, &["name", "result"], "DNS lookups, by result.";
    DNS_ADDRESSES "entryway_dns_addresses" Gauge, &["name"], "Addresses in the DNS answer in use.";
    DNS_STALE "entryway_dns_stale" Gauge, &["name"], "1 while an old answer is used because newer lookups failed.";
    DNS_AGE_SECONDS "entryway_dns_age_seconds" Gauge, &["name"], "Age of the DNS answer in use.";
    DNS_CHANGES "entryway_dns_changes_total" Counter, &["name"], "Changes of the set of addresses.";

    LOG_LINES_DROPPED "entryway_log_lines_dropped_total" Counter, &[],
        "Log lines dropped because standard error was too slow.";
    DRAINING "entryway_draining" Gauge, &[], "1 while this instance is draining.";
    DRAIN_CUT "entryway_drain_cut_total" Counter, &[], "Connections reset at the end of a shutdown.";
    ANSWERS "entryway_answers_total" Counter, ENDPOINT_LABELS, "Complete answers, by HTTP framing.";
    ANSWER_FIRST_BYTE_SECONDS "entryway_answer_first_byte_seconds" Histogram(QUICK), ENDPOINT_LABELS, "Time from a complete request to the first byte of its answer, by HTTP framing.";
    REQUESTS_DROPPED "entryway_requests_dropped_total" Counter, &["listener"], "Requests that met the close of a connection at rest and were not sent upstream.";
    PANICS "entryway_panics_total" Counter, &[], "Tasks that ended by a panic.";
    WAKEUPS "entryway_wakeups_total" Counter, &[], "Times the machine had slept or this process was stopped.";

    PROCESS_CPU_SECONDS "process_cpu_seconds_total" Counter, &[], "Total user and system CPU time spent in seconds.";
    PROCESS_RESIDENT_MEMORY_BYTES "process_resident_memory_bytes" Gauge, &[], "Resident memory size in bytes.";
    PROCESS_OPEN_FDS "process_open_fds" Gauge, &[], "Number of open file descriptors.";
    PROCESS_MAX_FDS "process_max_fds" Gauge, &[], "Maximum number of open file descriptors.";
    PROCESS_START_TIME_SECONDS "process_start_time_seconds" Gauge, &[],
        "Start time of the process since unix epoch in seconds.";

    GATEWAY_HANDSHAKES "entryway_gateway_handshakes_total" Counter, &["result"], "TLS handshakes of gateway clients, by result.";
    GATEWAY_REQUESTS "entryway_gateway_requests_total" Counter, &["code"], "CONNECT requests to the gateway, by status code.";
    CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS "entryway_certificate_expiry_timestamp_seconds" Gauge, &["file"],
        "Time at which the content of a certificate file ceases to be valid, in seconds since the epoch.";
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::guide::{check_generated, wrap};

    #[test]
    fn the_reference_page_lists_every_family() {
        let mut page = String::new();
        for family in ALL {
            let kind = match family.kind {
                Counter => "counter".to_owned(),
                Gauge => "gauge".to_owned(),
                Histogram(bounds) => {
                    let bounds: Vec<String> = bounds.iter().map(ToString::to_string).collect();
                    format!("histogram: {}", bounds.join(" "))
                }
            };
            let labels = match family.labels {
                [] => String::new(),
                labels => format!("{{{}}}", labels.join(",")),
            };
            let _ = writeln!(page, "`{}{labels}`", family.name);
            let _ = writeln!(page, "{}", wrap(&format!(": {} ({kind})", family.help), ""));
        }
        check_generated("reference-metrics.md", "families", &page);
    }
}
