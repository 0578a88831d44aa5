//! Incidents: what was known when an upstream had no healthy address, answered as another system, or flapped.
//!
//! A task follows the warnings among the recent events and takes a snapshot by itself. Kept in memory: nothing is written
//! to disk, and `entryway incident export` makes a document of one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value as Json;

use super::api_types::{Incident, IncidentReport};
use super::backend::Backend;
use super::history::HistoryRecorder;
use crate::clock::{self, Moment};
use crate::events::{Events, RecentEvents};

/// Incidents kept; the oldest are dropped.
const KEPT: usize = 20;

/// Events kept with an incident, and shown after it.
const EVENTS_BEFORE: usize = 200;
const EVENTS_AFTER: usize = 200;

/// Events that are copied at once while warnings are looked for.
const READ_AT_ONCE: usize = 1000;

/// An incident of the same kind and upstream within this time is the same one.
const PAUSE: Duration = Duration::from_secs(5 * 60);

/// An endpoint that is marked down this often within [`PAUSE`] flaps.
const FLAPS: usize = 4;

const HISTORY_MINUTES: usize = 60;

#[derive(Clone, Debug, Default)]
pub(super) struct IncidentLog(Arc<Mutex<Store>>);

#[derive(Debug, Default)]
struct Store {
    /// Each with the number of the event that began it.
    kept: VecDeque<(u64, IncidentReport)>,
    count: u64,
    /// When an incident of this kind and upstream was last seen.
    seen: HashMap<(&'static str, String), Moment>,
    /// When each endpoint was last marked down.
    downs: HashMap<(String, String), VecDeque<Moment>>,
}

// === impl IncidentLog ===

impl IncidentLog {
    pub(super) fn list(&self) -> Vec<Incident> {
        let store = self.store();
        store
            .kept
            .iter()
            .map(|(_, one)| one.incident.clone())
            .collect()
    }

