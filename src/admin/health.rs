//! What `/livez`, `/startupz` and `/readyz` make of the numbers. Pure.

use std::time::Duration;

use crate::settings::ReadinessRule;

/// Alive while the control runtime's last heartbeat is younger than this.
const BEAT_MAX: Duration = Duration::from_secs(5);

/// One upstream, as counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamCounts {
    pub name: String,
    /// Addresses that are up, suspect or returning.
    pub healthy: usize,
    /// Addresses known.
    pub addresses: usize,
}

/// The numbers behind the three answers.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Since the control runtime's last heartbeat.
    pub beat: Duration,
    /// Since the least responsive data thread should have answered.
    pub workers_beat: Duration,
    /// Some listener lacks descriptors (or the like) to accept.
    pub shortage: bool,
    /// Start-up tasks that are not done; empty once started, for ever.
    pub pending: Vec<String>,
    /// Shutting down.
    pub draining: bool,
    /// Open connections, over all listeners.
    pub connections: usize,
    /// The listeners' limit.
    pub max_connections: usize,
    /// Every upstream.
    pub upstreams: Vec<UpstreamCounts>,
    /// `readiness.upstream`.
    pub wanted: ReadinessRule,
    /// Faults that are set on purpose: named, so that nobody looks for their cause elsewhere.
    pub faults: Vec<String>,
}

/// One line of `?verbose`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is checked.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// The numbers.
    pub detail: String,
}

// === impl Health ===

impl Health {
    /// The check of `/livez`.
    pub fn live(&self) -> Vec<HealthCheck> {
        let check = |name, beat: Duration| HealthCheck {
            name,
            ok: beat < BEAT_MAX,
            detail: format!("last heartbeat {:.1} s ago", beat.as_secs_f64()),
        };
        vec![
            check("control", self.beat),
            check("data_threads", self.workers_beat),
        ]
    }

    /// The check of `/startupz`.
    pub fn started(&self) -> Vec<HealthCheck> {
        vec![HealthCheck {
            name: "startup",
            ok: self.pending.is_empty(),
            detail: match self.pending.as_slice() {
                [] => "done".to_owned(),
                pending => format!("waiting for {}", pending.join(", ")),
            },
        }]
    }

    /// The checks of `/readyz`; `wanted` asks once for other upstream health than the settings do.
    pub fn ready(&self, wanted: Option<ReadinessRule>) -> Vec<HealthCheck> {
        let mut checks = self.started();
        checks.push(HealthCheck {
            name: "draining",
            ok: !self.draining,
            detail: if self.draining { "shutting down" } else { "no" }.to_owned(),
        });
        checks.push(HealthCheck {
            name: "connections",
            ok: self.connections < self.max_connections,
            detail: format!("{} of {}", self.connections, self.max_connections),
        });
        checks.push(HealthCheck {
            name: "accepting",
            ok: !self.shortage,
            detail: if self.shortage {
                "out of file descriptors"
            } else {
                "yes"
            }
            .to_owned(),
        });
        checks.push(self.upstream(wanted.unwrap_or(self.wanted)));
        if !self.faults.is_empty() {
            checks.push(HealthCheck {
                name: "faults",
                ok: true,
                detail: self.faults.join(", "),
            });
        }
        checks
    }

    fn upstream(&self, wanted: ReadinessRule) -> HealthCheck {
        let healthy: usize = self.upstreams.iter().map(|upstream| upstream.healthy).sum();
        let ok = match wanted {
            ReadinessRule::None => true,
            ReadinessRule::Any => healthy > 0,
            ReadinessRule::All => self.upstreams.iter().all(|upstream| upstream.healthy > 0),
            ReadinessRule::AtLeast(count) => healthy >= count,
        };
        let counts: Vec<String> = self
            .upstreams
            .iter()
            .map(|upstream| {
                format!(
                    "{} {}/{} healthy",
                    upstream.name, upstream.healthy, upstream.addresses
                )
            })
            .collect();
        let wanted = match wanted {
            ReadinessRule::None => "none".to_owned(),
            ReadinessRule::Any => "any".to_owned(),
            ReadinessRule::All => "all".to_owned(),
            ReadinessRule::AtLeast(count) => count.to_string(),
        };
        HealthCheck {
            name: "upstream",
            ok,
            detail: format!("wanted {wanted}: {}", counts.join(", ")),
        }
    }
}

/// Whether all hold.
pub(super) fn all_ok(checks: &[HealthCheck]) -> bool {
    checks.iter().all(|check| check.ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(healthy: [usize; 2]) -> Health {
        Health {
            max_connections: 10,
            upstreams: healthy
                .iter()
                .enumerate()
                .map(|(place, healthy)| UpstreamCounts {
                    name: format!("u{place}"),
                    healthy: *healthy,
                    addresses: 3,
                })
                .collect(),
            ..Health::default()
        }
    }

    #[test]
    fn readiness_asks_what_is_wanted() {
        let ready = |healthy, wanted| all_ok(&health(healthy).ready(Some(wanted)));
        assert!(ready([0, 0], ReadinessRule::None));
        assert!(!ready([0, 0], ReadinessRule::Any) && ready([0, 1], ReadinessRule::Any));
        assert!(!ready([0, 3], ReadinessRule::All) && ready([1, 1], ReadinessRule::All));
        assert!(
            !ready([1, 1], ReadinessRule::AtLeast(3)) && ready([1, 2], ReadinessRule::AtLeast(3))
        );
        let base = health([1, 1]);
        let broken_on_purpose = Health {
            faults: vec!["datomic: slow (latency)".into()],
            ..base.clone()
        };
        let checks = broken_on_purpose.ready(None);
        assert!(all_ok(&checks));
        assert_eq!(checks.last().unwrap().detail, "datomic: slow (latency)");
        assert!(!all_ok(
            &Health {
                draining: true,
                ..base.clone()
            }
            .ready(None)
        ));
        assert!(!all_ok(
            &Health {
                connections: 10,
                ..base.clone()
            }
            .ready(None)
        ));
        assert!(!all_ok(
            &Health {
                pending: vec!["listeners".into()],
                ..base.clone()
            }
            .ready(None)
        ));
        assert!(!all_ok(
            &Health {
                shortage: true,
                ..base.clone()
            }
            .ready(None)
        ));
        for late in [
            Health {
                beat: Duration::from_secs(5),
                ..base.clone()
            },
            Health {
                workers_beat: Duration::from_secs(5),
                ..base
            },
        ] {
            assert!(!all_ok(&late.live()));
        }
    }
}
