//! How a client that gets no upstream is parted from.
//!
//! A FIN, after what it sent has been read off: closing with unread bytes would be a reset, and a client that is
//! reset right after its accept gives up instead of trying again (reference: the real client). What is read off is
//! dropped; nothing of it ever went upstream.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::events::Reason;
use crate::stream::Stream;
use crate::sys::socket::Fault;

/// How long a client that has our FIN may take to send its own. Then the socket is closed under it.
const LINGER: Duration = Duration::from_secs(1);

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// In order.
    Fin,
    /// By a reset, because what happened upstream was one, or because time is up.
    Reset,
    /// The client is gone; nobody is left to tell.
    Gone,
}

// === impl Manner ===

impl Manner {
    /// How the client is parted from when this is how its last upstream ended.
    pub(super) fn of(fault: Option<Fault>) -> Self {
        fault.map_or(Manner::Fin, |_| Manner::Reset)
    }

    /// The reason, where this is how an upstream ended that accepted and said nothing.
    pub(super) fn reason(self) -> Reason {
        match self {
            Manner::Fin | Manner::Gone => Reason::UpstreamFin,
            Manner::Reset => Reason::UpstreamRst,
        }
    }
}

/// Parts from the client.
pub(super) async fn part(down: &mut Stream, manner: Manner) {
    match manner {
        Manner::Gone => {}
        Manner::Reset => down.abort(),
        Manner::Fin => {
            let mut ended = false;
            std::future::poll_fn(|cx| {
                ended = discard(down, cx).is_ready();
                Poll::Ready(())
            })
            .await;
            let closed = match down {
                Stream::Tcp(tcp) => tcp.shutdown().await,
                Stream::Wrapped(wrapped) => wrapped.shutdown().await,
            };
            if !ended && closed.is_ok() {
                let rest = std::future::poll_fn(|cx| discard(down, cx));
                // Too late is as good as ended: it had its time.
                let _ = tokio::time::timeout(LINGER, rest).await;
            }
        }
    }
}

/// Reads off and drops; ready at the client's end.
fn discard(down: &mut Stream, cx: &mut Context<'_>) -> Poll<()> {
    /// Reads before the task gives way to others.
    const TURNS: usize = 16;
    let mut space = [0; 4096];
    for _ in 0..TURNS {
        let mut buf = ReadBuf::new(&mut space);
        let read = match down {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_read(cx, &mut buf),
            Stream::Wrapped(wrapped) => Pin::new(wrapped).poll_read(cx, &mut buf),
        };
        match read {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
            Poll::Ready(_) => return Poll::Ready(()),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}
