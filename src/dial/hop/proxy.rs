//! A proxy at a fixed address, spoken to in SOCKS5 or HTTP CONNECT, over plain TCP or TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Credentials, HopFault, HopKind, Opening, Reached, Refusal, Via, connect, socks5};
use crate::addr::{HostPort, is_own_listener};
use crate::stream::Stream;
use crate::sys::file_stamp::FileStamp;
use crate::sys::local_address::is_local_address;

#[cfg(feature = "tls")]
use https::ProxyTls;

#[cfg(feature = "tls")]
mod https;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProxyProtocol {
    Socks5,
    Http,
}

/// A proxy, and how it is spoken to.
#[derive(Debug)]
pub(super) struct ProxyHop {
    pub(super) address: HostPort,
    pub(super) protocol: ProxyProtocol,
    route: ProxyRoute,
    kind: HopKind,
    files: ArcSwap<ProxyFiles>,
    /// What the files looked like when they were last read, successfully or not.
    seen: Mutex<Vec<FileStamp>>,
    /// Addresses we listen on, which are never dialled.
    own: Arc<[SocketAddr]>,
}

/// What the files of a proxy hold.
#[derive(Debug)]
pub(super) struct ProxyFiles {
    login: Option<Credentials>,
    #[cfg(feature = "tls")]
    tls: Option<ProxyTls>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProxyRoute {
    pub(super) address: HostPort,
    pub(super) user: Option<String>,
    pub(super) credentials_file: Option<PathBuf>,
    /// For `https`: authorities, certificate, key, server name.
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) server_name: Option<String>,
}

// === impl ProxyRoute ===

impl ProxyRoute {
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.credentials_file, &self.ca, &self.cert, &self.key]
            .into_iter()
            .flatten()
    }

    fn stamps(&self) -> Vec<FileStamp> {
        self.files().map(|file| FileStamp::of(file)).collect()
    }
}

// === impl ProxyFiles ===

impl ProxyFiles {
    fn read(kind: HopKind, route: &ProxyRoute) -> Result<Self, String> {
        let login = match &route.credentials_file {
            Some(file) => Some(Credentials::read(file, route.user.as_deref())?),
            None => None,
        };
        #[cfg(feature = "tls")]
        let tls = match kind {
            HopKind::Https => Some(ProxyTls::new(route)?),
            _ => None,
        };
        #[cfg(not(feature = "tls"))]
        if kind == HopKind::Https {
            return Err("this build of entryway has no TLS (its feature `tls`)".to_owned());
        }
        Ok(Self {
            login,
            #[cfg(feature = "tls")]
            tls,
        })
    }
}

// === impl ProxyHop ===

impl ProxyHop {
    pub(super) fn new(
        kind: HopKind,
        route: &ProxyRoute,
        own: Arc<[SocketAddr]>,
    ) -> Result<Self, String> {
        // Looked at before reading: a change while they are read is seen as one.
        let seen = route.stamps();
        Ok(Self {
            address: route.address.clone(),
            protocol: match kind {
                HopKind::Socks5 => ProxyProtocol::Socks5,
                _ => ProxyProtocol::Http,
            },
            route: route.clone(),
            kind,
            files: ArcSwap::from_pointee(ProxyFiles::read(kind, route)?),
            seen: Mutex::new(seen),
            own,
        })
    }

    async fn dial(&self) -> Result<TcpStream, HopFault> {
        dial(&self.address, &self.own).await
    }

    async fn ask<S>(
        &self,
        stream: &mut S,
        files: &ProxyFiles,
        to: &HostPort,
        limit: Duration,
    ) -> Result<(), Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let asked = async {
            match self.protocol {
                ProxyProtocol::Socks5 => socks5::connect(stream, to).await,
                ProxyProtocol::Http => connect::connect(stream, to, files.login.as_ref()).await,
            }
        };
        timeout(limit, asked).await.unwrap_or_else(|_late| {
            Err(Refusal::timed_out(
                "the hop gives no answer about the target in time",
            ))
        })
    }

    async fn greet<S>(&self, stream: &mut S, files: &ProxyFiles) -> Result<(), HopFault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match self.protocol {
            ProxyProtocol::Socks5 => socks5::greet(stream, files.login.as_ref()).await,
            ProxyProtocol::Http => Ok(()),
        }
    }
}

