//! `upstream.health.*` and `upstream.failback.*`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::Zone;
use crate::upstream::constants;

/// `upstream.health.*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthSettings {
    /// How addresses are probed.
    pub kind: ProbeKind,
    /// Between two probes of an address that is well.
    #[serde(with = "crate::duration")]
    pub interval: Duration,
    /// Between two probes of an address that is suspect; they may overlap.
    #[serde(with = "crate::duration")]
    pub fast_interval: Duration,
    /// Between two probes of an address that is down.
    #[serde(with = "crate::duration")]
    pub down_interval: Duration,
    /// One deadline for a whole probe.
    #[serde(with = "crate::duration")]
    pub timeout: Duration,
    /// Regular probes come this much earlier or later, at random, so that instances do not fall into step.
    pub jitter_percent: u8,
    /// What kinds `http` and `datomic` ask for.
    pub path: String,
    /// Kind `http`: text that the body must contain; empty asks for none.
    pub expect_body: String,
    /// Consecutive failed probes that mark an address down.
    pub fall: u32,
    /// Consecutive successes that let a down address return.
    pub rise: u32,
    /// The identity every address must answer with: `auto` (that of the first round's majority), `off`, or a value.
    pub expect_s3_auth_path: ExpectIdentity,
    /// What happens to connections that wait on an address which is down and silent.
    pub on_down: OnDown,
}

/// How addresses are probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// `GET /`, and the answer must be a Datomic entry point's.
    #[default]
    Datomic,
    /// `GET path`, status 2xx.
    Http,
    Tcp,
    /// No probes: every address counts as up, only dials are evidence.
    Off,
}

/// What happens to connections that wait on an address which is down and silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDown {
    /// They are ended: reset when waiting, FIN when at rest.
    #[default]
    CutSilent,
    /// They are left alone.
    Keep,
}

/// `expect_s3_auth_path`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ExpectIdentity {
    /// The value of the first round's majority.
    #[default]
    Auto,
    Off,
    Value(String),
}

/// `upstream.failback.*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FailbackSettings {
    /// How long an address must be returning before it is used again like any other.
    #[serde(with = "crate::duration")]
    pub after: Duration,
    /// How long the active zone stays after a move before it moves back.
    #[serde(with = "crate::duration")]
    pub dwell: Duration,
    /// How long new connections take to shift.
    #[serde(with = "crate::duration")]
    pub ramp: Duration,
    /// Whether connections at rest on a farther zone are closed afterwards.
    pub rebalance: Rebalance,
}

/// `upstream.failback.rebalance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rebalance {
    /// Connections at rest are closed, slowly.
    #[default]
    Idle,
    Off,
}

/// Health, failback and zone settings of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamPolicy {
    /// `upstream.health.*`.
    pub health: HealthSettings,
    /// `upstream.failback.*`.
    pub failback: FailbackSettings,
    /// Our own zone, where it is a setting (`--zone Z`); a detected one comes as an input.
    pub own_zone: Option<Zone>,
    /// What new connections do while nothing can be reached, for the log.
    pub while_unreachable: String,
}

// === impl HealthSettings ===

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            kind: ProbeKind::default(),
            interval: Duration::from_secs(5),
            fast_interval: Duration::from_millis(200),
            down_interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            jitter_percent: 10,
            path: "/".to_owned(),
            expect_body: String::new(),
            fall: 3,
            rise: 2,
            expect_s3_auth_path: ExpectIdentity::default(),
            on_down: OnDown::default(),
        }
    }
}

impl HealthSettings {
    /// Whether addresses are probed at all.
    pub fn probes(&self) -> bool {
        self.kind != ProbeKind::Off
    }

    /// The pace of fast probes: never above the cap.
    pub fn fast(&self) -> Duration {
        self.fast_interval.max(constants::PROBE_GAP)
    }

    /// What is wrong, as (key below `upstream`, message).
    pub fn validate(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut must = |fine: bool, key: &str, message: &str| {
            if !fine {
                wrong.push((format!("health.{key}"), message.to_owned()));
            }
        };
        let ms = Duration::from_millis;
        must(
            self.interval >= ms(200),
            "interval",
            "must be at least 200ms: no address is probed more than 5 times a second",
        );
        must(
            self.fast_interval >= ms(200),
            "fast_interval",
            "must be at least 200ms: no address is probed more than 5 times a second",
        );
        must(
            self.down_interval >= ms(200),
            "down_interval",
            "must be at least 200ms: no address is probed more than 5 times a second",
        );
        must(
            self.interval <= ms(3_600_000),
            "interval",
            "must be at most 1h",
        );
        must(
            self.down_interval <= ms(3_600_000),
            "down_interval",
            "must be at most 1h",
        );
        must(
            self.fast_interval <= self.interval,
            "fast_interval",
            "must not be longer than health.interval",
        );
        must(self.timeout >= ms(10), "timeout", "must be at least 10ms");
        must(self.timeout <= ms(60_000), "timeout", "must be at most 1m");
        must(
            self.jitter_percent <= 50,
            "jitter_percent",
            "must be at most 50",
        );
        must(
            (1..=100).contains(&self.fall),
            "fall",
            "must be between 1 and 100",
        );
        must(
            (1..=100).contains(&self.rise),
            "rise",
            "must be between 1 and 100",
        );
        must(
            self.path.starts_with('/') && self.path.bytes().all(|b| b.is_ascii_graphic()),
            "path",
            "must start with / and hold neither spaces nor characters beyond ASCII",
        );
        must(
            self.expect_body.is_empty() || self.kind == ProbeKind::Http,
            "expect_body",
            "needs health.kind = \"http\"",
        );
        must(
            !matches!(self.expect_s3_auth_path, ExpectIdentity::Value(_))
                || self.kind == ProbeKind::Datomic,
            "expect_s3_auth_path",
            "a value needs health.kind = \"datomic\": other probes do not read the identity",
        );
        wrong
    }
}

// === impl FailbackSettings ===

impl Default for FailbackSettings {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(60),
            dwell: Duration::from_secs(30),
            ramp: Duration::from_secs(10),
            rebalance: Rebalance::default(),
        }
    }
}

impl FailbackSettings {
    /// The dwell that holds: an `after` below 30 s lowers it.
    pub fn dwell(&self) -> Duration {
        if self.after < Duration::from_secs(30) {
            self.dwell.min(self.after)
        } else {
            self.dwell
        }
    }

    /// What is wrong, as (key below `upstream`, message).
    pub fn validate(&self) -> Vec<(String, String)> {
        let day = Duration::from_secs(24 * 3600);
        [
            ("after", self.after),
            ("dwell", self.dwell),
            ("ramp", self.ramp),
        ]
        .into_iter()
        .filter(|(_, length)| *length > day)
        .map(|(key, _)| (format!("failback.{key}"), "must be at most 24h".to_owned()))
        .collect()
    }
}

// === impl ProbeKind, ExpectIdentity ===

impl ProbeKind {
    /// As it is written in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Datomic => "datomic",
            ProbeKind::Http => "http",
            ProbeKind::Tcp => "tcp",
            ProbeKind::Off => "off",
        }
    }
}

impl From<String> for ExpectIdentity {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" => ExpectIdentity::Auto,
            "off" => ExpectIdentity::Off,
            _ => ExpectIdentity::Value(text),
        }
    }
}

impl From<ExpectIdentity> for String {
    fn from(expect: ExpectIdentity) -> Self {
        match expect {
            ExpectIdentity::Auto => "auto".to_owned(),
            ExpectIdentity::Off => "off".to_owned(),
            ExpectIdentity::Value(text) => text,
        }
    }
}