    pub(super) fn report(&self, id: &str, recent: &RecentEvents) -> Option<IncidentReport> {
        let (number, mut report) = {
            let store = self.store();
            store
                .kept
                .iter()
                .find(|(_, one)| one.incident.id == id)?
                .clone()
        };
        let after = recent.after(number, EVENTS_AFTER);
        report
            .events
            .extend(after.iter().map(|one| parsed(&one.line)));
        Some(report)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this event begins, if anything: kind and summary.
    fn begins(
        &self,
        event: &Json,
        backend: &dyn Backend,
        now: Moment,
    ) -> Option<(&'static str, String)> {
        let part = |key: &str| event[key].as_str().unwrap_or("");
        let upstream = part("upstream");
        match part("event") {
            "identity.mismatch" => Some((
                "identity-mismatch",
                format!(
                    "{}: expected {}, got {}",
                    part("message"),
                    part("identity"),
                    part("identity.other")
                ),
            )),
            "upstream.unreachable" => Some(("all-down", part("message").to_owned())),
            "endpoint.state" if part("to") == "down" => {
                let key = (upstream.to_owned(), part("endpoint").to_owned());
                let flaps = {
                    let mut store = self.store();
                    let downs = store.downs.entry(key).or_default();
                    downs.push_back(now);
                    downs.retain(|at| now.since(*at) < PAUSE);
                    downs.len()
                };
                let status = backend.status();
                let health = status.upstreams.iter().find(|one| one.name == upstream);
                if health.is_some_and(|one| one.healthy == 0) {
                    let summary = format!("no healthy address; the last was {}", part("endpoint"));
                    Some(("all-down", summary))
                } else if flaps >= FLAPS {
                    let minutes = PAUSE.as_secs() / 60;
                    let summary = format!(
                        "{} was marked down {flaps} times in {minutes} min",
                        part("endpoint")
                    );
                    Some(("flapping", summary))
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    fn record(
        &self,
        number: u64,
        event: &Json,
        backend: &dyn Backend,
        history: &HistoryRecorder,
        recent: &RecentEvents,
    ) {
        let now = clock::now();
        let Some((kind, summary)) = self.begins(event, backend, now) else {
            return;
        };
        let upstream = event["upstream"].as_str().unwrap_or("").to_owned();
        let id = {
            let mut store = self.store();
            let seen = store.seen.insert((kind, upstream.clone()), now);
            if seen.is_some_and(|at| now.since(at) < PAUSE) {
                return;
            }
            store.count += 1;
            format!("{kind}-{}", store.count)
        };
        let before = recent.after(number.saturating_sub(EVENTS_BEFORE as u64), EVENTS_BEFORE);
        let report = IncidentReport {
            incident: Incident {
                id,
                at: format!("{:.3}", Timestamp::now()),
                kind: kind.to_owned(),
                upstream,
                summary,
            },
            status: backend.status(),
            endpoints: backend.endpoints().endpoints,
            dns: backend.dns().names,
            explain: backend.explain(None, &[]).unwrap_or_default(),
            history: history.read(None, HISTORY_MINUTES, now),
            events: before
                .iter()
                .filter(|one| one.id <= number)
                .map(|one| parsed(&one.line))
                .collect(),
        };
        let mut store = self.store();
        if store.kept.len() >= KEPT {
            store.kept.pop_front();
        }
        store.kept.push_back((number, report));
    }
}

fn parsed(line: &str) -> Json {
    serde_json::from_str(line).unwrap_or_default()
}

/// Follows the warnings for ever.
pub(super) async fn watch(
    incidents: IncidentLog,
    backend: Arc<dyn Backend>,
    history: HistoryRecorder,
    events: Events,
) {
    let recent = events.recent();
    let mut last = recent.last();
    loop {
        recent.wait_for_warning_after(last).await;
        for event in recent.after(last, READ_AT_ONCE) {
            last = event.id;
            // Most lines are not worth parsing.
            if event.line.contains("\"level\":\"warn\"") {
                let parsed = parsed(&event.line);
                incidents.record(event.id, &parsed, &*backend, &history, recent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::FakeBackend;
    use crate::events::{Log, event};

    #[tokio::test]
    async fn warnings_become_incidents_once() {
        let backend = FakeBackend::default();
        let events = Events::new(Log::default());
        let (incidents, history) = (IncidentLog::default(), HistoryRecorder::default());
        event!(events, INFO, "wake", "before");
        for _ in 0..3 {
            event!(
                events,
                WARN,
                "identity.mismatch",
                "an address answers as another system",
                upstream = "default",
                identity = "a/b",
                identity.other = "c/d",
            );
        }
        for _ in 0..FLAPS {
            event!(
                events,
                WARN,
                "endpoint.state",
                "an address is down",
                upstream = "other",
                endpoint = "us-east-1a",
                to = "down",
            );
        }
        let watching = watch(
            incidents.clone(),
            Arc::new(backend),
            history,
            events.clone(),
        );
        // It starts with what follows; everything so far is replayed through the same function.
        let recent = events.recent();
        for event in recent.after(0, READ_AT_ONCE) {
            let backend = FakeBackend::default();
            incidents.record(
                event.id,
                &parsed(&event.line),
                &backend,
                &HistoryRecorder::default(),
                recent,
            );
        }
        let list = incidents.list();
        let kinds: Vec<_> = list
            .iter()
            .map(|one| (one.kind.as_str(), one.upstream.as_str()))
            .collect();
        assert_eq!(
            kinds,
            [("identity-mismatch", "default"), ("flapping", "other")]
        );
        assert!(
            list[0].summary.contains("expected a/b, got c/d"),
            "{}",
            list[0].summary
        );
        let report = incidents.report(&list[0].id, recent).unwrap();
        assert_eq!(report.events.len(), 8);
        assert_eq!(report.events[0]["event"], "wake");
        assert!(incidents.report("no-such", recent).is_none());
        drop(watching);
    }

    #[tokio::test]
    async fn the_watch_follows_what_happens() {
        let events = Events::new(Log::default());
        let incidents = IncidentLog::default();
        let task = tokio::spawn(watch(
            incidents.clone(),
            Arc::new(FakeBackend::default()),
            HistoryRecorder::default(),
            events.clone(),
        ));
        tokio::task::yield_now().await;
        event!(
            events,
            WARN,
            "identity.mismatch",
            "two systems",
            upstream = "default",
        );
        while incidents.list().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        task.abort();
    }
}
