//! The listening sockets: bound, passed by a service manager, or handed over by the process that this one replaces.

use std::net::{SocketAddr, TcpListener};

use super::systemd::{self, SocketError};
use super::{Config, Error, Handover};
use crate::events::{Events, event};
use crate::listener::{self, Bound, ListenerSettings, SocketSettings};
use crate::relay::TcpSettings;
use crate::sys::process::PassedSocket;

/// Binds every listener; clients are queued from here on.
pub(super) fn bind(
    config: &Config,
    passed: Vec<PassedSocket>,
    mut handover: Option<&mut Handover>,
    events: &Events,
) -> Result<Vec<Bound>, Error> {
    let settings = &config.settings;
    let passed = systemd::sockets(passed, &settings.listeners)?;
    let mut bound = Vec::new();
    for (listener, passed) in settings.listeners.iter().zip(passed) {
        let upstream = settings
            .upstreams
            .iter()
            .find(|upstream| upstream.name.as_str() == listener.upstream);
        let sockets = SocketSettings {
            tcp: upstream.map_or_else(
                || TcpSettings::default().options(),
                |upstream| upstream.tcp.options(),
            ),
            loopback_congestion: settings.runtime.loopback_congestion,
        };
        let name = &listener.name;
        let handed = handover.as_mut().map(|handover| handover.sockets_of(name));
        let handed = handed.unwrap_or_default();
        if !handed.sockets.is_empty() {
            match handed.is_managed {
                true => may_listen(listener, &handed.sockets)?,
                false => same_addresses(listener, &handed.sockets, config.binds_are_explicit)?,
            }
            let adopted = listener::adopt(handed.sockets, &sockets, handed.is_managed);
            bound.push(adopted.map_err(Error::Handover)?);
            continue;
        }
        if !passed.is_empty() {
            may_listen(listener, &passed)?;
            let adopted = listener::adopt(passed, &sockets, true);
            bound.push(adopted.map_err(|error| SocketError::new(error.to_string()))?);
            continue;
        }
        let one = listener::bind(listener, config.binds_are_explicit, &sockets)?;
        for (address, error) in &one.missing {
            event!(
                events,
                WARN,
                "listener.up",
                "default address not available on this host; skipping it",
                name = listener.name,
                address = %address,
                error = %error,
            );
        }
        bound.push(one);
    }
    if let Some(name) = handover.and_then(|handover| handover.left_over()) {
        return Err(other_ports(name));
    }
    #[cfg(feature = "gateway")]
    if super::gateway::is_one(settings) {
        bound.push(super::gateway::bind(settings)?);
    }
    Ok(bound)
}

/// Fails where a service manager listens for other machines and the listener's settings do not allow it.
fn may_listen(listener: &ListenerSettings, sockets: &[TcpListener]) -> Result<(), Error> {
    for address in sockets.iter().flat_map(TcpListener::local_addr) {
        listener.may_listen(address)?;
    }
    Ok(())
}

/// Fails where a listener's settings want other addresses than those that are handed over: clients of the old ones would
/// be refused. Default addresses may be missing.
fn same_addresses(
    listener: &ListenerSettings,
    handed: &[TcpListener],
    are_explicit: bool,
) -> Result<(), Error> {
    let is_same = |asked: &SocketAddr, bound: &SocketAddr| {
        asked.ip() == bound.ip() && (asked.port() == 0 || asked.port() == bound.port())
    };
    let bound: Vec<SocketAddr> = handed.iter().flat_map(TcpListener::local_addr).collect();
    let asked = listener.addresses()?;
    let all_wanted = bound
        .iter()
        .all(|at| asked.iter().any(|one| is_same(one, at)));
    let all_there = asked
        .iter()
        .all(|one| bound.iter().any(|at| is_same(one, at)) || (!are_explicit && one.is_ipv6()));
    match all_wanted && all_there {
        true => Ok(()),
        false => Err(other_ports(&listener.name)),
    }
}

fn other_ports(listener: &str) -> Error {
    Error::OtherPorts(format!(
        "listener `{listener}` has other addresses in the settings than the running process; \
         an upgrade keeps the addresses"
    ))
}
