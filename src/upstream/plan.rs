//! The arithmetic of `entryway plan`: worst cases that follow from the settings.
//!
//! What is measured is never above what is predicted here, on a network whose round trip is below 5 ms and while this
//! process is not stalled.

use std::time::Duration;

use serde::Serialize;

use super::constants;
use super::settings::{FailbackSettings, HealthSettings, OnDown, ProbeKind};

/// What the arithmetic reads beside health and failback.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// `upstream.health.*`.
    pub health: &'a HealthSettings,
    /// `upstream.failback.*`.
    pub failback: &'a FailbackSettings,
    /// `upstream.connect_timeout`.
    pub connect_timeout: Duration,
    /// `upstream.hedge_after`; zero = never.
    pub hedge_after: Duration,
    /// `upstream.tcp.keepalive`; zero = never, as everywhere.
    pub keepalive: Duration,
    /// `upstream.tcp.keepalive_interval`.
    pub keepalive_interval: Duration,
    /// `upstream.tcp.keepalive_probes`.
    pub keepalive_probes: u32,
    /// `upstream.tcp.user_timeout`.
    pub user_timeout: Duration,
    /// `shutdown.max_delay`.
    pub max_drain: Duration,
    /// Endpoints of the upstream, each counted with one address.
    pub endpoints: usize,
}

/// Time until an address no longer gets new connections and is marked down, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Detection {
    /// It refuses, with no traffic to notice.
    pub refused: Option<f64>,
    /// It is silent, and a request waits for it.
    pub silent_under_traffic: Option<f64>,
    /// It is silent, with no traffic to notice.
    pub silent_at_rest: Option<f64>,
    /// It answers with errors, or as something else.
    pub answers_error: Option<f64>,
    /// It is silent: until open connections that wait for it are reset.
    pub open_connections_silent: Option<f64>,
}

/// What a new connection pays at worst, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AddedLatency {
    /// The preferred address refuses.
    pub refused: Option<f64>,
    /// It is silent: the first connection that meets it.
    pub silent_first: Option<f64>,
    /// It is silent: the ones after.
    pub silent_later: Option<f64>,
}

/// All that `plan` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Predictions {
    /// Until an address is marked down.
    pub detection_s: Detection,
    /// Upper bound of the delay before a second connection attempt; on a longer path three round trips.
    pub stagger_cap_s: Option<f64>,
    /// The shortest wait for an answer that makes an address suspect; on a longer path three round trips.
    pub silence_floor_s: Option<f64>,
    /// What a new connection pays.
    pub added_latency_s: AddedLatency,
    /// From an address's recovery until it has all new connections again.
    pub failback_s: Option<f64>,
    /// Probes a second when all is well.
    pub probes_per_s: Option<f64>,
    /// Probes a second at most, whatever happens.
    pub probes_per_s_cap: Option<f64>,
    /// What is odd about these settings.
    pub warnings: Vec<String>,
}

/// One round trip and our own work: what a refusal costs.
const ROUND_TRIP: f64 = 0.005;
/// NLB, NAT gateways and VPC endpoints drop an idle flow after this.
const FLOW_FORGOTTEN: Duration = Duration::from_secs(350);
/// Container platforms kill after this by default.
const KILLED_AFTER: Duration = Duration::from_secs(30);

/// What follows from these settings.
pub fn predict(from: &Inputs<'_>) -> Predictions {
    let probed = from.health.probes();
    let several = from.endpoints > 1;
    let second = if from.hedge_after.is_zero() {
        from.connect_timeout
    } else {
        from.hedge_after.min(from.connect_timeout)
    };
    Predictions {
        detection_s: detection(from.health, several),
        stagger_cap_s: (!from.hedge_after.is_zero())
            .then(|| millis(from.hedge_after.as_secs_f64())),
        silence_floor_s: Some(millis(constants::SILENCE_FLOOR.as_secs_f64())),
        added_latency_s: AddedLatency {
            refused: several.then_some(ROUND_TRIP),
            silent_first: several.then(|| millis(second.as_secs_f64() + ROUND_TRIP)),
            silent_later: several.then_some(ROUND_TRIP),
        },
        failback_s: (probed && several).then(|| failback(from.health, from.failback)),
        probes_per_s: probed
            .then(|| millis(from.endpoints as f64 / from.health.interval.as_secs_f64())),
        probes_per_s_cap: probed.then_some(from.endpoints as f64 * constants::PROBE_CAP),
        warnings: warnings(from),
    }
}

