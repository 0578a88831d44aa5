//! Binds the admin listeners before anything is served, so that their addresses are known early and errors come at once.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::control::{self, ControlSocket, SocketPath};
use super::settings::{AdminSettings, Bind, ControlPath};
use crate::events::{Events, event};
use crate::http::HttpListener;
use crate::sandbox;
use crate::sys::port_owner::PortOwner;
use tokio::net::{TcpListener, UnixListener};

/// What was asked for by the user, as far as it changes how a listener is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct BindOptions {
    /// `admin.bind` comes from the user: taken is an error then, and not a reason to take another port.
    pub bind: bool,
    /// The first listener's port: names the control socket where admin HTTP is off.
    pub listener_port: u16,
}

/// A listener that cannot be opened and was asked for.
#[derive(Debug, thiserror::Error)]
#[error("bind {what} {address}: {}", .holder.as_ref().map_or_else(|| .error.to_string(), |holder| format!("in use by {holder}")))]
pub struct AdminBindError {
    /// `admin` or `metrics`.
    pub what: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    #[source]
    pub error: io::Error,
    /// Who has the port, where it can be seen.
    pub holder: Option<PortOwner>,
}

/// Bound listeners that are not served yet.
#[derive(Debug, Default)]
pub struct AdminListeners {
    admin: Option<TcpListener>,
    metrics: Option<TcpListener>,
    control: Option<(UnixListener, ControlSocket)>,
}

/// Copies of the sockets, for the process that replaces this one.
#[derive(Debug)]
pub struct AdminSockets {
    pub admin: Option<OwnedFd>,
    pub metrics: Option<OwnedFd>,
    /// With its path.
    pub control: Option<(OwnedFd, PathBuf)>,
    keep_control: Option<Arc<AtomicBool>>,
}

/// Sockets of the process that we replace.
#[derive(Debug, Default)]
pub struct InheritedAdmin {
    pub admin: Option<std::net::TcpListener>,
    pub metrics: Option<std::net::TcpListener>,
    /// With its path.
    pub control: Option<(std::os::unix::net::UnixListener, PathBuf)>,
}

/// Opens what the settings ask for, from what is inherited as far as the settings still ask for it. Needs a tokio runtime; blocks for no longer than a bind takes.
pub fn open(
    settings: &AdminSettings,
    asked: BindOptions,
    inherited: InheritedAdmin,
    events: &Events,
) -> Result<AdminListeners, AdminBindError> {
    let mut listeners = AdminListeners::default();
    if let Bind::At(address) = settings.bind {
        // Not asked for: it may be another port than the default one, which was taken.
        let fits = |at: SocketAddr| !asked.bind || is_same(at, address);
        listeners.admin = match adopt(inherited.admin, fits) {
            Some(socket) => Some(socket),
            None => Some(open_admin(address, asked.bind, events)?),
        };
    }
    if let Some(address) = settings.metrics_bind {
        listeners.metrics = match adopt(inherited.metrics, |at| is_same(at, address)) {
            Some(socket) => Some(socket),
            None => Some(listen("metrics", address)?),
        };
    }
    let port = listeners
        .admin_address()
        .map_or(asked.listener_port, |address| address.port());
    let path = match &settings.control {
        Some(ControlPath::Off) => None,
        Some(ControlPath::At(path)) => Some(SocketPath::Given(path.clone())),
        None => Some(control::default_path(
            |name| std::env::var_os(name),
            control::own_uid(),
            port,
        )),
    };
    if let Some(path) = path {
        let inherited = inherited.control.filter(|(_, at)| path.is_at(at));
        let control = match inherited {
            Some((socket, at)) => control::adopt(socket, at),
            None => control::bind_own(&path),
        };
        match control {
            Ok(control) => listeners.control = Some(control),
            Err(error) => event!(
                events,
                WARN,
                "resource",
                "no control socket: changes need the token, or a signal",
                error = %error,
                hint = "name a writable path with --control PATH, or set --control off",
            ),
        }
    }
    listeners.announce(events);
    Ok(listeners)
}

/// The folder of the control socket, made where it is ours to make, so that the sandbox can allow it.
pub fn control_folder(settings: &AdminSettings) -> Option<PathBuf> {
    let path = match &settings.control {
        Some(ControlPath::Off) => return None,
        Some(ControlPath::At(path)) => path.clone(),
        // The folder does not depend on the port.
        None => control::own_folder_of(&control::default_path(
            |name| std::env::var_os(name),
            control::own_uid(),
            0,
        )),
    };
    let folder = path.parent()?.to_owned();
    match folder.as_os_str().is_empty() {
        true => Some(PathBuf::from(".")),
        false => Some(folder),
    }
}

