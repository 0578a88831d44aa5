//! What all connections of a gateway share.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;

use super::authority::Routes;
use super::handshake::Handshakes;
use super::metrics::GatewayMetrics;
use super::peers::{Peers, is_refused};
use super::settings::GatewaySettings;
use crate::connection::{ListenerContext, Registry};
use crate::drain::DrainWatcher;
use crate::events::Events;
use crate::tls::reload::{CertificateReloader, ServerTls};
use crate::workers::Dispatcher;

#[derive(Debug)]
pub(super) struct Shared {
    pub settings: ArcSwap<GatewaySettings>,
    pub routes: ArcSwap<Routes>,
    pub contexts: Vec<Arc<ListenerContext>>,
    pub registry: Registry,
    pub max_connections: usize,
    pub max_handshakes: usize,
    pub metrics: GatewayMetrics,
    pub events: Events,
    pub peers: Peers,
    pub stop: DrainWatcher,
    pub tls: CertificateReloader,
    pub handshakes: Handshakes,
    pub dispatcher: Dispatcher,
    pub next_thread: AtomicUsize,
}

impl Shared {
    /// Whether a peer that was verified by one set of files is refused by a newer one. Until it is among the live peers
    /// a change of the files does not find it.
    pub(super) fn is_refused_since(
        &self,
        verified_by: &Arc<ServerTls>,
        chain: &[CertificateDer<'static>],
    ) -> bool {
        let now = self.tls.current();
        !Arc::ptr_eq(verified_by, &now) && is_refused(&now, chain)
    }
}