fn detection(health: &HealthSettings, several: bool) -> Detection {
    if !health.probes() {
        return Detection {
            refused: None,
            silent_under_traffic: None,
            silent_at_rest: None,
            answers_error: None,
            open_connections_silent: None,
        };
    }
    let fast = health.fast().as_secs_f64();
    let timeout = health.timeout.as_secs_f64();
    let ticks = 2.0 * constants::TICK.as_secs_f64();
    let wait = longest(health.interval, health);
    let more = |than: u32| f64::from(health.fall.saturating_sub(than)) * fast;
    // A regular probe meets it; the others follow fast. `fall = 1` needs no others.
    let refused = wait + if health.fall > 1 { fast } else { 0.0 } + ticks;
    let rest = wait
        + timeout
        + if health.fall > 1 {
            more(2) + timeout
        } else {
            0.0
        }
        + ticks;
    // A request without an answer for 250 ms makes suspect; fast probes follow, overlapping.
    let floor = constants::SILENCE_FLOOR.as_secs_f64();
    let traffic = floor + more(1) + timeout + ticks;
    // Traffic does not stand in for these probes: what moves bytes may still answer errors.
    let error = wait + more(1) + ROUND_TRIP + ticks;
    // Counted from the first probe that failed, which the suspicion brings.
    let cut = (floor + constants::CUT_SILENT.as_secs_f64() + ticks).max(traffic);
    Detection {
        refused: Some(millis(refused)),
        silent_under_traffic: Some(millis(traffic.min(rest))),
        silent_at_rest: Some(millis(rest)),
        answers_error: matches!(health.kind, ProbeKind::Datomic | ProbeKind::Http)
            .then(|| millis(error)),
        open_connections_silent: (several && health.on_down == OnDown::CutSilent)
            .then(|| millis(cut)),
    }
}

fn failback(health: &HealthSettings, failback: &FailbackSettings) -> f64 {
    let seen = longest(health.down_interval, health) + health.timeout.as_secs_f64();
    let risen = f64::from(health.rise.saturating_sub(1)) * health.fast().as_secs_f64();
    let wait = failback.after.max(failback.dwell()).as_secs_f64();
    millis(seen + risen + wait + failback.ramp.as_secs_f64() + 2.0 * constants::TICK.as_secs_f64())
}

/// An interval with its jitter against us.
fn longest(interval: Duration, health: &HealthSettings) -> f64 {
    interval.as_secs_f64() * (1.0 + f64::from(health.jitter_percent) / 100.0)
}

