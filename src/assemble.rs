//! From settings to parts: WHICH parts there are. The only room that knows core and wings.
//!
//! Owns the reading of targets (`recipe`), the services beside the core (admin, zone, wake) and the reload. How the
//! parts live and end is `app`'s business.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::admin::{self, AdminBindError, AdminListeners, BindOptions};
use crate::app::{self, App, Ended, Handles, Parts, UpstreamPart};
use crate::edn;
use crate::events::Event;
use crate::events::{Events, Log};
use crate::life;
use crate::metrics::Metrics;
use crate::settings::{Diagnostics, Loaded, UpstreamSettings};
use crate::suspend;
use crate::target::{self, ResolvedTarget, TargetPart};
use crate::types::Zone;
use crate::upstream::fact::Fact;
use crate::zone::{self, MetadataServices};
use desk::Desk;

mod desk;

/// Everything, started; nothing has been served yet that was not asked for.
#[derive(Debug)]
pub struct Assembly {
    app: App,
    admin_listeners: AdminListeners,
    desk: Arc<Desk>,
    loaded: Loaded,
    services: JoinSet<()>,
}

/// Why it cannot be assembled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Targets that are none, each where it was set.
    #[error(transparent)]
    Targets(Box<Diagnostics>),
    /// A port of ours cannot be had, or no threads.
    #[error(transparent)]
    App(#[from] app::Error),
    /// A port of admin cannot be had.
    #[error(transparent)]
    Admin(#[from] AdminBindError),
}

/// What the targets of the settings come to, one recipe per upstream.
pub fn recipes(loaded: &Loaded) -> Result<Vec<ResolvedTarget>, Error> {
    let mut wrong = Vec::new();
    let mut recipes = Vec::new();
    for (place, upstream) in loaded.settings.upstreams.iter().enumerate() {
        match recipe_of(upstream) {
            Ok(recipe) => recipes.push(recipe),
            Err(problems) => wrong.extend(problems.into_iter().map(|problem| {
                let key = key_of(problem.part);
                (format!("upstream[{place}]{key}"), problem.what)
            })),
        }
    }
    if wrong.is_empty() {
        Ok(recipes)
    } else {
        Err(Error::Targets(Box::new(loaded.report(wrong))))
    }
}

fn recipe_of(upstream: &UpstreamSettings) -> Result<ResolvedTarget, Vec<target::TargetError>> {
    let wrong = |what| {
        let part = TargetPart::FromClient;
        vec![target::TargetError { part, what }]
    };
    let map = match &upstream.from_client {
        None => None,
        Some(file) => {
            let text = edn::load(file.as_ref()).map_err(|error| wrong(error.to_string()))?;
            let map =
                edn::read_client_map(&text).map_err(|error| wrong(format!("{file}: {error}")))?;
            Some(map)
        }
    };
    target::of(upstream, map.as_ref())
}

/// The key below an upstream that a part of its target is set with.
fn key_of(part: TargetPart) -> String {
    match part {
        TargetPart::Target => String::new(),
        TargetPart::Endpoint(index) => format!(".endpoint[{index}]"),
        TargetPart::Vpce => ".vpce".to_owned(),
        TargetPart::System => ".system".to_owned(),
        TargetPart::Region => ".region".to_owned(),
        TargetPart::FromClient => ".from_client".to_owned(),
    }
}

/// The parts that these settings ask for.
pub fn parts(loaded: &Loaded, metrics: &Metrics, events: &Events) -> Result<Parts, Error> {
    let recipes = recipes(loaded)?;
    let part = |(settings, recipe): (&UpstreamSettings, ResolvedTarget)| UpstreamPart {
        settings: settings.clone(),
        endpoints: recipe.endpoints,
        system: recipe.system,
        region: recipe.region,
        notes: recipe.notes,
    };
    Ok(Parts {
        upstreams: loaded
            .settings
            .upstreams
            .iter()
            .zip(recipes)
            .map(part)
            .collect(),
        listen_asked: (0..loaded.settings.listeners.len())
            .any(|place| loaded.source(&format!("listener[{place}].bind")) != "default"),
        settings: loaded.settings.clone(),
        metrics: metrics.clone(),
        events: events.clone(),
    })
}

/// Takes the ports and starts everything, on the runtime that calls it.
pub fn assemble(loaded: Loaded, log: Log) -> Result<Assembly, Error> {
    let (metrics, events) = (Metrics::default(), Events::new(log));
    events.emit(
        Event::info("start", "entryway starts")
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("pid", std::process::id()),
    );
    for warning in &loaded.warnings {
        events.emit(Event::warn("start", "settings").with("warning", warning.clone()));
    }
    let parts = parts(&loaded, &metrics, &events)?;
    for part in &parts.upstreams {
        for note in &part.notes {
            let event = Event::info("start", "about this way in");
            let event = event.with("upstream", part.settings.name.as_str().to_owned());
            events.emit(event.with("note", note.clone()));
        }
    }
    let bindings = app::bind(&parts)?;
    let listener_port = bindings
        .addresses()
        .next()
        .map_or(0, |address| address.port());
    let asked = BindOptions {
        bind: loaded.admin_asked_for,
        listener_port,
    };
    let admin_listeners = admin::open(&loaded.settings.admin, asked, &events)?;
    let app = app::start(parts, bindings, &admin_listeners.addresses())?;
    let desk = Arc::new(Desk::new(app.handles().clone(), loaded.clone()));
    let mut services = JoinSet::new();
    let handles = app.handles().clone();
    services
        .spawn(async move { match suspend::watch(|woke| handles.woke(woke.to_string())).await {} });
    for place in 0..loaded.settings.upstreams.len() {
        services.spawn(find_zone(
            app.handles().clone(),
            loaded.settings.upstreams[place].clone(),
            place,
        ));
    }
    Ok(Assembly {
        app,
        admin_listeners,
        desk,
        loaded,
        services,
    })
}

/// Finds our own zone; never in the way of the start.
async fn find_zone(handles: Handles, settings: UpstreamSettings, place: usize) {
    let upstream = &handles.upstreams[place];
    let zones: Vec<Zone> = upstream
        .view
        .load()
        .endpoints
        .iter()
        .filter_map(|view| view.endpoint.zone().cloned())
        .collect();
    let ids_in_use = zones.iter().any(|zone| zone::is_id(zone.as_str()));
    let (sources, bad) = MetadataServices::from_env(|name| std::env::var(name).ok());
    for base in bad {
        handles
            .events
            .emit(Event::warn("start", "metadata service").with("error", base.to_string()));
    }
    let search = zone::find(&settings.zone, &sources, ids_in_use).await;
    for (source, why) in &search.failed {
        let event =
            Event::debug("start", "own zone not found here").with("source", source.to_string());
        handles.events.emit(event.with("error", why.clone()));
    }
    if let Some((own, source)) = search.found {
        let event =
            Event::info("start", "own zone").with("upstream", upstream.name.as_str().to_owned());
        let event = event.maybe(
            "zone",
            own.name.as_ref().map(|zone| zone.as_str().to_owned()),
        );
        let event = event.maybe(
            "zone_id",
            own.id.as_ref().map(|zone| zone.as_str().to_owned()),
        );
        handles
            .events
            .emit(event.with("source", source.to_string()));
        upstream.feed.tell(Fact::OwnZone(own.matching(&zones)));
        upstream.feed.tell(Fact::OwnZoneId(own.id));
    }
}

/// Whether a port can be had here, without keeping it.
pub fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

// === impl Assembly ===

impl Assembly {
    /// To look at it and to steer it.
    pub fn handles(&self) -> &Handles {
        self.app.handles()
    }

    /// Where admin HTTP listens.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin_listeners.admin_address()
    }

    /// Reads the settings again; see [`admin::Backend::reload`].
    pub fn desk(&self) -> Arc<dyn admin::Backend> {
        Arc::clone(&self.desk) as Arc<dyn admin::Backend>
    }

    /// Runs until a stop is wanted and everything is down; admin goes last.
    pub async fn run(self) -> Ended {
        let Self {
            app,
            admin_listeners,
            desk,
            loaded,
            mut services,
        } = self;
        let events = app.handles().events.clone();
        let (stop, watch) = life::trigger();
        let (admin_settings, admin_bus) = (loaded.settings.admin.clone(), events.clone());
        let admin = tokio::spawn(async move {
            admin::serve(admin_listeners, desk, admin_bus, &admin_settings, watch).await
        });
        let ended = app.run().await;
        stop.fire();
        services.shutdown().await;
        // Answers under way may finish; one that hangs does not hold up the end.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(500), admin).await;
        events.emit(Event::info("stop", "entryway ends").with("cut", ended.cut));
        ended
    }
}