impl Via for ProxyHop {
    fn has_files(&self) -> bool {
        self.route.files().next().is_some()
    }

    fn read_files_again(&self) -> Option<Result<(), String>> {
        let found = self.route.stamps();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == found {
            return None;
        }
        *seen = found;
        let read = ProxyFiles::read(self.kind, &self.route);
        Some(read.map(|files| self.files.store(Arc::new(files))))
    }

    fn open<'a>(&'a self, to: &'a HostPort, limit: Duration) -> Opening<'a> {
        Box::pin(async move {
            let files = self.files.load_full();
            #[cfg(feature = "tls")]
            if let Some(tls) = &files.tls {
                return tls.open(self, &files, to, limit).await;
            }
            let reached = async {
                let mut tcp = self.dial().await?;
                self.greet(&mut tcp, &files).await?;
                Ok(tcp)
            };
            let mut tcp = within(limit, reached).await?;
            self.ask(&mut tcp, &files, to, limit).await?;
            Ok(Reached {
                stream: Stream::from(tcp),
                lease: None,
            })
        })
    }
}

/// A plain connection to a proxy; its name is resolved by the system. Addresses that lead to one of `own`, our listening
/// sockets, are not used: a front of ours that went through itself would go round until the descriptors run out.
pub(super) async fn dial(to: &HostPort, own: &[SocketAddr]) -> Result<TcpStream, HopFault> {
    let failed = |error| HopFault::new(format!("connect to the hop at {to}: {error}"));
    let found = tokio::net::lookup_host((to.host.as_str(), to.port)).await;
    let (ours, others): (Vec<_>, Vec<_>) = found
        .map_err(failed)?
        .partition(|socket| is_own_listener(*socket, own, is_local_address));
    if others.is_empty() && !ours.is_empty() {
        return Err(HopFault::new(format!(
            "the hop at {to} is our own listener"
        )));
    }
    let tcp = TcpStream::connect(&others[..]).await.map_err(failed)?;
    // A connection is worth more than an option.
    let _ = tcp.set_nodelay(true);
    Ok(tcp)
}

/// The first step has `limit`; a hop that takes longer is at fault.
pub(super) async fn within<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, HopFault>>,
) -> Result<T, HopFault> {
    timeout(limit, step)
        .await
        .unwrap_or_else(|_late| Err(HopFault::new("the hop does not answer in time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A front of ours that was its own proxy would connect to itself for every connection that it makes.
    #[tokio::test]
    async fn a_hop_that_is_our_own_listener_is_not_dialled() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        for (host, own) in [
            ("127.0.0.1", address),
            ("localhost", address),
            (
                "127.0.0.1",
                SocketAddr::from(([0, 0, 0, 0], address.port())),
            ),
        ] {
            let to = HostPort {
                host: host.to_owned(),
                port: address.port(),
            };
            let route = ProxyRoute {
                address: to,
                user: None,
                credentials_file: None,
                ca: None,
                cert: None,
                key: None,
                server_name: None,
            };
            let hop = ProxyHop::new(HopKind::Socks5, &route, Arc::new([own])).unwrap();
            let target = HostPort {
                host: "entry.test".to_owned(),
                port: 8182,
            };
            let refusal = hop
                .open(&target, Duration::from_secs(10))
                .await
                .unwrap_err();
            assert_eq!(refusal.about(), super::super::About::Hop);
            // The name may have an address that is not ours as well, which refuses.
            let said = refusal.to_string();
            assert!(
                said.contains("our own listener") || host == "localhost",
                "{host}: {said}"
            );
            let accepted = listener.accept().unwrap_err();
            assert_eq!(accepted.kind(), std::io::ErrorKind::WouldBlock, "{host}");
        }
    }
}
