//! The state of one address: its health, its last probe, and when the next one is due.
//!
//! No probe is due sooner than the cap allows, and traffic replaces TCP probes for at most 30 s. Pure; the jitter is an
//! argument.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::upstream::constants;
use crate::upstream::endpoint::Address;
use crate::upstream::health::{AddressHealth, ProbeVerdict};
use crate::upstream::input::ProbeOutcome;
use crate::upstream::settings::{FailbackSettings, HealthSettings, ProbeKind};
use crate::upstream::snapshot::{HealthState, LastProbe, ProbeMode};

/// One address.
#[derive(Clone, Debug)]
pub struct AddressState {
    /// Its numbers; the same `Arc` for as long as the upstream knows it.
    pub address: Arc<Address>,
    pub health: AddressHealth,
    /// The last probe that ended.
    pub last_probe: Option<LastProbe>,
    /// When it left the set; its history is kept for an hour.
    pub gone: Option<Moment>,
    /// When the next probe is due, at which pace.
    pub probe_at: Moment,
    /// How it is probed.
    pub pace: ProbeMode,
    /// When the latest probe we know of was sent, and the latest that succeeded.
    last_sent: Option<Moment>,
    last_success_sent: Option<Moment>,
}

/// Traffic may put off a probe that is due within this.
const LOOK_AHEAD: Duration = Duration::from_millis(150);
/// After a fault of our own the next probe waits this long.
const LOCAL_FAULT: Duration = Duration::from_secs(1);

// === impl AddressState ===

impl AddressState {
    /// Nothing is known about it; to be probed at once.
    pub fn new(address: Address, now: Moment, settings: &HealthSettings) -> Self {
        let health = AddressHealth::new(now, settings.probes());
        Self {
            address: Arc::new(address),
            pace: health.pace(settings),
            health,
            last_probe: None,
            gone: None,
            probe_at: now,
            last_sent: None,
            last_success_sent: None,
        }
    }

    /// Whether it was probed, or needs no probe.
    pub fn answered(&self, settings: &HealthSettings) -> bool {
        self.last_probe.is_some() || !settings.probes()
    }

    /// Whether its last probe failed, and was sent after this.
    pub fn failed_since(&self, since: Moment) -> bool {
        self.health.failures() > 0
            && self
                .last_probe
                .as_ref()
                .is_some_and(|last| last.at >= since)
    }

    /// Notes a probe that has ended. `draw` (0 to 1) is the jitter of the next one.
    pub fn record(&mut self, sent: Moment, outcome: &ProbeOutcome, took: Duration) {
        self.last_sent = self.last_sent.max(Some(sent));
        if outcome.is_success() {
            self.last_success_sent = self.last_success_sent.max(Some(sent));
        }
        // Fast probes overlap: the state is that of the one sent last.
        if self.last_probe.as_ref().is_none_or(|last| last.at <= sent) {
            self.last_probe = Some(LastProbe {
                at: sent,
                result: outcome.code().to_owned(),
                detail: outcome.detail().map(str::to_owned),
                took,
            });
        }
    }

    /// Plans the next probe after one has ended (or the state has changed).
    pub fn schedule_next(&mut self, now: Moment, draw: f64, settings: &HealthSettings) {
        let pace = self.health.pace(settings);
        let was_fast = matches!(self.pace, ProbeMode::Fast(_));
        let last = self.last_sent.unwrap_or(now);
        self.probe_at = match pace {
            ProbeMode::Off => now + settings.interval,
            // The prober keeps the time from here on.
            ProbeMode::Fast(_) if was_fast => self.probe_at,
            ProbeMode::Fast(_) => self.soonest(now),
            ProbeMode::Regular | ProbeMode::Down if self.last_sent.is_none() => now,
            ProbeMode::Regular => {
                (last + jittered(settings.interval, draw, settings)).max(self.soonest(last))
            }
            ProbeMode::Down => {
                (last + jittered(settings.down_interval, draw, settings)).max(self.soonest(last))
            }
        };
        self.pace = pace;
    }

    /// Probes at once (as soon as the cap allows).
    pub fn probe_now(&mut self, now: Moment) {
        self.probe_at = self.soonest(now);
    }

    /// The last probe said nothing: again at once, or a little later after a fault of our own.
    pub fn retry(&mut self, now: Moment, sent: Moment, local: bool) {
        self.last_sent = self.last_sent.max(Some(sent));
        self.probe_at = self.soonest(if local { now + LOCAL_FAULT } else { now });
    }

    /// When time alone changes something here after `now`: the probe that is due is late, traffic may stand in for one, or
    /// a time of being up is long enough for rebalancing.
    pub fn next_tick(
        &self,
        now: Moment,
        settings: &HealthSettings,
        failback: &FailbackSettings,
    ) -> Option<Moment> {
        let probe = (self.pace != ProbeMode::Off).then_some(match settings.kind {
            ProbeKind::Tcp if self.probe_at > now + LOOK_AHEAD => {
                let ahead = self.probe_at.since_start().saturating_sub(constants::TICK);
                Moment::at(ahead)
            }
            _ => self.probe_at + constants::TICK,
        });
        let settled = self.health.settles_at(failback).filter(|at| *at > now);
        [probe, settled].into_iter().flatten().min()
    }

