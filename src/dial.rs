//! Dialling: from an order of candidates to one connected socket.
//!
//! Owns sockets until the first byte: options, the attempt timeout, the stagger (RFC 8305, with a delay that follows
//! what the address has shown lately) and the race between attempts. The first to finish wins, losers are closed
//! before any byte. Every attempt is reported to the caller; what it means for health is decided elsewhere. Does not
//! retry a candidate, and never waits for DNS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::upstream::endpoint::Candidate;
use attempt::Opener;
pub use attempt::{Attempt, DialSettings, Dialed, Error, Opening, Outcome};
use race::Race;
pub use warm::{Warm, WarmSettings};

mod attempt;
mod race;
mod warm;

/// Dials for one upstream. Cheap to clone; used on data threads and by probes.
#[derive(Clone, Debug)]
pub struct Dialer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    opener: Opener,
    /// Connected spares, shared by all who dial for this upstream.
    warm: Warm,
}

// === impl Dialer ===

impl Dialer {
    /// A dialer that never dials an address of `own`.
    pub fn new(settings: DialSettings, own: Vec<SocketAddr>, warm: Warm) -> Self {
        Self {
            shared: Arc::new(Shared {
                opener: Opener { settings, own },
                warm,
            }),
        }
    }

    /// How it dials.
    pub fn settings(&self) -> &DialSettings {
        &self.shared.opener.settings
    }

    /// The spares.
    pub fn warm(&self) -> &Warm {
        &self.shared.warm
    }

    /// Dials the candidates, best first, until one is connected. Each is tried at most once; every attempt is
    /// reported as it ends, the winner last.
    pub async fn dial(
        &self,
        candidates: &[Candidate],
        opening: Opening,
        report: &mut dyn FnMut(Attempt),
    ) -> Result<Dialed, Error> {
        let best = candidates.first().ok_or(Error::NoCandidate)?;
        if let Some(stream) = self.shared.warm.take(best) {
            return Ok(Dialed {
                stream,
                candidate: best.clone(),
                attempts: 0,
                hedged: false,
                took: Duration::ZERO,
                warm: true,
            });
        }
        Race::new(&self.shared.opener, candidates, opening, report)
            .run()
            .await
    }

    /// One attempt to one address, within `limit`: for probes.
    pub async fn connect(&self, to: SocketAddr, limit: Duration) -> Result<TcpStream, Outcome> {
        self.shared.opener.connect(to, limit).await
    }

    /// Looks after the spares: drops what is dead, too old or no longer preferred, connects what is missing.
    /// `preferred`: the addresses that are up, best first, of the endpoint that new connections go to.
    pub async fn tend_spares(&self, preferred: &[Candidate]) {
        self.shared.warm.tend(&self.shared.opener, preferred).await;
    }
}

#[cfg(test)]
mod tests;
