//! Applying changed settings while everything runs, and the other ways to steer the running parts.
//!
//! [`Reloader`] is the one way to reload: signals and the admin API share it, so that both report the same and two
//! reloads never interleave. Reading the settings file and the client maps it names happens on a thread of its own: a
//! file on a network file system that hangs must not stall probes, health answers or signals.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::instance_metrics::reload_gauges;
use super::systemd::Notifier;
use super::upstream::{TargetNames, all_names, limits_of, names_of, policy_of, rules_of};
use super::{Config, Handles, StopRequest, wake};
use crate::clock::{self, Moment};
use crate::dial::hop::Hop;
use crate::events::event;
use crate::metrics::family;
use crate::sandbox;
use crate::settings::{Diagnostics, Loaded, Reload, assign_hops};
use crate::suspend::Interruption;
use crate::types::UpstreamName;
use crate::upstream::input::Input;

/// Reading the settings may take this long before the reload is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Reloads the settings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reloader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    handles: Handles,
    notifier: Notifier,
    /// The settings in force.
    current: Mutex<Loaded>,
    /// Held during a reload.
    turn: tokio::sync::Mutex<()>,
    /// A thread is still reading; it may hang for ever.
    reading: Arc<AtomicBool>,
}

/// What a reload has changed, or with `dry_run` would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Keys whose new value holds for new work.
    pub changed: Vec<String>,
    /// Keys whose new value needs a restart.
    pub restart_needed: Vec<String>,
    pub warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The settings are wrong: the report that `check` prints.
    #[error("{}", .0.plain())]
    Invalid(Box<Diagnostics>),
    #[error("{0}")]
    Failed(String),
}

// === impl Reloader ===

impl Reloader {
    pub(super) fn new(handles: Handles, loaded: Loaded, notifier: Notifier) -> Self {
        Self {
            shared: Arc::new(Shared {
                handles,
                notifier,
                current: Mutex::new(loaded),
                turn: tokio::sync::Mutex::default(),
                reading: Arc::default(),
            }),
        }
    }

    /// The settings in force.
    pub fn current(&self) -> MutexGuard<'_, Loaded> {
        self.shared
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the settings again and applies them to new work. Invalid settings, and with `dry_run` valid ones, change
    /// nothing. The outcome is logged, each error as a line of its own.
    pub async fn reload(&self, dry_run: bool) -> Result<Applied, ReloadError> {
        // In a task of its own: the connection that asked for it may be dropped half-way.
        let this = self.clone();
        let task = tokio::spawn(async move { this.reload_in_turn(dry_run).await });
        task.await
            .unwrap_or_else(|error| Err(ReloadError::Failed(error.to_string())))
    }

    async fn reload_in_turn(&self, dry_run: bool) -> Result<Applied, ReloadError> {
        let _turn = self.shared.turn.lock().await;
        if dry_run {
            return self.read_and_apply(dry_run).await;
        }
        self.shared.notifier.reloading();
        let outcome = self.read_and_apply(dry_run).await;
        self.shared.notifier.ready();
        outcome
    }

    async fn read_and_apply(&self, dry_run: bool) -> Result<Applied, ReloadError> {
        let (reload, config) = match self.read().await {
            Ok(read) => read,
            Err(error) => {
                if !dry_run {
                    self.shared.handles.reload_failed(&error);
                }
                return Err(error);
            }
        };
        let applied = Applied {
            changed: reload.changes.applied,
            restart_needed: reload.changes.restart,
            warnings: reload.in_force.warnings.clone(),
        };
        if !dry_run {
            self.shared.handles.apply(&config).await;
            *self.current() = reload.in_force;
        }
        Ok(applied)
    }