    /// Bytes that arrived in traffic stand in for the probe that is due. Says whether they did.
    pub fn traffic_stands_in(&mut self, now: Moment, draw: f64, settings: &HealthSettings) -> bool {
        // A frozen or failing process still moves bytes on connections it has; only an answer says it is well.
        if settings.kind != ProbeKind::Tcp {
            return false;
        }
        let well = self.pace == ProbeMode::Regular
            && self.health.state() == HealthState::Up
            && self.health.failures() == 0;
        let (Some(last_activity), Some(win)) =
            (self.address.last_activity(), self.last_success_sent)
        else {
            return false;
        };
        if !well || self.probe_at > now + LOOK_AHEAD || Some(last_activity) < self.last_sent {
            return false;
        }
        let next = (last_activity + jittered(settings.interval, draw, settings))
            .min(win + constants::TRAFFIC_STANDS_IN);
        let later = next > self.probe_at;
        if later {
            self.probe_at = next;
        }
        later
    }

    /// The median connect time, where there are enough connects to have one.
    pub fn median(&self) -> Option<Duration> {
        (self.address.connects.count() >= constants::NEARER_SAMPLES)
            .then(|| self.address.connects.quantile(0.5))
            .flatten()
    }

    fn soonest(&self, now: Moment) -> Moment {
        self.last_sent
            .map_or(now, |last| now.max(last + constants::PROBE_GAP))
    }
}

/// This address, unless it is gone from its name.
pub fn living(
    address_state: &mut BTreeMap<SocketAddr, AddressState>,
    socket: SocketAddr,
) -> Option<&mut AddressState> {
    address_state
        .get_mut(&socket)
        .filter(|address_state| address_state.gone.is_none())
}

/// What an outcome says about its address; `None`: nothing.
pub fn verdict(outcome: &ProbeOutcome) -> Option<ProbeVerdict> {
    Some(match outcome {
        ProbeOutcome::Success { .. } => ProbeVerdict::Ok,
        ProbeOutcome::Refused => ProbeVerdict::Unreachable("refused"),
        ProbeOutcome::Unreachable(_) => ProbeVerdict::Unreachable("unreachable"),
        ProbeOutcome::Timeout => ProbeVerdict::Timeout,
        ProbeOutcome::Reset => ProbeVerdict::BadResponse("reset".to_owned()),
        ProbeOutcome::BadAnswer(bad) => ProbeVerdict::BadResponse(bad.code.clone()),
        ProbeOutcome::Local(_) | ProbeOutcome::Void => return None,
    })
}

fn jittered(interval: Duration, draw: f64, settings: &HealthSettings) -> Duration {
    let part = f64::from(settings.jitter_percent) / 100.0;
    interval.mul_f64(1.0 + part * (2.0 * draw - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::at(Duration::from_millis(ms))
    }

    fn probe(address_state: &mut AddressState, sent: u64, ended: u64, outcome: ProbeOutcome) {
        let settings = HealthSettings::default();
        address_state.record(at(sent), &outcome, Duration::from_millis(ended - sent));
        let verdict = verdict(&outcome).unwrap();
        address_state
            .health
            .probed(at(ended), at(sent), &verdict, true, &settings);
        address_state.schedule_next(at(ended), 0.5, &settings);
    }

    fn address() -> Address {
        Address::new(SocketAddr::from(([10, 0, 0, 1], 1)))
    }

    const OK: ProbeOutcome = ProbeOutcome::Success { identity: None };

    #[test]
    fn the_next_probe() {
        let settings = HealthSettings::default();
        let mut address_state = AddressState::new(address(), at(0), &settings);
        assert_eq!(
            (address_state.probe_at, address_state.pace),
            (at(0), ProbeMode::Regular)
        );
        probe(&mut address_state, 0, 2, OK);
        assert_eq!(
            (address_state.probe_at, address_state.pace),
            (at(5000), ProbeMode::Regular)
        );
        // A failed one brings fast ones at once; the prober keeps the time.
        probe(&mut address_state, 5000, 6000, ProbeOutcome::Timeout);
        assert_eq!(
            (address_state.probe_at, address_state.pace),
            (at(6000), ProbeMode::Fast(settings.fast_interval))
        );
        probe(&mut address_state, 6000, 7000, ProbeOutcome::Timeout);
        assert_eq!(address_state.probe_at, at(6000));
        probe(&mut address_state, 6200, 7200, ProbeOutcome::Timeout);
        assert_eq!(
            (address_state.probe_at, address_state.pace),
            (at(11_200), ProbeMode::Down)
        );
        // The first success after that is followed up fast.
        probe(&mut address_state, 11_200, 11_201, OK);
        assert_eq!(
            (address_state.probe_at, address_state.pace),
            (at(11_400), ProbeMode::Fast(settings.fast_interval))
        );
        // Asked for: at once, but never above the cap.
        probe(&mut address_state, 11_400, 11_401, OK);
        address_state.probe_now(at(11_402));
        assert_eq!(address_state.probe_at, at(11_600));
    }

    #[tokio::test(start_paused = true)]
    async fn traffic_stands_in_for_a_tcp_probe_for_thirty_seconds() {
        let answers_are_read = HealthSettings::default();
        let settings = HealthSettings {
            kind: ProbeKind::Tcp,
            ..HealthSettings::default()
        };
        let start = crate::clock::now().as_millis();
        let mut address_state = AddressState::new(address(), at(start), &settings);
        probe(&mut address_state, start, start + 1, OK);
        assert!(!address_state.traffic_stands_in(at(start + 5000), 0.5, &settings));
        let mut last = start;
        for _ in 0..400 {
            tokio::time::advance(Duration::from_millis(100)).await;
            address_state.address.record_activity();
            let now = crate::clock::now();
            assert!(!address_state.traffic_stands_in(now, 0.5, &answers_are_read));
            address_state.traffic_stands_in(now, 0.5, &settings);
            if address_state.probe_at <= now {
                last = now.as_millis();
                break;
            }
        }
        assert!((last - start).abs_diff(30_000) <= 150, "{}", last - start);
    }
}