/// An inherited socket, if its address fits.
fn adopt(
    socket: Option<std::net::TcpListener>,
    fits: impl Fn(SocketAddr) -> bool,
) -> Option<TcpListener> {
    let socket = socket.filter(|socket| socket.local_addr().is_ok_and(fits))?;
    socket.set_nonblocking(true).ok()?;
    TcpListener::from_std(socket).ok()
}

/// Whether a bound address is the one that is asked for; port 0 asks for any.
fn is_same(bound: SocketAddr, asked: SocketAddr) -> bool {
    bound.ip() == asked.ip() && (asked.port() == 0 || asked.port() == bound.port())
}

/// The default port may be taken by another instance: any free one then, and a warning that says which.
fn open_admin(
    address: SocketAddr,
    asked: bool,
    events: &Events,
) -> Result<TcpListener, AdminBindError> {
    let first = match listen("admin", address) {
        Err(error) if !asked && error.error.kind() == io::ErrorKind::AddrInUse => error,
        other => return other,
    };
    let free = listen("admin", SocketAddr::new(address.ip(), 0))?;
    event!(
        events,
        WARN,
        "resource",
        "admin port in use by another program; using a free one",
        error = %first,
        address = free.local_addr().ok().map(display),
        hint = "set --admin ADDR for a fixed one",
    );
    Ok(free)
}

fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, AdminBindError> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind().map_err(|error| AdminBindError {
        what,
        address,
        holder: (error.kind() == io::ErrorKind::AddrInUse)
            .then(|| sandbox::port_owner(address))
            .flatten(),
        error,
    })
}

// === impl AdminSockets ===

impl AdminSockets {
    /// The control socket is another process's from now on: our end does not remove it.
    pub fn leave_control(&self) {
        if let Some(keep) = &self.keep_control {
            keep.store(true, Relaxed);
        }
    }
}

// === impl AdminListeners ===

impl AdminListeners {
    /// Where admin HTTP listens.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// Where metrics alone are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// The control socket's path.
    pub fn control_path(&self) -> Option<&Path> {
        self.control.as_ref().map(|(_, control)| control.path())
    }

    /// The ports these listeners hold: an endpoint that leads to one of them leads to ourselves.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.admin_address()
            .into_iter()
            .chain(self.metrics_address())
            .collect()
    }

    /// Copies of all sockets.
    pub fn copies(&self) -> io::Result<AdminSockets> {
        fn copy(socket: impl AsFd) -> io::Result<OwnedFd> {
            socket.as_fd().try_clone_to_owned()
        }
        let control = self.control.as_ref();
        Ok(AdminSockets {
            admin: self.admin.as_ref().map(copy).transpose()?,
            metrics: self.metrics.as_ref().map(copy).transpose()?,
            control: control
                .map(|(socket, control)| Ok::<_, io::Error>((copy(socket)?, control.path().into())))
                .transpose()?,
            keep_control: control.map(|(_, control)| control.keep()),
        })
    }

    fn announce(&self, events: &Events) {
        let up = |name: &str, address: String, remote: Option<bool>| {
            event!(
                events,
                INFO,
                "listener.up",
                "listening",
                name = name,
                address = address,
                remote = remote,
            );
        };
        if let Some(address) = self.admin_address() {
            up("admin", address.to_string(), None);
        }
        if let Some(address) = self.metrics_address() {
            let far = !address.ip().to_canonical().is_loopback();
            let everywhere = address.ip().is_unspecified() || address.ip() == Ipv6Addr::UNSPECIFIED;
            up("metrics", address.to_string(), Some(far || everywhere));
        }
        if let Some(path) = self.control_path() {
            up("control", path.display().to_string(), None);
        }
    }

    /// Admin, metrics, control, and the guard that removes the control socket.
    pub(super) fn split(
        self,
    ) -> (
        Option<HttpListener>,
        Option<HttpListener>,
        Option<HttpListener>,
        Option<ControlSocket>,
    ) {
        let (control, guard) = self.control.unzip();
        (
            self.admin.map(HttpListener::Tcp),
            self.metrics.map(HttpListener::Tcp),
            control.map(HttpListener::Unix),
            guard,
        )
    }
}