    /// Reads and resolves on a thread of its own, for at most [`READ_TIMEOUT`].
    async fn read(&self) -> Result<(Reload, Config), ReloadError> {
        let reading = Arc::clone(&self.shared.reading);
        if reading.swap(true, Relaxed) {
            return Err(ReloadError::Failed(
                "an earlier reload is still reading the settings; their file system does not answer".to_owned(),
            ));
        }
        let current = self.current().clone();
        let (sender, receiver) = oneshot::channel();
        let thread = std::thread::Builder::new().name("reload".to_owned());
        let spawned = thread.spawn(move || {
            let read = current
                .reload()
                .map_err(|report| ReloadError::Invalid(Box::new(report)))
                .and_then(|new| {
                    let needs = new.in_force.needs().into_iter();
                    let refused: Vec<_> = needs
                        .filter_map(|(key, need)| Some((key, sandbox::refuses(&need)?)))
                        .collect();
                    if !refused.is_empty() {
                        let report = new.in_force.report(refused);
                        return Err(ReloadError::Invalid(Box::new(report)));
                    }
                    // Later nobody would hear of them: they are taken over by another task.
                    #[cfg(feature = "gateway")]
                    if super::gateway::is_one(&new.in_force.settings)
                        && let Some(wrong) = super::gateway::wrong_gateway_files(&new.in_force)
                    {
                        return Err(ReloadError::Invalid(Box::new(wrong)));
                    }
                    let config = Config::new(&new.in_force);
                    Ok((new, config))
                });
            reading.store(false, Relaxed);
            // The reload may have been given up.
            let _ = sender.send(read);
        });
        if let Err(error) = spawned {
            self.shared.reading.store(false, Relaxed);
            return Err(ReloadError::Failed(format!("start a thread: {error}")));
        }
        match timeout(READ_TIMEOUT, receiver).await {
            Ok(Ok(read)) => read,
            Ok(Err(_panicked)) => {
                self.shared.reading.store(false, Relaxed);
                Err(ReloadError::Failed(
                    "reading the settings panicked".to_owned(),
                ))
            }
            Err(_late) => Err(ReloadError::Failed(format!(
                "the settings could not be read within {} s; is their file system reachable?",
                READ_TIMEOUT.as_secs()
            ))),
        }
    }
}

// === impl Handles ===

impl Handles {
    /// Where the API that sets faults listens.
    pub fn faults_address(&self) -> Option<std::net::SocketAddr> {
        #[cfg(feature = "faults")]
        return self.faults.as_ref().map(|faults| faults.address);
        #[cfg(not(feature = "faults"))]
        None
    }

    /// The faults that are set, one line each.
    pub fn active_faults(&self) -> Vec<String> {
        #[cfg(feature = "faults")]
        return self
            .faults
            .as_ref()
            .map(|faults| faults.engine.names())
            .unwrap_or_default();
        #[cfg(not(feature = "faults"))]
        Vec::new()
    }

