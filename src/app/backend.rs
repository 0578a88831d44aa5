//! The admin API's [`Backend`]: answers read from the handles, changes passed on to the parts they concern.

use std::collections::HashMap;
use std::sync::Arc;

use super::upgrade::{UpgradeError, UpgradeRequest};
use super::{Handles, ReloadError, Reloader, instance_metrics};
use crate::admin::api_types::{
    BytesJson, Changed, ChangedEndpoint, ConnectionJson, DnsJson, EndpointJson, Endpoints, Explain,
    HopRow, HopsJson, ListenerJson, NameJson, Reloaded, SandboxJson, StatusJson, UpgradedJson,
    UpstreamJson,
};
use crate::admin::{
    ApiFuture, Backend, BackendError, EndpointAction, Health, UpgradeOrder, UpstreamCounts, seconds,
};
use crate::clock;
use crate::events::Reason;
use crate::metrics::Metrics;
use crate::relay::ConnectionCommand;
use crate::sandbox;
use crate::types::{Direction, EndpointName};
use crate::upstream::explain::WhatIf;
use crate::upstream::input::{Input, Intent};
use crate::upstream::snapshot::Snapshot;

/// Quiet after which a connection without framing is shown as at rest.
const QUIET: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct AdminBackend {
    handles: Handles,
    reloader: Reloader,
}

// === impl AdminBackend ===

impl AdminBackend {
    pub(super) fn new(handles: Handles, reloader: Reloader) -> Self {
        Self { handles, reloader }
    }

    fn upstreams(&self, name: Option<&str>) -> Result<Vec<&super::Upstream>, BackendError> {
        let all = self.handles.upstreams.iter();
        let found: Vec<_> = all
            .filter(|upstream| name.is_none_or(|name| upstream.name.as_str() == name))
            .collect();
        match (found.is_empty(), name) {
            (true, Some(name)) => Err(BackendError::Unknown {
                what: format!("no upstream is named `{name}`"),
                list: "status",
            }),
            _ => Ok(found),
        }
    }

    /// Open connections and their limit, where the least room is left: of a listener, or of the whole instance.
    fn tightest(&self) -> (usize, usize) {
        let whole = (
            self.handles.registry.admitted(),
            self.handles.max_connections,
        );
        let listeners = self.handles.listeners.iter().filter_map(|listener| {
            let most = listener.route.policy.load().max_connections?;
            Some((listener.route.admitted(), most))
        });
        listeners
            .chain([whole])
            .min_by_key(|(open, most)| most.saturating_sub(*open))
            .unwrap_or(whole)
    }
}

impl Backend for AdminBackend {
    fn health(&self) -> Health {
        let upstreams = self.handles.upstreams.iter().map(|upstream| {
            let snapshot = upstream.view.load();
            UpstreamCounts {
                name: upstream.name.to_string(),
                healthy: snapshot.healthy,
                addresses: snapshot.addresses,
            }
        });
        let (connections, max_connections) = self.tightest();
        Health {
            beat: self.handles.since_heartbeat(),
            pending: self
                .handles
                .readiness
                .pending()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            draining: self.handles.draining.has_fired(),
            workers_beat: self.handles.workers_unresponsive_for(),
            shortage: !self.handles.can_accept(),
            connections,
            max_connections,
            upstreams: upstreams.collect(),
            wanted: self.reloader.current().settings.readiness.upstream,
            faults: self.handles.active_faults(),
        }
    }

