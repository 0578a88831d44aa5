//! The relay between real sockets of the loopback, and, for timers, between duplexes with a paused clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::duration_window::DurationWindow;
use crate::events::Reason;
use crate::sys::pipe::PipeLimits;

mod buffers;
mod close;
mod commands;
mod framed;
mod handover;
mod model;
mod random;
mod resets;
mod timers;

/// Whether there are pipes to splice through; without them every byte goes through the buffer.
const PIPES: bool = cfg!(all(target_os = "linux", not(entryway_portable)));

/// A relay between two socket pairs, and the two far ends.
struct Rig {
    client: TcpStream,
    server: TcpStream,
    stats: Arc<ConnStats>,
    shared: Arc<RelayShared>,
    commands: Arc<CommandChannel>,
    answers: Arc<Answers>,
    /// How often it has moved.
    moves: Arc<AtomicU32>,
    done: JoinHandle<Outcome>,
}

/// Remembers what it is told of answers.
#[derive(Debug, Default)]
struct Answers {
    first_bytes: DurationWindow,
    framed: AtomicU32,
    complete: AtomicU32,
}

impl AnswerObserver for Answers {
    fn first_byte(&self, after: Duration, is_framed: bool) {
        self.first_bytes.record(after);
        self.framed.fetch_add(u32::from(is_framed), Relaxed);
    }

    fn complete(&self, answers: u32) {
        self.complete.fetch_add(answers, Relaxed);
    }
}

/// What a rig is built with.
#[derive(Clone)]
struct Plan {
    limits: Limits,
    shared: Arc<RelayShared>,
    may_retry: bool,
    /// Buffer sizes of the client's socket.
    client_buffers: Option<u32>,
    /// Between which threads it moves; here they are one.
    placement: Placement,
    /// Moves it after every few polls as well, by this seed.
    pauses: Option<u64>,
    /// How often it has moved.
    moves: Arc<AtomicU32>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            shared: Arc::new(RelayShared::new(PipeLimits {
                pages: 8192,
                large: 32,
                pipes: 512,
            })),
            may_retry: false,
            client_buffers: None,
            placement: Placement::Fixed,
            pauses: None,
            moves: Arc::default(),
        }
    }
}

impl Plan {
    fn buffer_only() -> Self {
        Self {
            limits: Limits {
                splice: false,
                ..Limits::default()
            },
            ..Self::default()
        }
    }

    fn framed() -> Self {
        Self {
            limits: Limits {
                framing: true,
                ..Limits::default()
            },
            ..Self::default()
        }
    }

    async fn rig(self) -> Rig {
        let (client, down) = pair(self.client_buffers).await;
        let (server, up) = pair(None).await;
        let (stats, commands) = (
            Arc::<ConnStats>::default(),
            Arc::<CommandChannel>::default(),
        );
        let answers = Arc::<Answers>::default();
        let done = tokio::spawn(run(
            down.into(),
            up.into(),
            Arc::clone(&stats),
            Arc::clone(&commands),
            Arc::clone(&answers),
            self.clone(),
        ));
        Rig {
            client,
            server,
            stats,
            commands,
            answers,
            moves: self.moves,
            shared: self.shared,
            done,
        }
    }
}

async fn run(
    mut down: Stream,
    mut up: Stream,
    stats: Arc<ConnStats>,
    commands: Arc<CommandChannel>,
    answers: Arc<Answers>,
    plan: Plan,
) -> Outcome {
    let mut random = plan.pauses.map(fastrand::Rng::with_seed);
    let mut placement = plan.placement;
    let mut resumed = None;
    loop {
        let mut args = args(&plan, &stats, &commands, &answers);
        args.placement = placement;
        args.resumed = resumed.take();
        let mut relay = relay(&mut down, &mut up, args);
        let mut polls = random.as_mut().map_or(u32::MAX, |random| random.u32(1..6));
        let outcome = std::future::poll_fn(|cx| {
            if polls == 0 && relay.reset.is_none() && relay.closing.is_none() {
                return Poll::Ready(Outcome::Misplaced(Box::new(relay.pause())));
            }
            polls = polls.saturating_sub(1);
            Pin::new(&mut relay).poll(cx).map(|ended| ended.outcome)
        })
        .await;
        drop(relay);
        let Outcome::Misplaced(paused) = outcome else {
            return outcome;
        };
        resumed = Some(Resumed::Paused(paused));
        placement = match placement {
            Placement::Fixed => Placement::Fixed,
            Placement::Shared => Placement::Bulk,
            Placement::Bulk => Placement::Shared,
        };
        plan.moves.fetch_add(1, Relaxed);
        down.move_here().unwrap();
        up.move_here().unwrap();
    }
}

fn args<'a>(
    plan: &'a Plan,
    stats: &'a ConnStats,
    commands: &'a CommandChannel,
    observer: &'a Answers,
) -> RelayArgs<'a> {
    RelayArgs {
        began: crate::clock::now(),
        limits: &plan.limits,
        stats,
        commands,
        observer,
        shared: &plan.shared,
        may_retry: plan.may_retry,
        unsent: Vec::new(),
        placement: plan.placement,
        resumed: None,
    }
}

/// A connected pair: the far end, then ours.
async fn pair(far_buffers: Option<u32>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = far_buffers {
        socket.set_recv_buffer_size(bytes).unwrap();
        socket.set_send_buffer_size(bytes).unwrap();
    }
    let far = socket
        .connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (near, _) = listener.accept().await.unwrap();
    if far_buffers.is_some() {
        // Else the near side takes megabytes before anything stands still.
        socket2::SockRef::from(&near)
            .set_send_buffer_size(64 << 10)
            .unwrap();
    }
    for stream in [&far, &near] {
        stream.set_nodelay(true).unwrap();
    }
    (far, near)
}