fn millis(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

fn warnings(from: &Inputs<'_>) -> Vec<String> {
    let show = crate::duration::show;
    let mut found = Vec::new();
    if from.keepalive.is_zero() {
        found.push("upstream.tcp.keepalive is off: a connection at rest never notices that its endpoint is gone".to_owned());
    } else if from.keepalive >= FLOW_FORGOTTEN {
        found.push(format!(
            "upstream.tcp.keepalive {} is not below 350s: NLB, NAT gateways and VPC endpoints drop idle connections after that",
            show(from.keepalive)
        ));
    }
    let noticed = from.keepalive + from.keepalive_interval * from.keepalive_probes;
    if !from.keepalive.is_zero() && noticed > Duration::from_secs(120) {
        found.push(format!(
            "a dead connection at rest is noticed after {} only (keepalive + interval × probes)",
            show(noticed)
        ));
    }
    if from.user_timeout.is_zero() {
        found.push("upstream.tcp.user_timeout is off: a busy connection to a silent endpoint hangs for about 15 minutes".to_owned());
    }
    if from.max_drain > KILLED_AFTER {
        found.push(format!(
            "shutdown.max_delay {} is above 30s: ECS and Kubernetes kill after 30s unless told otherwise (stopTimeout, terminationGracePeriodSeconds)",
            show(from.max_drain)
        ));
    }
    if from.hedge_after.is_zero() {
        found.push(format!("upstream.hedge_after 0: a silent endpoint costs a new connection the whole connect_timeout ({})", show(from.connect_timeout)));
    }
    if from.endpoints < 2 {
        found.push(
            "one endpoint: nothing to fail over to, unless its name answers with several addresses"
                .to_owned(),
        );
    }
    found.extend(health_warnings(from.health, from.failback));
    found
}

fn health_warnings(health: &HealthSettings, failback: &FailbackSettings) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |when: bool, text: &str| {
        if when {
            found.push(text.to_owned());
        }
    };
    if !health.probes() {
        say(
            true,
            "health.kind off: only failed connects are noticed; a frozen endpoint, or one of another system, is not noticed",
        );
        return found;
    }
    say(
        health.kind == ProbeKind::Tcp,
        "health.kind tcp: a connect does not see a frozen process, nor another system behind the address",
    );
    say(
        health.fall == 1,
        "health.fall 1: one lost packet marks an address down",
    );
    say(
        health.timeout > health.interval,
        "health.timeout is longer than health.interval: probes are as slow as their deadline",
    );
    say(
        health.on_down == OnDown::Keep,
        "health.on_down keep: requests on a silent endpoint wait for user_timeout or keepalive",
    );
    say(
        failback.after < Duration::from_secs(10),
        "failback.after below 10s: an endpoint that comes and goes moves traffic each time",
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs<'a>(health: &'a HealthSettings, failback: &'a FailbackSettings) -> Inputs<'a> {
        Inputs {
            health,
            failback,
            connect_timeout: Duration::from_millis(1500),
            hedge_after: Duration::from_millis(250),
            keepalive: Duration::from_secs(15),
            keepalive_interval: Duration::from_secs(5),
            keepalive_probes: 3,
            user_timeout: Duration::from_secs(15),
            max_drain: Duration::from_secs(25),
            endpoints: 3,
        }
    }

    #[test]
    fn defaults_keep_their_bounds() {
        let (health, failback) = Default::default();
        let got = predict(&inputs(&health, &failback));
        assert!(got.warnings.is_empty(), "{:?}", got.warnings);
        assert!(got.detection_s.silent_under_traffic.unwrap() <= 2.0);
        assert!(got.detection_s.silent_at_rest.unwrap() <= 5.0 + 3.0);
        assert!(got.detection_s.refused.unwrap() <= 6.0);
        assert_eq!(got.probes_per_s, Some(0.6));
        assert_eq!(got.probes_per_s_cap, Some(15.0));
        assert_eq!(got.added_latency_s.silent_first, Some(0.255));
        assert_eq!(got.detection_s.answers_error, Some(6.105));
        assert_eq!(got.detection_s.open_connections_silent, Some(5.45));
        assert_eq!(
            (got.stagger_cap_s, got.silence_floor_s),
            (Some(0.25), Some(0.25))
        );
    }

    #[test]
    fn the_fast_sample_keeps_its_promise() {
        let health = HealthSettings {
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(250),
            fall: 2,
            ..HealthSettings::default()
        };
        let failback = FailbackSettings::default();
        let got = predict(&inputs(&health, &failback)).detection_s;
        assert!(got.silent_under_traffic.unwrap() <= 1.5, "{got:?}");
        assert!(got.silent_at_rest.unwrap() <= 2.0, "{got:?}");
    }

    #[test]
    fn odd_settings_are_named() {
        let (health, failback) = Default::default();
        let mut from = inputs(&health, &failback);
        from.keepalive = Duration::from_secs(350);
        from.max_drain = Duration::from_secs(31);
        from.hedge_after = Duration::ZERO;
        let got = predict(&from);
        for word in ["350s", "31s", "hedge_after"] {
            assert!(
                got.warnings.iter().any(|w| w.contains(word)),
                "{word}: {:?}",
                got.warnings
            );
        }
        assert_eq!(got.added_latency_s.silent_first, Some(1.505));
    }

    #[test]
    fn what_does_not_exist_is_null() {
        let health = HealthSettings {
            kind: super::ProbeKind::Off,
            ..HealthSettings::default()
        };
        let failback = FailbackSettings::default();
        let got = serde_json::to_value(predict(&inputs(&health, &failback))).unwrap();
        assert!(got["detection_s"]["silent_at_rest"].is_null());
        assert!(got["failback_s"].is_null());
        assert!(got["probes_per_s"].is_null());
    }
}
