//! The certificates of live connections, so that a client can be closed when authorities or revocations change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::CertificateDer;

use crate::connection::Registry;
use crate::events::Reason;
use crate::relay::ConnectionCommand;
use crate::tls::reload::{ServerTls, refusal_label};

type CertificateChain = Arc<[CertificateDer<'static>]>;

/// Chains by connection id.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    chains: Arc<Mutex<HashMap<u64, CertificateChain>>>,
}

/// Keeps one connection among the peers.
#[derive(Debug)]
pub(super) struct PeerGuard {
    peers: Peers,
    id: u64,
}

// === impl Peers ===

impl Peers {
    pub(super) fn enter(&self, id: u64, chain: Vec<CertificateDer<'static>>) -> PeerGuard {
        self.chains().insert(id, chain.into());
        PeerGuard {
            peers: self.clone(),
            id,
        }
    }

    /// Resets every connection whose client these files no longer accept. A certificate that has merely expired since
    /// is accepted until its connection ends. Returns the number of connections.
    pub(super) fn recheck(&self, tls: &ServerTls, registry: &Registry) -> usize {
        let refused: Vec<u64> = {
            let chains = self.chains();
            let refused = chains.iter().filter(|(_, chain)| is_refused(tls, chain));
            refused.map(|(id, _)| *id).collect()
        };
        if !refused.is_empty() {
            registry.each(|entry| {
                if refused.contains(&entry.id) {
                    entry.commands.send(ConnectionCommand::Cut(Reason::Revoked));
                }
            });
        }
        refused.len()
    }

    fn chains(&self) -> MutexGuard<'_, HashMap<u64, CertificateChain>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a client that was accepted earlier has been revoked, or its authority removed.
pub(super) fn is_refused(tls: &ServerTls, chain: &[CertificateDer<'static>]) -> bool {
    tls.still_accepts(chain)
        .is_err_and(|error| refusal_label(&error) != "expired")
}

impl Drop for PeerGuard {
    fn drop(&mut self) {
        self.peers.chains().remove(&self.id);
    }
}
