//! A proxy at a fixed address, spoken to in SOCKS5 or HTTP CONNECT, over plain TCP or TLS.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Credentials, HopFault, HopKind, Opening, Reached, Refusal, Via, connect, socks5};
use crate::addr::HostPort;
use crate::stream::Stream;
use crate::sys::socket::{self, TcpOptions};
use crate::tls::{self, ClientFiles, TlsStream};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Socks5,
    Http,
}

/// A proxy, and how it is spoken to.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) address: HostPort,
    pub(super) protocol: Protocol,
    pub(super) login: Option<Credentials>,
    pub(super) tls: Option<ProxyTls>,
    pub(super) tcp: TcpOptions,
}

/// TLS to the proxy itself.
#[derive(Debug)]
pub(super) struct ProxyTls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
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

// === impl Proxy ===

impl Proxy {
    pub(super) fn new(kind: HopKind, route: &ProxyRoute, tcp: TcpOptions) -> Result<Self, String> {
        let login = match &route.credentials_file {
            Some(file) => Some(Credentials::read(file, route.user.as_deref())?),
            None => None,
        };
        let tls = match kind {
            HopKind::Https => {
                let files = ClientFiles {
                    ca: route.ca.clone(),
                    cert: route.cert.clone(),
                    key: route.key.clone(),
                };
                let name = route.server_name.as_ref().unwrap_or(&route.address.host);
                Some(ProxyTls {
                    config: tls::client_config(&files).map_err(|error| error.to_string())?,
                    server_name: ServerName::try_from(name.clone())
                        .map_err(|_bad| format!("`{name}` cannot be the name of a server"))?,
                })
            }
            _ => None,
        };
        Ok(Self {
            address: route.address.clone(),
            protocol: match kind {
                HopKind::Socks5 => Protocol::Socks5,
                _ => Protocol::Http,
            },
            login,
            tls,
            tcp,
        })
    }

    async fn dial(&self) -> Result<TcpStream, HopFault> {
        dial(&self.address, &self.tcp).await
    }

    async fn ask<S>(&self, stream: &mut S, to: &HostPort, limit: Duration) -> Result<(), Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let asked = async {
            match self.protocol {
                Protocol::Socks5 => socks5::connect(stream, to).await,
                Protocol::Http => connect::connect(stream, to, self.login.as_ref()).await,
            }
        };
        timeout(limit, asked).await.unwrap_or_else(|_late| {
            Err(Refusal::timed_out(
                "the hop gives no answer about the target in time",
            ))
        })
    }

    async fn greet<S>(&self, stream: &mut S) -> Result<(), HopFault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match self.protocol {
            Protocol::Socks5 => socks5::greet(stream, self.login.as_ref()).await,
            Protocol::Http => Ok(()),
        }
    }
}

impl Via for Proxy {
    fn open<'a>(&'a self, to: &'a HostPort, limit: Duration) -> Opening<'a> {
        Box::pin(async move {
            let Some(tls) = &self.tls else {
                let reached = async {
                    let mut tcp = self.dial().await?;
                    self.greet(&mut tcp).await?;
                    Ok(tcp)
                };
                let mut tcp = within(limit, reached).await?;
                self.ask(&mut tcp, to, limit).await?;
                return Ok(Reached {
                    stream: Stream::from(tcp),
                    lease: None,
                });
            };
            let reached = async {
                let tcp = self.dial().await?;
                let connector = TlsConnector::from(Arc::clone(&tls.config));
                let handshake = connector.connect(tls.server_name.clone(), tcp).await;
                let mut tls = handshake.map_err(|error| HopFault::new(format!("TLS: {error}")))?;
                self.greet(&mut tls).await?;
                Ok(tls)
            };
            let mut tls = within(limit, reached).await?;
            self.ask(&mut tls, to, limit).await?;
            Ok(Reached {
                stream: Stream::Wrapped(Box::new(TlsStream::new(tls, Bytes::new()))),
                lease: None,
            })
        })
    }
}

/// A plain connection to a proxy; its name is resolved by the system.
pub(super) async fn dial(to: &HostPort, options: &TcpOptions) -> Result<TcpStream, HopFault> {
    let connected = TcpStream::connect((to.host.as_str(), to.port)).await;
    let tcp =
        connected.map_err(|error| HopFault::new(format!("connect to the hop at {to}: {error}")))?;
    // A connection is worth more than an option.
    let _ = tcp.set_nodelay(true);
    let _ = socket::keepalive(&tcp, options);
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
