//! Steering what runs: a reload, probes and lookups now, wake-ups, stops.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::numbers::reload_gauges;
use super::upstream::{all_names, limits_of, names_of, pool_settings, rules_of};
use super::{Handles, Parts, Stop};
use crate::clock::{self, Moment};
use crate::events::Event;
use crate::metrics::family;
use crate::upstream::fact::Fact;

// === impl Handles ===

impl Handles {
    /// Wants the end; a second time at once.
    pub fn stop(&self, how: Stop) {
        // The receiver is gone only when it has ended.
        let _ = self.stops.send(how);
    }

    /// How long ago the control runtime last showed that it is alive.
    pub fn beat(&self) -> Duration {
        clock::now().since(Moment::at(Duration::from_millis(self.beat.load(Relaxed))))
    }

    /// How long the least responsive data thread has not answered.
    pub fn workers_unresponsive_for(&self) -> Duration {
        self.dispatcher.unresponsive_for()
    }

    /// Whether every listener has what it needs to accept.
    pub fn can_accept(&self) -> bool {
        !self
            .listeners
            .iter()
            .any(|listener| listener.shortage.is_present())
    }

    /// Resolves every name and probes every address now.
    pub fn refresh(&self) {
        self.resolver.refresh_now();
        self.tell_all(&Fact::ReprobeNow { endpoint: None });
    }

    /// The machine slept or this process was stopped: everything is resolved and probed, and nobody is blamed.
    pub fn woke(&self, why: String) {
        self.events
            .emit(Event::info("wake", "resolving and probing everything again").with("why", why));
        self.metrics.counter(&family::WAKEUPS, &[]).inc();
        self.resolver.refresh_now();
        self.tell_all(&Fact::Woke);
    }

    /// Tells every pool.
    pub fn tell_all(&self, fact: &Fact) {
        for upstream in self.upstreams.iter() {
            upstream.feed.tell(fact.clone());
        }
    }

    /// Notes that a reload was refused.
    pub fn reload_failed(&self, report: String) {
        reload_gauges(&self.metrics, false);
        self.events.emit(
            Event::error("config.reload", "settings are wrong; nothing was changed")
                .with("error", report),
        );
    }

    /// Applies new settings to new work; live connections are not touched. Upstreams and listeners are matched by
    /// name; that one appears or leaves needs a restart, which is `assemble`'s business to say.
    pub fn apply(&self, parts: &Parts) {
        for part in &parts.upstreams {
            let Some(upstream) = self
                .upstreams
                .iter()
                .find(|known| known.name == part.settings.name)
            else {
                continue;
            };
            upstream.hosts.store(Arc::new(names_of(&part.endpoints)));
            upstream.rules.store(Arc::new(rules_of(&part.settings)));
            upstream.prober.set(part.settings.health.clone());
            let loopback = parts.settings.runtime.loopback_congestion;
            let dialer = upstream.redial(&part.settings, loopback, &self.metrics);
            let limits = limits_of(&part.settings);
            for listener in self
                .listeners
                .iter()
                .filter(|listener| listener.route.upstream == upstream.name)
            {
                listener.route.dialer.store(Arc::new(dialer.clone()));
                listener.route.limits.store(Arc::new(limits.clone()));
            }
            let settings = pool_settings(&part.settings);
            upstream.feed.tell(Fact::Reconfigure {
                endpoints: part.endpoints.clone(),
                settings,
            });
        }
        for listener in &parts.settings.listeners {
            let known = self
                .listeners
                .iter()
                .find(|known| known.route.listener.as_str() == listener.name);
            if let Some(known) = known {
                known.route.policy.store(Arc::new(listener.policy()));
            }
        }
        self.resolver.set_settings(parts.settings.dns.clone());
        self.resolver.set_names(all_names(&self.upstreams));
        self.events.log().apply(&parts.settings.log);
        reload_gauges(&self.metrics, true);
        self.events.emit(Event::info("config.reload", "applied"));
    }
}
