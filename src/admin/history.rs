//! 24 hours of minutes per address: probes, connect times and states, for `/v1/history` and the status page.
//!
//! The counts stand in the addresses themselves; this samples them, so nothing is added to the paths of probes and
//! connections. Time is the monotonic clock's and what the machine has slept, so setting the wall clock moves nothing, and
//! minutes of sleep are gaps. At most [`SERIES`] addresses are kept, ten bytes a minute each: 0.9 MiB.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::api_types::{History as Answer, HistorySeries};
use super::convert::wall;
use crate::clock::{self, Moment};
use crate::types::{EndpointName, UpstreamName};
use crate::upstream::endpoint::Address;
use crate::upstream::snapshot::{HealthState, Snapshot};

/// Minutes kept.
pub(super) const MINUTES: usize = 24 * 60;

/// Addresses kept; beyond it the one not seen for longest leaves.
const SERIES: usize = 64;

/// How often the addresses are read. Shorter than what fills the window of the last probe times at five probes a second.
pub(super) const EVERY: Duration = Duration::from_secs(10);

const STEP: Duration = Duration::from_secs(60);

/// No value.
const NONE: u16 = u16::MAX;

/// The recorded minutes of an instance. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct HistoryRecorder {
    all: Arc<Mutex<HashMap<Key, Series>>>,
    /// [`clock::slept`], or a script in a test.
    slept: fn() -> Duration,
}

type Key = (UpstreamName, EndpointName, SocketAddr);

#[derive(Debug)]
struct Series {
    /// What the address is called: behind a hop its socket is only a key.
    address: String,
    /// The minute of the clock that the last entry stands for.
    minute: u64,
    seen: Moment,
    minutes: std::collections::VecDeque<Minute>,
    /// What the address's counters said when they were last read.
    read: CounterReadings,
}

#[derive(Clone, Copy, Debug, Default)]
struct CounterReadings {
    probes: u64,
    failures: u64,
    connects: u64,
}

#[derive(Clone, Copy, Debug)]
struct Minute {
    ok: u16,
    failed: u16,
    /// In tenths of a millisecond.
    probe: u16,
    connect: u16,
    state: Option<HealthState>,
}

const EMPTY: Minute = Minute {
    ok: NONE,
    failed: NONE,
    probe: NONE,
    connect: NONE,
    state: None,
};

// === impl HistoryRecorder ===

impl Default for HistoryRecorder {
    fn default() -> Self {
        Self {
            all: Arc::default(),
            slept: clock::slept,
        }
    }
}

impl HistoryRecorder {
    /// The moment with what the machine has slept before it.
    fn time(&self, now: Moment) -> Moment {
        now + (self.slept)()
    }

    /// Reads the addresses of one upstream.
    pub(super) fn sample(&self, snapshot: &Snapshot, now: Moment) {
        let now = self.time(now);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = std::collections::HashSet::new();
        for view in &snapshot.endpoints {
            for address in &view.addresses {
                let key = (
                    snapshot.upstream.clone(),
                    view.endpoint.name().clone(),
                    address.address.socket,
                );
                if !seen.insert(key.clone()) {
                    continue;
                }
                let series = all
                    .entry(key)
                    .or_insert_with(|| Series::new(&address.address, minute_of(now), now));
                series.sample(&address.address, address.state, now);
            }
        }
        while all.len() > SERIES {
            let oldest = all.iter().min_by_key(|(_, series)| series.seen);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            all.remove(&key);
        }
    }

    /// The last `minutes`, of all endpoints or of those with this name.
    pub(super) fn read(&self, endpoint: Option<&str>, minutes: usize, now: Moment) -> Answer {
        let minutes = minutes.clamp(1, MINUTES);
        let end = wall(now, now);
        let now = self.time(now);
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut series: Vec<(&Key, &Series)> = all
            .iter()
            .filter(|((_, name, _), _)| endpoint.is_none_or(|wanted| name.as_str() == wanted))
            .collect();
        series.sort_by_key(|((upstream, name, socket), _)| {
            (upstream.to_string(), name.to_string(), *socket)
        });
        Answer {
            step_s: STEP.as_secs() as u32,
            end,
            series: series
                .into_iter()
                .map(|((_, name, _), series)| series.read(name, minutes, now))
                .collect(),
        }
    }
}

fn minute_of(now: Moment) -> u64 {
    now.as_millis() / STEP.as_millis() as u64
}

// === impl Series ===

impl Series {
    fn new(address: &Address, minute: u64, now: Moment) -> Self {
        Self {
            address: address.to_string(),
            minute,
            seen: now,
            minutes: std::iter::once(EMPTY).collect(),
            read: CounterReadings::default(),
        }
    }

    fn sample(&mut self, address: &Address, state: HealthState, now: Moment) {
        self.advance(minute_of(now));
        self.seen = now;
        let read = CounterReadings {
            probes: address.probes.count(),
            failures: address.failed_probes(),
            connects: address.connects.count(),
        };
        let Some(minute) = self.minutes.back_mut() else {
            return;
        };
        // A counter below what was read belongs to a new address at the same place.
        let new = |now: u64, before: u64| if now >= before { now - before } else { now };
        let ok = new(read.probes, self.read.probes);
        let failed = new(read.failures, self.read.failures);
        let connects = new(read.connects, self.read.connects);
        minute.ok = add(minute.ok, ok);
        minute.failed = add(minute.failed, failed);
        if ok > 0 {
            minute.probe = tenths(address.probes.median_of_last(ok));
        }
        if connects > 0 {
            minute.connect = tenths(address.connects.median_of_last(connects));
        }
        minute.state = Some(state);
        self.read = read;
    }