/// Bytes that tell where they belong: loss, repetition and reordering all show.
fn pattern(seed: u64, offset: usize, buf: &mut [u8]) {
    for (place, byte) in buf.iter_mut().enumerate() {
        let n = (offset + place) as u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *byte = (n ^ n >> 8 ^ n >> 17).wrapping_mul(31) as u8;
    }
}

async fn send_pattern(stream: &mut (impl tokio::io::AsyncWrite + Unpin), seed: u64, total: usize) {
    let mut buf = vec![0; 64 << 10];
    let mut offset = 0;
    while offset < total {
        let len = buf.len().min(total - offset);
        pattern(seed, offset, &mut buf[..len]);
        stream.write_all(&buf[..len]).await.unwrap();
        offset += len;
    }
}

/// Reads to the end and checks every byte; how many there were, and how the end looked.
async fn check_pattern(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
    seed: u64,
) -> (usize, io::Result<()>) {
    let (mut buf, mut expected) = (vec![0; 128 << 10], vec![0; 128 << 10]);
    let mut offset = 0;
    loop {
        match stream.read(&mut buf).await {
            Ok(0) => return (offset, Ok(())),
            Ok(len) => {
                pattern(seed, offset, &mut expected[..len]);
                assert!(
                    buf[..len] == expected[..len],
                    "wrong bytes between {offset} and {}",
                    offset + len
                );
                offset += len;
            }
            Err(error) => return (offset, Err(error)),
        }
    }
}

/// Waits for a condition; fails after ten seconds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = tokio::time::Instant::now();
    while !holds() {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "never happened: {what}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Nothing is left behind: no leftover, no pipe in use, no stall.
fn assert_clean(shared: &RelayShared, stats: &ConnStats) {
    assert_eq!(shared.leftover_bytes(), 0, "leftovers");
    assert_eq!(shared.pipes_in_use(), 0, "pipes");
    assert_eq!(shared.stalls(), 0, "stalls");
    assert_eq!(stats.pending(), 0, "pending");
}

#[tokio::test]
async fn both_ways_and_both_ends_in_order() {
    let mut rig = Plan::default().rig().await;
    for round in 0..100u8 {
        rig.client.write_all(&[round; 100]).await.unwrap();
        let mut buf = [0; 100];
        rig.server.read_exact(&mut buf).await.unwrap();
        assert_eq!(buf, [round; 100]);
        rig.server.write_all(&[round; 1000]).await.unwrap();
        rig.client.read_exact(&mut [0; 1000]).await.unwrap();
    }
    assert_eq!(rig.stats.lane(), "buffer");
    assert_eq!(rig.answers.first_bytes.count(), 100);
    rig.client.shutdown().await.unwrap();
    assert_eq!(rig.server.read(&mut [0; 1]).await.unwrap(), 0);
    rig.server.shutdown().await.unwrap();
    assert_eq!(rig.client.read(&mut [0; 1]).await.unwrap(), 0);
    let outcome = (&mut rig.done).await.unwrap();
    assert!(
        matches!(
            outcome,
            Outcome::Finished {
                first: Side::Downstream
            }
        ),
        "{outcome:?}"
    );
    assert_eq!(
        (
            rig.stats.bytes(Direction::Upload),
            rig.stats.bytes(Direction::Download)
        ),
        (10_000, 100_000)
    );
    assert_clean(&rig.shared, &rig.stats);
}

#[tokio::test]
async fn the_server_may_speak_first_and_end_first() {
    let mut rig = Plan::default().rig().await;
    rig.server.write_all(b"hello").await.unwrap();
    rig.server.shutdown().await.unwrap();
    let mut said = Vec::new();
    rig.client.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"hello");
    rig.client.write_all(b"late").await.unwrap();
    drop(rig.client);
    said.clear();
    rig.server.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"late");
    assert!(matches!(
        rig.done.await.unwrap(),
        Outcome::Finished {
            first: Side::Upstream
        }
    ));
}

/// Short connections never pay for them: the supervisor asks when a connection is old enough.
#[tokio::test]
async fn the_upstream_leg_gets_its_options_when_it_is_asked_to() {
    let plan = Plan::default();
    let ((_client, down), (_server, up)) = (pair(None).await, pair(None).await);
    let socket = std::os::fd::AsFd::as_fd(&up).try_clone_to_owned().unwrap();
    let socket = socket2::SockRef::from(&socket);
    let (stats, commands, answers) = (
        ConnStats::default(),
        CommandChannel::default(),
        Answers::default(),
    );
    let (mut down, mut up) = (Stream::from(down), Stream::from(up));
    let args = args(&plan, &stats, &commands, &answers);
    let mut relay = std::pin::pin!(relay(&mut down, &mut up, args));
    let mut poll = async || {
        let waited = tokio::time::timeout(Duration::ZERO, relay.as_mut()).await;
        assert!(waited.is_err());
    };
    poll().await;
    assert!(!socket.keepalive().unwrap());
    assert!(!commands.has_options());
    commands.set_options();
    poll().await;
    assert!(socket.keepalive().unwrap());
    let wanted = plan.limits.tcp;
    assert_eq!(
        socket.tcp_keepalive_time().unwrap(),
        wanted.keepalive.unwrap()
    );
    // There is none elsewhere.
    #[cfg(all(target_os = "linux", not(entryway_portable)))]
    assert_eq!(
        socket.tcp_user_timeout().unwrap(),
        wanted.resting_user_timeout()
    );
    // Once is enough, until there is another upstream.
    socket.set_keepalive(false).unwrap();
    commands.set_options();
    poll().await;
    assert!(!socket.keepalive().unwrap());
    commands.begin_upstream();
    commands.set_options();
    poll().await;
    assert!(socket.keepalive().unwrap());
}
