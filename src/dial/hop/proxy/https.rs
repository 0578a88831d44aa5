//! TLS to the proxy itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::{ProxyFiles, ProxyHop, ProxyRoute, within};
use crate::addr::HostPort;
use crate::dial::hop::{HopFault, Reached, Refusal};
use crate::stream::Stream;
use crate::tls::{self, ClientFiles, TlsSocket, TlsStream};

#[derive(Debug)]
pub(super) struct ProxyTls {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

// === impl ProxyTls ===

impl ProxyTls {
    pub(super) fn new(route: &ProxyRoute) -> Result<Self, String> {
        let files = ClientFiles {
            ca: route.ca.clone(),
            cert: route.cert.clone(),
            key: route.key.clone(),
        };
        let name = route.server_name.as_ref().unwrap_or(&route.address.host);
        Ok(Self {
            config: tls::client_config(&files).map_err(|error| error.to_string())?,
            server_name: ServerName::try_from(name.clone())
                .map_err(|_bad| format!("`{name}` cannot be the name of a server"))?,
        })
    }

    /// One TLS connection to `proxy`, and through it to `to`.
    pub(super) async fn open(
        &self,
        proxy: &ProxyHop,
        files: &ProxyFiles,
        to: &HostPort,
        limit: Duration,
    ) -> Result<Reached, Refusal> {
        let reached = async {
            let tcp = proxy.dial().await?;
            let connector = TlsConnector::from(Arc::clone(&self.config));
            let handshake = connector
                .connect(self.server_name.clone(), TlsSocket::new(tcp))
                .await;
            let mut tls = handshake.map_err(|error| {
                HopFault::of_tls(&error).unwrap_or_else(|| HopFault::new(format!("TLS: {error}")))
            })?;
            proxy.greet(&mut tls, files).await?;
            Ok(tls)
        };
        let mut tls = within(limit, reached).await?;
        proxy.ask(&mut tls, files, to, limit).await?;
        Ok(Reached {
            stream: Stream::Wrapped(Box::new(TlsStream::new(tls, Bytes::new()))),
            lease: None,
        })
    }
}