    /// Begins new minutes up to this one.
    fn advance(&mut self, minute: u64) {
        let passed = minute.saturating_sub(self.minute);
        for _ in 0..passed.min(MINUTES as u64) {
            if self.minutes.len() == MINUTES {
                self.minutes.pop_front();
            }
            self.minutes.push_back(EMPTY);
        }
        self.minute = self.minute.max(minute);
    }

    fn read(&self, name: &EndpointName, minutes: usize, now: Moment) -> HistorySeries {
        // Minutes since the last sample have no entry yet.
        let behind = usize::try_from(minute_of(now).saturating_sub(self.minute)).unwrap_or(MINUTES);
        let known = minutes.saturating_sub(behind).min(self.minutes.len());
        let leading = minutes.saturating_sub(behind.min(minutes) + known);
        let values: Vec<Minute> = std::iter::repeat_n(EMPTY, leading)
            .chain(
                self.minutes
                    .iter()
                    .skip(self.minutes.len() - known)
                    .copied(),
            )
            .chain(std::iter::repeat_n(EMPTY, behind.min(minutes)))
            .collect();
        let count = |value: u16| (value != NONE).then(|| u32::from(value));
        let millis = |value: u16| (value != NONE).then(|| f64::from(value) / 10.0);
        HistorySeries {
            endpoint: name.to_string(),
            address: self.address.clone(),
            probe_ok: values.iter().map(|minute| count(minute.ok)).collect(),
            probe_failed: values.iter().map(|minute| count(minute.failed)).collect(),
            probe_p50_ms: values.iter().map(|minute| millis(minute.probe)).collect(),
            connect_p50_ms: values.iter().map(|minute| millis(minute.connect)).collect(),
            state: values
                .iter()
                .map(|minute| minute.state.map(|state| state.as_str().to_owned()))
                .collect(),
        }
    }
}

fn add(value: u16, by: u64) -> u16 {
    let before = if value == NONE { 0 } else { u64::from(value) };
    u16::try_from(before + by).unwrap_or(NONE - 1).min(NONE - 1)
}

fn tenths(value: Option<Duration>) -> u16 {
    value.map_or(NONE, |value| {
        u16::try_from(value.as_micros() / 100)
            .unwrap_or(NONE - 1)
            .min(NONE - 1)
    })
}

/// Samples the upstreams for ever; `snapshots` is called at each sample.
pub(super) async fn record(history: HistoryRecorder, snapshots: impl Fn() -> Vec<Arc<Snapshot>>) {
    loop {
        let now = clock::now();
        for snapshot in snapshots() {
            history.sample(&snapshot, now);
        }
        clock::aligned_sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u64) -> Moment {
        Moment::at(Duration::from_secs(minute * 60 + 5))
    }

    fn sampled(series: &mut Series, address: &Address, minute: u64) {
        series.sample(address, HealthState::Up, at(minute));
    }

    #[test]
    fn minutes_are_counted_and_gaps_are_null() {
        let socket: SocketAddr = "10.0.0.1:8182".parse().unwrap();
        let name = EndpointName::new("a");
        let address = Address::new(socket);
        let mut series = Series::new(&address, 0, at(0));
        address.probed(true, Duration::from_millis(2));
        address.probed(false, Duration::ZERO);
        sampled(&mut series, &address, 0);
        address.probed(true, Duration::from_millis(4));
        address.connects.record(Duration::from_micros(1500));
        sampled(&mut series, &address, 0);
        // Minute 1 is missing: the process was suspended.
        address.probed(false, Duration::ZERO);
        sampled(&mut series, &address, 2);
        let read = series.read(&name, 5, at(3));
        assert_eq!(read.probe_ok, [None, Some(2), None, Some(0), None]);
        assert_eq!(read.probe_failed, [None, Some(1), None, Some(1), None]);
        assert_eq!(read.probe_p50_ms[1], Some(4.0));
        assert_eq!(read.connect_p50_ms, [None, Some(1.5), None, None, None]);
        assert_eq!(read.state[3].as_deref(), Some("up"));
        let last = series.read(&name, 1, at(2));
        assert_eq!((last.probe_ok.len(), last.probe_failed[0]), (1, Some(1)));
    }

    /// One sample before the sleep and one behind it; the monotonic clock has moved by a minute alone.
    #[test]
    fn minutes_of_sleep_are_gaps() {
        let awake = HistoryRecorder::default();
        let slept = HistoryRecorder {
            slept: || Duration::from_secs(3 * 60),
            ..awake.clone()
        };
        let address = Address::new("10.0.0.1:8182".parse().unwrap());
        let mut series = Series::new(&address, 10, at(10));
        series.sample(&address, HealthState::Up, awake.time(at(10)));
        series.sample(&address, HealthState::Up, slept.time(at(11)));
        let read = series.read(&EndpointName::new("a"), 6, slept.time(at(11)));
        let known: Vec<bool> = read.state.iter().map(Option::is_some).collect();
        assert_eq!(known, [false, true, false, false, false, true]);
    }

    #[test]
    fn a_day_is_kept_and_no_more() {
        let socket: SocketAddr = "10.0.0.1:8182".parse().unwrap();
        let address = Address::new(socket);
        let mut series = Series::new(&address, 0, at(0));
        for minute in 0..2000 {
            sampled(&mut series, &address, minute);
        }
        assert_eq!(series.minutes.len(), MINUTES);
        sampled(&mut series, &address, 100_000);
        assert_eq!(series.minutes.len(), MINUTES);
        let kept = std::mem::size_of::<Minute>() * MINUTES * SERIES;
        assert!(kept <= 1 << 20, "{kept}");
    }
}
