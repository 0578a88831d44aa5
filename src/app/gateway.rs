//! Wiring of `entryway gateway`: its sockets, and the way from it to each upstream.
//!
//! A gateway opens no listener, and its settings have none: that distinguishes it from `run`.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{BoundListener, Config, Error, Upstream};
use crate::connection::{ListenerContext, Registry, WhenAllDown};
use crate::drain::DrainWatcher;
use crate::events::{Events, event};
use crate::gateway::authority::Routes;
use crate::gateway::{self, Gateway, GatewayConfig};
use crate::listener::{self, BindError, Bound, ListenerSettings, SocketSettings};
use crate::metrics::Metrics;
use crate::relay::TcpSettings;
use crate::settings::{Diagnostics, Loaded, Settings};
use crate::sys::limits::DescriptorBudget;
use crate::tls::reload::ServerTls;
use crate::types::{ListenerName, UpstreamName};
use crate::workers::Dispatcher;

/// Its name as a listener, in logs and metrics.
const NAME: &str = "gateway";

/// What the gateway shares with the rest of the instance.
pub(super) struct Shared<'a> {
    pub registry: &'a Registry,
    pub budget: DescriptorBudget,
    pub dispatcher: &'a Dispatcher,
    pub stop: DrainWatcher,
    pub metrics: &'a Metrics,
    pub events: &'a Events,
}

pub(super) fn is_one(settings: &Settings) -> bool {
    settings.listeners.is_empty()
}

pub(super) fn bind(settings: &Settings) -> Result<Bound, BindError> {
    let sockets = SocketSettings {
        tcp: TcpSettings::default().options(),
        loopback_congestion: settings.runtime.loopback_congestion,
    };
    let as_listener = ListenerSettings {
        bind: settings.gateway.bind.clone(),
        ..listener_to(&UpstreamName::new(NAME))
    };
    listener::bind(&as_listener, true, &sockets)
}

/// One way to each upstream, as a listener has it, with one round of attempts.
pub(super) fn listeners(
    upstreams: &[Upstream],
    addresses: &[SocketAddr],
    route: impl Fn(&Upstream, &ListenerSettings) -> Arc<ListenerContext>,
) -> Vec<BoundListener> {
    let way = |upstream: &Upstream| BoundListener {
        name: ListenerName::new(NAME),
        addresses: addresses.to_vec(),
        route: route(upstream, &listener_to(&upstream.name)),
        options: None,
        scheme: "https",
    };
    upstreams.iter().map(way).collect()
}

fn listener_to(upstream: &UpstreamName) -> ListenerSettings {
    ListenerSettings {
        name: NAME.to_owned(),
        upstream: upstream.as_str().to_owned(),
        allow_remote: true,
        when_all_down: WhenAllDown::Try,
        ..ListenerSettings::default()
    }
}

/// What is wrong with the certificate files of a gateway, at the key that it is about. Reads them all.
pub fn wrong_gateway_files(loaded: &Loaded) -> Option<Diagnostics> {
    let files = loaded.settings.gateway.files()?;
    let error = ServerTls::load(&files).err()?;
    let named = [
        ("gateway.cert", Some(files.cert.as_path())),
        ("gateway.key", Some(files.key.as_path())),
        ("gateway.client_ca", Some(files.client_ca.as_path())),
        ("gateway.crl", files.crl.as_deref()),
    ];
    let wrong = error.file();
    let key = named
        .iter()
        .find(|(_, file)| wrong.is_some() && *file == wrong)
        .map_or("gateway", |(key, _)| key);
    Some(loaded.report([(key.to_owned(), error.to_string())]))
}

/// The names that lead to each upstream: its own, and label and host of each endpoint.
pub(super) fn routes(config: &Config) -> Routes {
    let upstreams = config.upstreams.iter().map(|upstream| {
        let endpoints = upstream.endpoints.iter();
        let names = endpoints
            .flat_map(|endpoint| [endpoint.name.as_str().to_owned(), endpoint.host.clone()]);
        (upstream.settings.name.as_str().to_owned(), names.collect())
    });
    Routes::new(upstreams.collect(), config.settings.gateway.allow.clone())
}

pub(super) fn start(
    config: &Config,
    bound: Bound,
    ways: &[BoundListener],
    shared: Shared<'_>,
) -> Result<Gateway, Error> {
    let settings = config.settings.gateway.clone();
    // Validated with the settings.
    let Some(files) = settings.files() else {
        return Err(Error::Bind(BindError::Nothing));
    };
    let routes = routes(config);
    for (name, upstreams) in routes.ambiguous() {
        event!(
            shared.events,
            WARN,
            "start",
            "several upstreams have an endpoint of this name; a client gets the first that it may reach",
            endpoint = name,
            upstreams = upstreams.join(" ").as_str(),
        );
    }
    let gateway = GatewayConfig {
        files,
        settings,
        sockets: bound.into_sockets(),
        contexts: ways.iter().map(|way| Arc::clone(&way.route)).collect(),
        routes,
        registry: shared.registry.clone(),
        max_connections: shared.budget.max_connections,
        max_handshakes: shared.budget.handshakes,
        dispatcher: shared.dispatcher.clone(),
        stop: shared.stop,
    };
    Ok(gateway::start(gateway, shared.metrics, shared.events)?)
}
