//! The socket below TLS, which reads ahead.
//!
//! rustls asks for 4 KiB at a time, which would be four system calls for one record, and one record is all that it hands
//! out. Here one call takes what has arrived, and TLS takes it from memory. The memory is the thread's while the bytes are
//! on their way through, so that a connection at rest has none.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What one call takes at most: more than a dozen records.
const AHEAD: usize = 256 * 1024;

thread_local! {
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// A TCP socket whose bytes TLS reads.
#[derive(Debug)]
pub struct TlsSocket {
    tcp: TcpStream,
    /// What has been received and TLS has not taken.
    ahead: Option<ReadAhead>,
}

#[derive(Debug)]
struct ReadAhead {
    memory: Box<[u8]>,
    taken: usize,
    filled: usize,
}

// === impl TlsSocket ===

impl TlsSocket {
    pub fn new(tcp: TcpStream) -> Self {
        Self { tcp, ahead: None }
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(super) fn tcp_mut(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// Whether bytes are here that need no call.
    pub(super) fn has_more(&self) -> bool {
        self.ahead.is_some()
    }

    /// Nobody reads for now: what is left keeps no more memory than it needs.
    pub(super) fn rest(&mut self) {
        if let Some(ahead) = &mut self.ahead
            && ahead.memory.len() == AHEAD
        {
            let left: Box<[u8]> = ahead.memory[ahead.taken..ahead.filled].into();
            (ahead.taken, ahead.filled) = (0, left.len());
            SPARE.set(Some(std::mem::replace(&mut ahead.memory, left)));
        }
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut ahead = match this.ahead.take() {
            Some(ahead) => ahead,
            None => {
                let memory = SPARE.take();
                let mut ahead = ReadAhead {
                    memory: memory.unwrap_or_else(|| vec![0; AHEAD].into_boxed_slice()),
                    taken: 0,
                    filled: 0,
                };
                let mut read = ReadBuf::new(&mut ahead.memory);
                let polled = Pin::new(&mut this.tcp).poll_read(cx, &mut read);
                ahead.filled = read.filled().len();
                if ahead.filled == 0 {
                    SPARE.set(Some(ahead.memory));
                    ready!(polled)?;
                    return Poll::Ready(Ok(()));
                }
                ahead
            }
        };
        let left = &ahead.memory[ahead.taken..ahead.filled];
        let length = left.len().min(buf.remaining());
        buf.put_slice(&left[..length]);
        ahead.taken += length;
        if ahead.taken < ahead.filled {
            this.ahead = Some(ahead);
        } else if ahead.memory.len() == AHEAD {
            SPARE.set(Some(ahead.memory));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_come_in_order_and_memory_is_given_back() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (here, there) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut socket, (mut peer, _)) = (TlsSocket::new(here.unwrap()), there.unwrap());
        let sent: Vec<u8> = (0..3 * AHEAD).map(|place| (place % 251) as u8).collect();
        let all = sent.clone();
        let sending = tokio::spawn(async move {
            peer.write_all(&all).await.unwrap();
            peer.shutdown().await.unwrap();
            peer
        });
        let (mut got, mut turn) = (Vec::new(), 0);
        let mut buffer = [0; 4096];
        loop {
            let read = socket.read(&mut buffer).await.unwrap();
            if read == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..read]);
            turn += 1;
            if turn % 7 == 0 {
                socket.rest();
                let kept = socket.ahead.as_ref();
                assert!(kept.is_none_or(|left| left.memory.len() < AHEAD));
            }
        }
        assert!(got == sent);
        assert!(!socket.has_more());
        drop(sending.await.unwrap());
    }
}
