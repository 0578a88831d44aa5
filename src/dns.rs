//! Name resolution: keeps asking for the addresses of a set of names and reports every answer.
//!
//! No connection ever waits for a lookup, no name is looked up more than once a second, and a bad answer never takes
//! addresses away: every answer, good or bad, is reported, and the upstreams keep the last good set. Literal addresses,
//! `localhost` and names of the hosts file need no lookup. Which endpoints a name belongs to is not known here.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use crate::interference::Interference;
use crate::metrics::Metrics;
use crate::upstream::input::Input;
pub use ask::SystemFiles;
pub use lookup::{Lookup, Responder, ServerReplies, lookup, lookup_with};
use refresh::RefreshControl;
pub use server::{AddressFamily, DnsReply, Records};
pub use settings::{DnsSettings, NameSpec, ResolverKind};

mod ask;
mod backoff;
mod hosts;
mod lookup;
mod refresh;
mod resolv_conf;
mod server;
mod settings;
mod stub;
mod system;
#[cfg(test)]
pub(crate) mod tests;

/// Follows a set of names.
#[derive(Debug)]
pub struct Resolver;

/// Steers a resolver; it ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct ResolverHandle {
    names: Arc<watch::Sender<Vec<NameSpec>>>,
    wanted: Arc<dyn RefreshControl>,
}

/// Whether an address from DNS is refused unless `allow_local_answers` is set.
pub fn is_local(ip: IpAddr) -> bool {
    hosts::is_local(ip.to_canonical())
}

// === impl Resolver ===

impl Resolver {
    /// Starts to follow `names` once the future is spawned (on the control runtime; it spawns one task per name).
    /// Every answer goes to `report`, what of the system's files cannot be used to `notice`; neither may block.
    /// Lookups and changes of each name are counted in `metrics`, once however many upstreams use the name. Each socket
    /// that is open takes one of `sockets`.
    pub fn start(
        settings: DnsSettings,
        sockets: Arc<Semaphore>,
        names: Vec<NameSpec>,
        metrics: Metrics,
        interference: Interference,
        notice: impl Fn(&str) + Send + Sync + 'static,
        report: impl Fn(Input) + Send + Sync + 'static,
    ) -> (ResolverHandle, impl Future<Output = ()> + Send + 'static) {
        let files = SystemFiles::default();
        let ask = ask::Configured::new(settings.clone(), files, interference, sockets);
        Self::start_asking(ask, settings, names, metrics, notice, report)
    }

    /// As [`Resolver::start`], with other files than the system's.
    pub fn start_with(
        settings: DnsSettings,
        names: Vec<NameSpec>,
        files: SystemFiles,
        metrics: Metrics,
        notice: impl Fn(&str) + Send + Sync + 'static,
        report: impl Fn(Input) + Send + Sync + 'static,
    ) -> (ResolverHandle, impl Future<Output = ()> + Send + 'static) {
        let interference = Interference::default();
        let ask = ask::Configured::new(settings.clone(), files, interference, ask::unbounded());
        Self::start_asking(ask, settings, names, metrics, notice, report)
    }

    fn start_asking<A: ask::Ask>(
        ask: A,
        settings: DnsSettings,
        names: Vec<NameSpec>,
        metrics: Metrics,
        notice: impl Fn(&str) + Send + Sync + 'static,
        report: impl Fn(Input) + Send + Sync + 'static,
    ) -> (ResolverHandle, impl Future<Output = ()> + Send + 'static) {
        let (names, wanted_names) = watch::channel(names);
        let shared = Arc::new(refresh::Shared {
            ask,
            metrics,
            report: Box::new(report),
            notice: Box::new(notice),
            wanted: watch::Sender::new(settings),
            recovered: watch::Sender::new(()),
        });
        let handle = ResolverHandle {
            names: Arc::new(names),
            wanted: Arc::clone(&shared) as Arc<dyn RefreshControl>,
        };
        (handle, refresh::run(shared, wanted_names))
    }
}

// === impl ResolverHandle ===

impl ResolverHandle {
    /// Follows these names from now on: new ones at once, missing ones no more.
    pub fn set_names(&self, names: Vec<NameSpec>) {
        self.names.send_if_modified(|old| {
            let changed = *old != names;
            *old = names;
            changed
        });
    }

    /// Takes other settings and asks for every name anew.
    pub fn set_settings(&self, settings: DnsSettings) {
        self.wanted.set(settings);
    }

    /// Asks for every name now (a name that was asked less than a second ago: when that second is over).
    pub fn refresh_now(&self) {
        self.wanted.refresh();
    }
}
