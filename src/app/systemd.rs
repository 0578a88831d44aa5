//! systemd: the notify protocol (readiness, reload, status, watchdog) and the sockets of a socket unit.
//!
//! Messages are datagrams on the socket that `NOTIFY_SOCKET` names. They are sent without waiting: where nobody receives
//! them, or the socket is gone, they are dropped, because a service manager must not be able to stall the proxy. The
//! watchdog is fed by the control loop, so that it fires when that loop hangs.
//!
//! Sockets of a socket unit ([`sockets`]) replace the addresses of the listener that their name names.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Handles;
use crate::clock;
use crate::listener::ListenerSettings;
use crate::sys::process::{PassedSocket, listening_tcp};

/// How often the status is compared with the one that was sent last.
const STATUS_CHECK: Duration = Duration::from_secs(1);

/// A status is sent at least this often.
const STATUS_MAX_AGE: Duration = Duration::from_secs(10);

/// Sends messages to the service manager; does nothing where there is none. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Notifier {
    target: Option<Arc<(UnixDatagram, SocketAddr)>>,
    /// How often the watchdog wants to hear of us; half of its timeout.
    watchdog: Option<Duration>,
}

/// Sockets of a socket unit that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SocketError(String);

// === impl SocketError ===

impl SocketError {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

// === impl Notifier ===

impl Notifier {
    pub(super) fn from_env(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let number = |name: &str| get(name)?.to_str()?.parse::<u64>().ok();
        let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| for_us && *usec > 0);
        Self {
            target: get("NOTIFY_SOCKET").and_then(open).map(Arc::new),
            watchdog: watchdog.map(|usec| Duration::from_micros(usec / 2)),
        }
    }

    fn send(&self, message: &str) {
        if let Some(target) = &self.target {
            let (socket, address) = &**target;
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }

    /// Started, or done with a reload, whatever came of it.
    pub(super) fn ready(&self) {
        self.send("READY=1");
    }

    /// This process has replaced the main one.
    pub(super) fn ready_instead(&self) {
        self.send(&format!("MAINPID={}\nREADY=1", std::process::id()));
    }

    /// `Type=notify-reload` ignores a reload without the time, and takes both from one datagram only.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let usec = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=draining");
    }

    /// Sends status and watchdog messages until dropped. Runs on the control loop, whose health the watchdog watches.
    pub(super) async fn keep_reporting(self, handles: Handles) {
        if self.target.is_none() {
            return;
        }
        let period = self.watchdog.map_or(STATUS_CHECK, |watchdog| {
            watchdog.clamp(Duration::from_millis(1), STATUS_CHECK)
        });
        let mut sent: Option<(String, Instant)> = None;
        loop {
            if self.watchdog.is_some() {
                self.send("WATCHDOG=1");
            }
            let status = status(&handles);
            let is_current = sent
                .as_ref()
                .is_some_and(|(last, at)| *last == status && at.elapsed() < STATUS_MAX_AGE);
            if !is_current {
                self.send(&format!("STATUS={status}"));
                sent = Some((status, Instant::now()));
            }
            clock::aligned_sleep(period).await;
        }
    }
}

/// The datagram socket and where it sends to; a leading `@` stands for an abstract name.
fn open(name: OsString) -> Option<(UnixDatagram, SocketAddr)> {
    let text = name.to_str()?;
    let address = match text.strip_prefix('@') {
        Some(name) => abstract_address(name)?,
        None if text.starts_with('/') => SocketAddr::from_pathname(text).ok()?,
        None => return None,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address))
}

#[cfg(all(target_os = "linux", not(entryway_portable)))]
fn abstract_address(name: &str) -> Option<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name).ok()
}

#[cfg(any(not(target_os = "linux"), entryway_portable))]
fn abstract_address(_name: &str) -> Option<SocketAddr> {
    None
}

/// `active zone Z, N connections`; with several upstreams each zone with its upstream.
fn status(handles: &Handles) -> String {
    let several = handles.upstreams.len() > 1;
    let zones: Vec<String> = handles
        .upstreams
        .iter()
        .map(|upstream| {
            let snapshot = upstream.view.load();
            let zone = snapshot.active_zone.as_deref().unwrap_or("none");
            match several {
                true => format!("{zone} ({})", upstream.name),
                false => zone.to_owned(),
            }
        })
        .collect();
    let connections = handles.registry.len();
    format!("active zone {}, {connections} connections", zones.join(" "))
}

/// Gives each passed socket to the listener that it is named after, else to the first one. Per listener of the settings:
/// its sockets, none where its own addresses are to be bound.
pub(super) fn sockets(
    passed: Vec<PassedSocket>,
    listeners: &[ListenerSettings],
) -> Result<Vec<Vec<TcpListener>>, SocketError> {
    let mut sockets: Vec<Vec<TcpListener>> = listeners.iter().map(|_| Vec::new()).collect();
    for one in passed {
        let name = one.name.clone();
        let descriptor = one.descriptor.as_raw_fd();
        let socket = listening_tcp(one.descriptor).map_err(|why| {
            SocketError(format!(
                "descriptor {descriptor} (`{name}`) from the socket unit is {why}; \
                 its ListenStream= must be an IP address and port"
            ))
        })?;
        let index = listeners
            .iter()
            .position(|listener| listener.name == name)
            .unwrap_or(0);
        if let Some(of_listener) = sockets.get_mut(index) {
            of_listener.push(socket);
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, String)]) -> impl Fn(&str) -> Option<OsString> + use<> {
        let pairs: Vec<(String, String)> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        move |wanted| {
            let found = pairs.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.into())
        }
    }

    #[test]
    fn messages_reach_the_manager_and_never_wait_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::from_env(env(&[
            ("NOTIFY_SOCKET", path.display().to_string()),
            ("WATCHDOG_USEC", "3000000".into()),
        ]));
        assert_eq!(notifier.watchdog, Some(Duration::from_millis(1500)));
        notifier.ready();
        notifier.reloading();
        let mut buffer = [0; 200];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        let length = manager.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"RELOADING=1\nMONOTONIC_USEC="));
        // Nobody receives: more than any queue holds.
        for _ in 0..10_000 {
            notifier.ready();
        }
        drop(manager);
        std::fs::remove_file(&path).unwrap();
        notifier.stopping();
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_ours() {
        let other = env(&[
            ("WATCHDOG_USEC", "1000".into()),
            ("WATCHDOG_PID", "1".into()),
        ]);
        assert_eq!(Notifier::from_env(other).watchdog, None);
        assert!(
            Notifier::from_env(env(&[("NOTIFY_SOCKET", "relative".into())]))
                .target
                .is_none()
        );
    }
}