    /// Sends every requested shutdown to the returned receiver instead of stopping at once, because something has to end
    /// before the proxy does. Can be done once.
    pub fn divert_requests(&self) -> mpsc::UnboundedReceiver<()> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // A second receiver would never get anything, which is what its caller sees.
        let _ = self.diverted.set(sender);
        receiver
    }

    /// A shutdown requested by a command or over HTTP.
    pub fn request_shutdown(&self) {
        match self.diverted.get() {
            Some(diverted) if diverted.send(()).is_ok() => {}
            _ => self.stop(StopRequest::Request),
        }
    }

    /// How long the least responsive worker thread has not answered.
    pub fn workers_unresponsive_for(&self) -> Duration {
        self.dispatcher.unresponsive_for()
    }

    /// Whether every listener has what it needs to accept.
    pub fn can_accept(&self) -> bool {
        !self
            .listeners
            .iter()
            .any(|listener| listener.route.shortage.is_present())
    }

    pub fn stop(&self, stop: StopRequest) {
        // The receiver is gone once everything has ended.
        let _ = self.stops.send(stop);
    }

    /// How long ago the control runtime last recorded that it is alive.
    pub fn since_heartbeat(&self) -> Duration {
        clock::now().since(Moment::at(Duration::from_millis(
            self.heartbeat.load(Relaxed),
        )))
    }

    /// Every hop of every upstream.
    pub fn hops(&self) -> Vec<(UpstreamName, Arc<Hop>)> {
        let all = self.upstreams.iter().flat_map(|upstream| {
            let dialer = upstream.dialer.load_full();
            let hops: Vec<_> = dialer.hops().iter().cloned().collect();
            hops.into_iter().map(|hop| (upstream.name.clone(), hop))
        });
        all.collect()
    }

    /// Resolves every name and probes every address now.
    pub fn refresh(&self) {
        self.resolver.refresh_now();
        self.tell_all(&Input::ReprobeNow { endpoint: None });
    }

    /// The machine slept or this process was stopped: everything is resolved and probed, and nobody is blamed. Connections
    /// whose peers have forgotten them meanwhile are found, and spares are not trusted.
    pub fn woke(&self, interruption: Interruption) {
        tokio::spawn(wake::tell(self.clone(), interruption));
        self.doubt_connections();
        event!(
            self.events,
            INFO,
            "wake",
            "resolving and probing everything again",
            why = %interruption,
        );
        self.metrics.counter(&family::WAKEUPS, &[]).increment(1);
        self.resolver.refresh_now();
        self.tell_all(&Input::Resumed);
    }

    /// Addresses or default routes of this machine have changed: what was known of names, addresses and connections may be
    /// about another network.
    pub fn network_changed(&self) {
        event!(
            self.events,
            INFO,
            "network.change",
            "the addresses or the default route of this machine have changed; resolving and probing everything again",
        );
        self.doubt_connections();
        self.refresh();
    }

    fn doubt_connections(&self) {
        tokio::spawn(wake::find_the_dead(self.clone()));
        for upstream in self.upstreams.iter() {
            upstream.dialer.load().preconnected().forget();
        }
    }

    /// Sends an input to every upstream.
    pub fn tell_all(&self, fact: &Input) {
        for upstream in self.upstreams.iter() {
            upstream.feed.send(fact.clone());
        }
    }

    /// Applies new settings to new work; live connections are not touched. Upstreams and listeners are matched by name;
    /// one that appears or leaves needs a restart.
    /// Ends when the next connection goes by them.
    async fn apply(&self, config: &Config) {
        for part in &config.upstreams {
            let mut endpoints = part.endpoints.clone();
            let hop_specs = assign_hops(&part.settings, &mut endpoints);
            let Some(upstream) = self
                .upstreams
                .iter()
                .find(|known| known.name == part.settings.name)
            else {
                continue;
            };
            upstream.target.store(Arc::new(TargetNames::of(part)));
            upstream.hosts.store(Arc::new(names_of(&endpoints)));
            upstream.rules.store(Arc::new(rules_of(&part.settings)));
            upstream.prober.set(part.settings.health.clone());
            upstream.zone.send_if_modified(|zone| {
                let changed = *zone != part.settings.zone;
                zone.clone_from(&part.settings.zone);
                changed
            });
            let loopback = config.settings.runtime.loopback_congestion;
            let dialer = upstream.redial(&part.settings, hop_specs, loopback, &self.metrics);
            upstream.candidates.store(Arc::new(endpoints.clone()));
            upstream
                .health
                .store(Arc::new(part.settings.health.clone()));
            let limits = limits_of(&part.settings);
            for listener in self
                .listeners
                .iter()
                .filter(|listener| listener.route.upstream == upstream.name)
            {
                listener.route.dialer.store(Arc::new(dialer.clone()));
                listener.route.limits.store(Arc::new(limits.clone()));
                if let Some(options) = &listener.options {
                    options.set_tcp(part.settings.tcp.options());
                }
            }
            let settings = policy_of(&part.settings, &config.settings.listeners);
            upstream.feed.send(Input::Reconfigure {
                endpoints: endpoints.clone(),
                settings,
            });
        }
        for listener in &config.settings.listeners {
            let known = self
                .listeners
                .iter()
                .find(|known| known.route.listener.as_str() == listener.name);
            if let Some(known) = known {
                known.route.set_policy(listener.policy());
            }
        }
        #[cfg(feature = "gateway")]
        if let Some(gateway) = self.gateway.clone() {
            let routes = super::gateway::routes(config);
            let settings = config.settings.gateway.clone();
            tokio::spawn(async move { gateway.reload(settings, routes).await });
        }
        self.shutdown
            .store(Arc::new(config.settings.shutdown.clone()));
        self.resolver.set_settings(config.settings.dns.clone());
        self.resolver.set_names(all_names(&self.upstreams));
        self.events.log().apply(&config.settings.log);
        for upstream in self.upstreams.iter() {
            upstream.feed.settled().await;
        }
        reload_gauges(&self.metrics, true);
        event!(self.events, INFO, "config.reload", "applied");
    }

    fn reload_failed(&self, error: &ReloadError) {
        reload_gauges(&self.metrics, false);
        let lines = match error {
            ReloadError::Invalid(report) => {
                let problems = report.problems.iter();
                let mut lines: Vec<String> = problems
                    .map(|problem| problem.line(report.source.as_ref()))
                    .collect();
                if report.omitted > 0 {
                    lines.push(format!("and {} more errors", report.omitted));
                }
                lines
            }
            ReloadError::Failed(what) => vec![what.clone()],
        };
        for line in lines {
            event!(
                self.events,
                ERROR,
                "config.reload",
                "settings not reloaded; nothing was changed",
                error = line,
            );
        }
    }
}