    fn status(&self) -> StatusJson {
        let listeners = self.handles.listeners.iter().map(|listener| ListenerJson {
            name: listener.route.listener.to_string(),
            addresses: listener.addresses.iter().map(ToString::to_string).collect(),
            upstream: listener.route.upstream.to_string(),
            scheme: listener.scheme.to_owned(),
            connections: listener.route.admitted(),
            parked: listener.route.parked(),
        });
        let upstreams = self.handles.upstreams.iter().map(|upstream| {
            let target = upstream.target_names();
            UpstreamJson::of(
                &upstream.view.load(),
                target.system.clone(),
                target.region.clone(),
            )
        });
        StatusJson {
            generation: self.handles.upgrader.generation(),
            parent_pid: self.handles.upgrader.parent_pid(),
            uptime_s: seconds(clock::now().since(self.handles.started)),
            draining: self.handles.draining.has_fired(),
            max_connections: self.handles.max_connections,
            sandbox: {
                let sandbox = sandbox::status();
                let files = sandbox.files.iter();
                SandboxJson {
                    on: sandbox.on,
                    reason: sandbox.reason,
                    landlock: sandbox.landlock,
                    files: files.map(|file| file.display().to_string()).collect(),
                    programs: sandbox.programs,
                    system_resolver: sandbox.system_resolver,
                }
            },
            listeners: listeners.collect(),
            upstreams: upstreams.collect(),
            faults: self
                .handles
                .faults_address()
                .map(|address| address.to_string()),
            ..StatusJson::default()
        }
    }

    fn endpoints(&self) -> Endpoints {
        let mut open: HashMap<(String, String), usize> = HashMap::new();
        self.handles.registry.each(|entry| {
            if let Some((candidate, _)) = entry.candidate() {
                let name = candidate.endpoint.name().to_string();
                *open.entry((entry.upstream.to_string(), name)).or_default() += 1;
            }
        });
        let now = clock::now();
        let mut endpoints = Vec::new();
        for upstream in self.handles.upstreams.iter() {
            for view in &upstream.view.load().endpoints {
                let key = (upstream.name.to_string(), view.endpoint.name().to_string());
                endpoints.push(EndpointJson::of(
                    view,
                    open.get(&key).copied().unwrap_or(0),
                    now,
                ));
            }
        }
        Endpoints { endpoints }
    }

    fn connections(&self, limit: usize) -> Vec<ConnectionJson> {
        let now = clock::now();
        let oldest = self.handles.registry.oldest(limit);
        oldest
            .iter()
            .map(|entry| {
                let candidate = entry.candidate().map(|(candidate, _)| candidate);
                ConnectionJson {
                    id: entry.id,
                    listener: entry.listener.to_string(),
                    client: entry.client.to_string(),
                    endpoint: candidate.as_ref().map(|to| to.endpoint.name().to_string()),
                    address: candidate.as_ref().map(|to| to.address.to_string()),
                    age_s: seconds(now.since(entry.accepted)),
                    idle_s: seconds(entry.idle(now)),
                    at_rest: entry.at_rest(now, QUIET),
                    phase: entry.stats.phase().map(|phase| phase.as_str().to_owned()),
                    lane: entry.stats.lane().to_owned(),
                    bytes: BytesJson {
                        upload: entry.stats.bytes(Direction::Upload),
                        download: entry.stats.bytes(Direction::Download),
                    },
                }
            })
            .collect()
    }

    fn hops(&self) -> HopsJson {
        HopsJson {
            hops: self
                .handles
                .hops()
                .iter()
                .map(|(upstream, hop)| HopRow::of(upstream, hop))
                .collect(),
        }
    }

    fn dns(&self) -> DnsJson {
        let now = clock::now();
        let views = self
            .handles
            .upstreams
            .iter()
            .map(|upstream| upstream.view.load());
        let mut names: Vec<NameJson> = views
            .flat_map(|view| {
                view.names
                    .iter()
                    .map(|name| NameJson::of(name, now))
                    .collect::<Vec<_>>()
            })
            .collect();
        names.sort_by(|a, b| a.name.cmp(&b.name));
        names.dedup_by(|a, b| a.name == b.name);
        DnsJson { names }
    }

    fn config(&self) -> serde_json::Value {
        self.reloader.current().effective().clone()
    }

