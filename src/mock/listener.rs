//! A zone's listening socket (open, closed or with a full accept queue) and what happens to a new connection.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::answer;
use super::mode::{Listening, ZoneMode};
use super::zone::{ModeChange, Zone};

/// Length of the accept queue while open.
const BACKLOG: i32 = 4096;
/// Length asked for while full. Linux queues one more than asked for. Not 0: without SYN cookies a queue of length 0
/// takes nothing at all, and our own connections must get in to know that it is full.
const FULL_BACKLOG: i32 = 1;
/// A loopback connect that takes longer than this has met a full queue.
const FILL_PATIENCE: Duration = Duration::from_millis(50);
/// How long a connection closed by mode `fin` is read off, so that its FIN does not become a reset.
const FIN_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum ListenerState {
    Open(TcpListener),
    /// With our own connections in its queue, which are not accepted.
    Full(TcpListener, Vec<TcpStream>),
    Closed,
}

/// Binds and listens; the address may still have connections of an earlier listener.
pub(super) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts for a zone and applies its mode changes until the mock ends.
pub(super) async fn run(
    zone: Arc<Zone>,
    socket: StdListener,
    mut changes: mpsc::Receiver<ModeChange>,
) {
    let mut state = match TcpListener::from_std(socket) {
        Ok(listener) => ListenerState::Open(listener),
        Err(_) => ListenerState::Closed,
    };
    loop {
        tokio::select! {
            biased;
            change = changes.recv() => {
                let Some(ModeChange { mode, done }) = change else { return };
                let (now, outcome) = apply(state, &zone, mode.listening()).await;
                state = now;
                if outcome.is_ok() {
                    zone.mode.send_replace(mode);
                }
                // The one who asked may have gone away.
                let _ = done.send(outcome);
            }
            accepted = accept(&state) => match accepted {
                Ok(stream) => handle_accept(&zone, stream),
                // Out of descriptors, or a connection that died in the queue: neither ends a mock.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

async fn accept(state: &ListenerState) -> io::Result<TcpStream> {
    match state {
        ListenerState::Open(listener) => Ok(listener.accept().await?.0),
        ListenerState::Full(..) | ListenerState::Closed => std::future::pending().await,
    }
}

/// Makes the listening socket what a mode wants it to be.
async fn apply(
    state: ListenerState,
    zone: &Arc<Zone>,
    wanted: Listening,
) -> (ListenerState, io::Result<()>) {
    match (wanted, state) {
        (Listening::Closed, ListenerState::Open(listener)) => {
            // What is in the queue has connected before the switch, so it is accepted.
            accept_empty(&listener, zone, &[]);
            (ListenerState::Closed, Ok(()))
        }
        (Listening::Closed, _) => (ListenerState::Closed, Ok(())),
        (Listening::Full, ListenerState::Full(listener, fill)) => {
            (ListenerState::Full(listener, fill), Ok(()))
        }
        (Listening::Open, ListenerState::Open(listener)) => (ListenerState::Open(listener), Ok(())),
        (_, state) => {
            let opened = match state {
                ListenerState::Open(listener) => Ok(listener),
                ListenerState::Full(listener, fill) => reopen(listener, fill, zone),
                ListenerState::Closed => bind_again(zone.address()).await,
            };
            match opened {
                Err(error) => (ListenerState::Closed, Err(error)),
                Ok(listener) if wanted == Listening::Full => match fill(&listener, zone).await {
                    Ok(fill) => (ListenerState::Full(listener, fill), Ok(())),
                    Err(error) => (ListenerState::Open(listener), Err(error)),
                },
                Ok(listener) => (ListenerState::Open(listener), Ok(())),
            }
        }
    }
}

/// Fills the accept queue with our own connections until they are all that is in it.
async fn fill(listener: &TcpListener, zone: &Arc<Zone>) -> io::Result<Vec<TcpStream>> {
    rustix::net::listen(listener, FULL_BACKLOG)?;
    for _ in 0..100 {
        accept_empty(listener, zone, &[]);
        let mut fill = Vec::new();
        while fill.len() <= usize::try_from(FULL_BACKLOG).unwrap_or_default() {
            match timeout(FILL_PATIENCE, TcpStream::connect(zone.address())).await {
                Ok(stream) => fill.push(stream?),
                // Another connection got in between: take it out and start over.
                Err(_) => break,
            }
        }
        if fill.len() > usize::try_from(FULL_BACKLOG).unwrap_or_default() {
            return Ok(fill);
        }
        accept_empty(listener, zone, &fill);
    }
    rustix::net::listen(listener, BACKLOG)?;
    Err(io::Error::other("the accept queue could not be filled"))
}

fn reopen(
    listener: TcpListener,
    fill: Vec<TcpStream>,
    zone: &Arc<Zone>,
) -> io::Result<TcpListener> {
    accept_empty(&listener, zone, &fill);
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Accepts what is in the queue now, without waiting. Our own connections are dropped uncounted.
fn accept_empty(listener: &TcpListener, zone: &Arc<Zone>, fill: &[TcpStream]) {
    let own: Vec<SocketAddr> = fill.iter().filter_map(|s| s.local_addr().ok()).collect();
    // The std listener under it is asked directly: tokio's readiness may lag behind the queue.
    while let Ok((socket, peer)) = SockRef::from(listener).accept() {
        if peer.as_socket().is_some_and(|peer| own.contains(&peer)) {
            continue;
        }
        if socket.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(socket.into())
        {
            handle_accept(zone, stream);
        }
    }
}

async fn bind_again(address: SocketAddr) -> io::Result<TcpListener> {
    let mut tries = 40;
    loop {
        match bind(address).and_then(TcpListener::from_std) {
            Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => tries -= 1,
            other => return other,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Serves a new connection as the mode has it.
fn handle_accept(zone: &Arc<Zone>, mut stream: TcpStream) {
    zone.accepted.fetch_add(1, Relaxed);
    match zone.mode() {
        ZoneMode::Rst => {
            // If it fails the connection is gone already.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        ZoneMode::Fin => {
            tokio::spawn(async move {
                let read_off = async {
                    stream.shutdown().await?;
                    let mut scratch = [0; 4096];
                    while stream.read(&mut scratch).await? > 0 {}
                    io::Result::Ok(())
                };
                // However it ends, the connection is closed then.
                let _ = timeout(FIN_PATIENCE, read_off).await;
            });
        }
        _ => {
            // Without it only latency suffers.
            let _ = stream.set_nodelay(true);
            tokio::spawn(answer::serve(Arc::clone(zone), stream));
        }
    }
}
