//! Dialling: from an ordered list of candidates to one connected socket.
//!
//! A dial starts with the best candidate and starts the next one when an attempt fails, or when the attempt has taken
//! longer than the stagger (RFC 8305; the delay follows the recent connect times of the address). The first attempt to
//! finish wins, the others are closed before any byte is sent. Every attempt is reported to the caller, which decides
//! what it means for health. A candidate is tried once per dial, and DNS is never waited for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::events::{Events, Log};
use crate::interference::{ConnectFault, Interference};
use crate::stream::Stream;
use crate::upstream::endpoint::{Address, Candidate};
use attempt::Connector;
pub use attempt::{Attempt, ClientData, ConnectOutcome, DialSettings, Dialed, Error, HedgeAfter};
use hop::{Hops, ProbeThrough};
pub use preconnect::{PreconnectSettings, Preconnected, SpareLimit, keep_preconnected};
use race::Race;

mod attempt;
pub mod hop;
mod preconnect;
mod race;
mod spare_stream;

/// Dials for one upstream. Cheap to clone; used on data threads and by probes.
#[derive(Clone, Debug)]
pub struct Dialer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connector: Connector,
    preconnected: Preconnected,
}

// === impl Dialer ===

impl Dialer {
    /// A dialer that never dials an address of `own`.
    pub fn new(settings: DialSettings, own: Vec<SocketAddr>, preconnected: Preconnected) -> Self {
        let events = Events::new(Log::default());
        let interference = Interference::default();
        Self::through(
            settings,
            own,
            preconnected,
            Hops::default(),
            events,
            interference,
        )
    }

    /// One that reaches some addresses through hops, and whose connects can be disturbed.
    pub fn through(
        settings: DialSettings,
        own: Vec<SocketAddr>,
        preconnected: Preconnected,
        hops: Hops,
        events: Events,
        interference: Interference,
    ) -> Self {
        let connector = Connector {
            settings,
            own,
            hops,
            events,
            interference,
        };
        connector.try_options();
        Self {
            shared: Arc::new(Shared {
                connector,
                preconnected,
            }),
        }
    }

    pub fn settings(&self) -> &DialSettings {
        &self.shared.connector.settings
    }

    pub fn preconnected(&self) -> &Preconnected {
        &self.shared.preconnected
    }

    /// Dials the candidates, best first, until one is connected. Each is tried at most once; every attempt is
    /// reported as it ends, the winner last.
    pub async fn dial(
        &self,
        candidates: &[Candidate],
        client_data: ClientData,
        report: &mut dyn FnMut(Attempt),
    ) -> Result<Dialed, Error> {
        let best = candidates.first().ok_or(Error::NoCandidate)?;
        let fault = self
            .shared
            .connector
            .interference
            .on_connect(best.address.socket);
        // Behind an address where nothing listens any more no connection has survived.
        if fault != Some(ConnectFault::Refused)
            && let Some((stream, lease)) = self.shared.preconnected.take(best)
        {
            return Ok(Dialed {
                stream,
                lease,
                candidate: best.clone(),
                attempts: 0,
                hedged: false,
                took: Duration::ZERO,
                at: clock::now(),
                warm: true,
            });
        }
        Race::new(&self.shared.connector, candidates, client_data, report)
            .run()
            .await
    }

    pub fn hops(&self) -> &Hops {
        &self.shared.connector.hops
    }

    /// One attempt to one address, within `limit`: for probes.
    pub async fn connect(&self, to: &Address, limit: Duration) -> Result<Stream, ConnectOutcome> {
        let reached = self.shared.connector.connect(to, limit).await?;
        Ok(reached.stream)
    }

    /// Whether the end of a probe says something about its address: behind a hop that is silent, a timeout does not.
    pub fn probed(&self, address: &Address, probe: ProbeThrough) -> bool {
        self.hops().probed(address, probe)
    }

    async fn maintain_spares(&self, preferred: &[Candidate]) {
        self.shared
            .preconnected
            .maintain(&self.shared.connector, preferred)
            .await;
    }
}

#[cfg(test)]
mod tests;
