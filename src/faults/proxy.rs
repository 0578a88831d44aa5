//! What a proxy is: a listener of the settings, or one that was added at run time, with its toxics.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use super::toxic::{Invalid, Toxic, ToxicRequest};
use crate::connection::ListenerContext;
use crate::types::Direction;

/// A proxy as Toxiproxy shows it.
#[derive(Clone, Debug)]
pub struct ProxyView {
    pub name: String,
    pub listen: String,
    pub upstream: String,
    pub enabled: bool,
    pub toxics: Vec<Value>,
}

/// What a proxy stands for.
#[derive(Clone, Debug)]
pub(super) struct ProxySpec {
    pub name: String,
    pub listen: String,
    pub upstream: String,
    /// What its connections share; `None` while one that was added does not listen.
    pub context: Option<Arc<ListenerContext>>,
    /// It comes from the settings: it cannot be deleted or given another upstream.
    pub is_configured: bool,
}

/// A listener that was added at run time and accepts.
#[derive(Debug)]
pub struct Opened {
    pub listen: String,
    pub context: Arc<ListenerContext>,
}

/// Opens and closes the listeners of proxies that are added at run time.
pub trait Listeners: Send + Sync {
    /// Starts to accept on `listen` for `upstream`; the error says why that address cannot be used.
    fn open(&self, name: &str, listen: &str, upstream: &str) -> Result<Opened, String>;
    /// Closes the sockets. Open connections are left to the caller.
    fn close<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

#[derive(Debug)]
pub(super) struct ProxyFaults {
    pub spec: ProxySpec,
    pub enabled: bool,
    /// In the order in which they were set.
    pub toxics: Vec<Arc<Toxic>>,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineError {
    ProxyNotFound,
    ProxyExists,
    ToxicNotFound,
    ToxicExists,
    Invalid(Invalid),
    /// A zone or endpoint that the proxy's upstream does not have.
    Unknown(String),
    /// A listener of the settings stays what it is.
    Configured(String),
    /// An address on which nothing can listen.
    Listen(String),
    /// There is a drill already, or none.
    DrillRuns(String),
    NoDrill,
}

/// Whether a proxy would have to listen or lead elsewhere.
pub(super) fn differs(
    proxy: &ProxyView,
    listen: &str,
    upstream: &str,
) -> Result<bool, EngineError> {
    let listen = listen.replace("localhost", "127.0.0.1");
    if proxy.upstream != upstream {
        return Ok(true);
    }
    if proxy.listen == listen {
        return Ok(false);
    }
    let wanted: Option<SocketAddr> = match listen.as_str() {
        "" => None,
        listen => Some(
            listen
                .parse()
                .map_err(|_| EngineError::Listen(format!("{listen} is not IP:PORT")))?,
        ),
    };
    Ok(wanted.is_none() || proxy.listen.parse().ok() != wanted)
}

// === impl ProxyFaults ===

impl ProxyFaults {
    pub(super) fn view(&self) -> ProxyView {
        // Toxiproxy lists the chain of each direction, upstream first.
        let of = |direction| {
            self.toxics
                .iter()
                .filter(move |toxic| toxic.direction == direction)
                .map(|toxic| toxic.to_json())
        };
        ProxyView {
            name: self.spec.name.clone(),
            listen: self.spec.listen.clone(),
            upstream: self.spec.upstream.clone(),
            enabled: self.enabled,
            toxics: of(Direction::Upload)
                .chain(of(Direction::Download))
                .collect(),
        }
    }

    pub(super) fn find(&self, toxic: &str) -> Option<usize> {
        self.toxics.iter().position(|known| known.name == toxic)
    }

    pub(super) fn active(&self) -> usize {
        self.toxics.len() + usize::from(!self.enabled)
    }

    /// Whether the zone and the endpoint that a request names exist.
    pub(super) fn knows(&self, request: &ToxicRequest) -> Result<(), EngineError> {
        let snapshot = self.spec.context.as_ref().map(|one| one.view.load());
        let endpoints = || {
            let views = snapshot.iter().flat_map(|snapshot| &snapshot.endpoints);
            views.map(|view| &view.endpoint)
        };
        if let Some(zone) = &request.zone
            && !endpoints().any(|endpoint| endpoint.zone() == Some(zone))
        {
            return Err(EngineError::Unknown(format!(
                "no endpoint is in zone {zone}"
            )));
        }
        if let Some(name) = &request.endpoint
            && !endpoints().any(|endpoint| endpoint.name().as_str() == name)
        {
            return Err(EngineError::Unknown(format!("there is no endpoint {name}")));
        }
        Ok(())
    }
}