    fn explain(&self, upstream: Option<&str>, what_if: &[String]) -> Result<Explain, BackendError> {
        let what_if: Vec<WhatIf> = what_if
            .iter()
            .map(|text| WhatIf::parse(text))
            .collect::<Result<_, _>>()
            .map_err(BackendError::Bad)?;
        let upstreams = self.upstreams(upstream)?;
        let mut explain = Explain::default();
        for one in &upstreams {
            let explanation = one.view.load().explain(clock::now(), &what_if);
            explain.add(one.name.as_str(), &explanation, upstreams.len() > 1);
        }
        Ok(explain)
    }

    fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        let upstreams = self.handles.upstreams.iter();
        upstreams.map(|upstream| upstream.view.load()).collect()
    }

    fn registry(&self) -> Metrics {
        self.handles.metrics.clone()
    }

    fn metrics(&self) -> Box<dyn Iterator<Item = String> + Send + Sync> {
        instance_metrics::update(&self.handles);
        Box::new(self.handles.metrics.slices())
    }

    fn order(
        &self,
        order: EndpointAction,
        upstream: Option<&str>,
        name: Option<&str>,
    ) -> Result<Changed, BackendError> {
        let mut changed = Changed::default();
        for one in self.upstreams(upstream)? {
            for view in &one.view.load().endpoints {
                let endpoint: &EndpointName = view.endpoint.name();
                if name.is_some_and(|name| name != endpoint.as_str()) {
                    continue;
                }
                one.feed.send(match order {
                    EndpointAction::Drain => Input::Intent {
                        endpoint: endpoint.clone(),
                        intent: Intent::Drain,
                    },
                    EndpointAction::Ready => Input::Intent {
                        endpoint: endpoint.clone(),
                        intent: Intent::Ready,
                    },
                    EndpointAction::Probe => Input::ReprobeNow {
                        endpoint: Some(endpoint.clone()),
                    },
                });
                changed.endpoints.push(ChangedEndpoint {
                    upstream: one.name.to_string(),
                    name: endpoint.to_string(),
                    action: order.as_str().to_owned(),
                });
            }
        }
        match (changed.endpoints.is_empty(), name) {
            (true, Some(name)) => Err(BackendError::unknown_endpoint(name)),
            _ => Ok(changed),
        }
    }

    fn close(&self, id: u64) -> Result<(), BackendError> {
        let mut found = None;
        self.handles.registry.each(|entry| {
            if entry.id == id {
                found = Some(Arc::clone(entry));
            }
        });
        let Some(entry) = found else {
            return Err(BackendError::unknown_connection(id));
        };
        entry.commands.send(ConnectionCommand::Cut(Reason::Killed));
        Ok(())
    }

    fn reload(&self, dry_run: bool) -> ApiFuture<Reloaded> {
        let reloader = self.reloader.clone();
        Box::pin(async move {
            match reloader.reload(dry_run).await {
                Ok(applied) => Ok(Reloaded {
                    dry_run,
                    changed: applied.changed,
                    restart_needed: applied.restart_needed,
                    warnings: applied.warnings,
                }),
                Err(ReloadError::Invalid(report)) => Err(BackendError::Invalid(report.plain())),
                Err(ReloadError::Failed(what)) => Err(BackendError::Failed(what)),
            }
        })
    }

    fn upgrade(&self, order: UpgradeOrder) -> ApiFuture<UpgradedJson> {
        let upgrader = self.handles.upgrader.clone();
        let settings = self.reloader.current().effective().clone();
        let request = UpgradeRequest {
            binary: order.binary,
            config: order.config,
            max_drain: order.max_drain,
        };
        Box::pin(async move {
            match upgrader.upgrade(request, settings).await {
                Ok(new) => Ok(UpgradedJson {
                    generation: new.generation,
                    pid: new.pid,
                    changed: new.changed,
                }),
                Err(UpgradeError::Settings(what)) => Err(BackendError::Invalid(what)),
                Err(UpgradeError::Failed(what)) => Err(BackendError::NotNow(what)),
            }
        })
    }

    fn shutdown(&self) {
        self.handles.request_shutdown();
    }
}
