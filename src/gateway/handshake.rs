//! TLS handshakes, bounded in number and time.
//!
//! A handshake costs memory and CPU before anything is known of the peer. Above the limit the oldest peer that has not
//! sent a byte gives way, so that peers that connect and stay silent cannot keep others out; where all have, the oldest.
//! The slot is kept until the request is there: a peer with a certificate that asks for nothing costs as much.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::TlsSocket;
use crate::tls::identity::Identity;
use crate::tls::reload::{ServerTls, refusal_label};

/// After a refusal: how long, and for how many bytes, the connection is kept so that the peer can read why.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 64 * 1024);

/// A peer that has proved who it is.
#[derive(Debug)]
pub(super) struct Peer {
    pub tls: TlsStream<TlsSocket>,
    pub identity: Identity,
    pub chain: Vec<CertificateDer<'static>>,
}

/// Why there is no peer.
#[derive(Debug)]
pub(super) struct HandshakeRefused {
    /// Value of the metric label `result`.
    pub label: &'static str,
    pub error: String,
}

/// The handshakes in progress.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    next: u64,
    /// In the order in which they began.
    open: BTreeMap<u64, HandshakeSlot>,
}

#[derive(Debug)]
struct HandshakeSlot {
    /// It has sent something.
    spoken: bool,
    give_way: Arc<Notify>,
}

/// One of them; its end frees the slot.
pub(super) struct Ticket<'a> {
    handshakes: &'a Handshakes,
    id: u64,
    give_way: Arc<Notify>,
}

// === impl Handshakes ===

impl Handshakes {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot, for which another may have to give way.
    pub(super) fn enter(&self, limit: usize) -> Ticket<'_> {
        let mut slots = self.slots();
        if slots.open.len() >= limit.max(1) {
            let silent = slots.open.iter().find(|(_, slot)| !slot.spoken);
            if let Some(oldest) = silent
                .or_else(|| slots.open.iter().next())
                .map(|(id, _)| *id)
                && let Some(slot) = slots.open.remove(&oldest)
            {
                slot.give_way.notify_one();
            }
        }
        let id = slots.next;
        slots.next += 1;
        let give_way = Arc::new(Notify::new());
        let slot = HandshakeSlot {
            spoken: false,
            give_way: Arc::clone(&give_way),
        };
        slots.open.insert(id, slot);
        Ticket {
            handshakes: self,
            id,
            give_way,
        }
    }
}

// === impl Ticket ===

impl Ticket<'_> {
    /// What resolves when the peer has to give way to another; never once the ticket is dropped.
    pub(super) fn give_way(&self) -> Arc<Notify> {
        Arc::clone(&self.give_way)
    }

    /// Performs one handshake. `None`: the peer left without having sent anything, or had to give way.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        tls: &ServerTls,
        time: Duration,
    ) -> Option<Result<Peer, HandshakeRefused>> {
        tokio::select! {
            done = self.perform(stream, tls, time) => done,
            () = self.give_way.notified() => None,
        }
    }

    async fn perform(
        &self,
        stream: TcpStream,
        tls: &ServerTls,
        time: Duration,
    ) -> Option<Result<Peer, HandshakeRefused>> {
        let deadline = Instant::now() + time;
        let timed_out = || HandshakeRefused {
            label: "timeout",
            error: format!(
                "no complete handshake within {}",
                crate::duration::show(time)
            ),
        };
        match timeout_at(deadline, stream.peek(&mut [0])).await {
            Err(_) => return Some(Err(timed_out())),
            Ok(Ok(0) | Err(_)) => return None,
            Ok(Ok(_)) => self.has_spoken(),
        }
        if !tls.is_valid() {
            return Some(Err(HandshakeRefused {
                label: "expired",
                error: "the gateway's own certificate has expired".to_owned(),
            }));
        }
        let accept = TlsAcceptor::from(Arc::clone(&tls.config))
            .accept(TlsSocket::new(stream))
            .into_fallible();
        let done = timeout_at(deadline, accept).await;
        Some(match done {
            Err(_) => Err(timed_out()),
            Ok(Ok(tls)) => Peer::of(tls),
            Ok(Err((error, stream))) => {
                let refused = HandshakeRefused::of(&error);
                linger(stream).await;
                Err(refused)
            }
        })
    }

    fn has_spoken(&self) {
        if let Some(slot) = self.handshakes.slots().open.get_mut(&self.id) {
            slot.spoken = true;
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.handshakes.slots().open.remove(&self.id);
    }
}

// === impl Peer ===

impl Peer {
    fn of(tls: TlsStream<TlsSocket>) -> Result<Self, HandshakeRefused> {
        let refused = |error: String| HandshakeRefused {
            label: "usage",
            error,
        };
        let chain: Vec<CertificateDer<'static>> = tls
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        let leaf = chain
            .first()
            .ok_or_else(|| refused("no certificate".to_owned()))?;
        let identity = Identity::of(leaf).map_err(|error| refused(error.to_string()))?;
        Ok(Self {
            tls,
            identity,
            chain,
        })
    }
}

// === impl Refused ===

impl HandshakeRefused {
    fn of(error: &io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        Self {
            label: tls.map_or("protocol", refusal_label),
            error: tls.map_or_else(|| error.to_string(), ToString::to_string),
        }
    }
}

/// Sends FIN behind the alert and reads what the peer has still sent: a close with unread bytes would reset the
/// connection, and the alert with the reason could be lost.
async fn linger(mut stream: TlsSocket) {
    use tokio::io::AsyncWriteExt;
    let drain = async {
        stream.shutdown().await?;
        let mut left = LINGER.1;
        let mut buffer = [0; 4096];
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    let _ = timeout(LINGER.0, drain).await;
}
