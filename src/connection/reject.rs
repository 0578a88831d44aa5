//! How a client that gets no upstream is closed.
//!
//! By a FIN, after what it sent has been read off: closing with unread bytes would be a reset, and Datomic's client
//! gives up when it is reset right after its connect, but tries again after a FIN. What is read off is dropped;
//! nothing of it ever went upstream.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::events::Reason;
use crate::stream::Stream;
use crate::sys::socket::{self, Fault};

/// How long a client that has our FIN may take to send its own. Then the socket is closed under it.
const LINGER: Duration = Duration::from_secs(1);

/// How a client's side is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseMode {
    /// By a FIN.
    Fin,
    /// By a reset, because the upstream ended by one, or because the time is up.
    Reset,
    /// Without a word: the client is gone.
    Gone,
}

// === impl CloseMode ===

impl CloseMode {
    /// How to close when the last upstream ended like this.
    pub(super) fn of(fault: Option<Fault>) -> Self {
        fault.map_or(CloseMode::Fin, |_| CloseMode::Reset)
    }

    /// The reason, where this is how an upstream ended that accepted and sent nothing.
    pub(super) fn reason(self) -> Reason {
        match self {
            CloseMode::Fin | CloseMode::Gone => Reason::UpstreamFin,
            CloseMode::Reset => Reason::UpstreamRst,
        }
    }
}

/// Closes the client's side.
pub(super) async fn close(down: &mut Stream, mode: CloseMode) {
    match mode {
        CloseMode::Gone => {}
        CloseMode::Reset => down.abort(),
        CloseMode::Fin => {
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
                // A client that does not end in time is closed all the same.
                let _ = tokio::time::timeout(LINGER, rest).await;
            }
        }
    }
}

/// Reads off and drops; ready at the client's end.
fn discard(down: &mut Stream, cx: &mut Context<'_>) -> Poll<()> {
    /// Reads before the task yields.
    const TURNS: usize = 16;
    let mut space = [0; 4096];
    for _ in 0..TURNS {
        // Asks the socket itself: while the client was held, its readiness was taken off the reactor.
        if let Stream::Tcp(tcp) = down
            && let Ok(bytes) = socket::recv(tcp, &mut space)
        {
            if bytes == 0 {
                return Poll::Ready(());
            }
            continue;
        }
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
