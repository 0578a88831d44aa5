//! The halves against a model: streams that give and take random amounts, or nothing for a while.

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::stream::Wrapped;

/// What a stream was told and given.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    bytes: Vec<u8>,
    /// How many bytes had come when the end came.
    fin_at: Option<usize>,
    aborted: bool,
}

/// A stream whose every call follows a script: so many bytes, or (0) not now.
struct Stingy {
    says: Vec<u8>,
    said: usize,
    ends_in_reset: bool,
    reads: Vec<usize>,
    writes: Vec<usize>,
    turn: usize,
    /// A writer with a buffer of its own: bytes are heard once flushed.
    buffered: Vec<u8>,
    heard: Arc<Mutex<Heard>>,
}

impl Stingy {
    fn step(&mut self, script: fn(&Self) -> &Vec<usize>, cx: &Context<'_>) -> Option<usize> {
        self.turn += 1;
        let script = script(self);
        let amount = script[self.turn % script.len()];
        if amount == 0 {
            cx.waker().wake_by_ref();
            return None;
        }
        Some(amount)
    }
}

impl AsyncRead for Stingy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(amount) = self.step(|stream| &stream.reads, cx) else {
            return Poll::Pending;
        };
        if self.said == self.says.len() && self.ends_in_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let amount = amount.min(buf.remaining()).min(self.says.len() - self.said);
        buf.put_slice(&self.says[self.said..self.said + amount]);
        self.said += amount;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stingy {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(amount) = self.step(|stream| &stream.writes, cx) else {
            return Poll::Pending;
        };
        let amount = amount.min(buf.len());
        self.buffered.extend_from_slice(&buf[..amount]);
        Poll::Ready(Ok(amount))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.step(|stream| &stream.writes, cx).is_none() {
            return Poll::Pending;
        }
        let bytes = std::mem::take(&mut self.buffered);
        self.heard.lock().unwrap().bytes.extend(bytes);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut heard = self.heard.lock().unwrap();
        heard.fin_at = Some(heard.bytes.len());
        Poll::Ready(Ok(()))
    }
}

impl Wrapped for Stingy {
    fn move_here(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn is_open(&self) -> bool {
        true
    }

    fn abort(&mut self) {
        self.heard.lock().unwrap().aborted = true;
    }
}

#[derive(Debug, Clone)]
struct Script {
    length: usize,
    ends_in_reset: bool,
    reads: Vec<usize>,
    writes: Vec<usize>,
}

fn script() -> impl Strategy<Value = Script> {
    let amounts = || {
        // Never only zeros: such a stream never goes on.
        (
            prop::collection::vec(
                prop_oneof![Just(0), 1..10usize, 1..4000usize, Just(1 << 20)],
                0..8,
            ),
            1..5000usize,
        )
            .prop_map(|(mut amounts, last)| {
                amounts.push(last);
                amounts
            })
    };
    (
        prop_oneof![0..100usize, 0..600_000usize],
        prop::bool::weighted(0.2),
        amounts(),
        amounts(),
    )
        .prop_map(|(length, ends_in_reset, reads, writes)| Script {
            length,
            ends_in_reset,
            reads,
            writes,
        })
}

fn stingy(script: &Script, seed: u64) -> (Stream, Vec<u8>, Arc<Mutex<Heard>>) {
    let mut says = vec![0; script.length];
    pattern(seed, 0, &mut says);
    let heard = Arc::new(Mutex::new(Heard::default()));
    let stream = Stingy {
        says: says.clone(),
        said: 0,
        ends_in_reset: script.ends_in_reset,
        reads: script.reads.clone(),
        writes: script.writes.clone(),
        turn: 0,
        buffered: Vec::new(),
        heard: Arc::clone(&heard),
    };
    (Stream::Wrapped(Box::new(stream)), says, heard)
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[tokio::test]
async fn l7_an_elephant_yields_to_the_sockets_of_others() {
    elephant(false, 4 << 20).await;
    elephant(true, 1 << 20).await;
}

/// Relays 32 MiB, with or without polls of small connections in between, and checks what each poll moves.
async fn elephant(beside_mice: bool, most: u64) {
    let endless = |length| Script {
        length,
        ends_in_reset: false,
        reads: vec![1 << 20],
        writes: vec![1 << 20],
    };
    let ((mut down, ..), (mut up, ..)) = (stingy(&endless(32 << 20), 1), stingy(&endless(0), 2));
    let (stats, commands) = (ConnStats::default(), CommandChannel::default());
    let (answers, plan) = (Answers::default(), Plan::default());
    let args = super::args(&plan, &stats, &commands, &answers);
    let mut relay = relay(&mut down, &mut up, args);
    let mut polls = 0;
    let mut before = 0;
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    while Pin::new(&mut relay).poll(&mut cx).is_pending() {
        // Woken at once, it would be polled 61 times before the runtime looks at anybody's socket.
        assert_eq!(woken.0.swap(0, Relaxed), 0);
        tokio::task::yield_now().await;
        assert_ne!(woken.0.swap(0, Relaxed), 0);
        let bytes = stats.bytes(Direction::Upload);
        // The first poll also brings the other half's end, after which both are polled once more.
        let most = if polls == 0 { 8 << 20 } else { most };
        assert!(bytes - before <= most, "{} in one poll", bytes - before);
        (before, polls) = (bytes, polls + 1);
        if beside_mice {
            fairness::record_small_poll();
        }
    }
    assert_eq!(stats.bytes(Direction::Upload), 32 << 20);
    assert!(polls > (24 << 20) / most);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn conservation_order_and_ends(client in script(), server in script()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (down, asked, client_heard) = stingy(&client, 1);
        let (up, answered, server_heard) = stingy(&server, 2);
        let (stats, plan) = (Arc::new(ConnStats::default()), Plan::default());
        let outcome = runtime.block_on(run(down, up, Arc::clone(&stats), Arc::default(), Arc::default(), plan.clone()));
        let (client_heard, server_heard) = (client_heard.lock().unwrap(), server_heard.lock().unwrap());
        prop_assert_eq!(plan.shared.leftover_bytes(), 0);
        match outcome {
            Outcome::Finished { .. } => {
                prop_assert!(!client.ends_in_reset && !server.ends_in_reset);
                prop_assert!(server_heard.bytes == asked && client_heard.bytes == answered);
                prop_assert_eq!(server_heard.fin_at, Some(asked.len()));
                prop_assert_eq!(client_heard.fin_at, Some(answered.len()));
                prop_assert!(!server_heard.aborted && !client_heard.aborted);
                prop_assert_eq!(stats.bytes(Direction::Upload), asked.len() as u64);
                prop_assert_eq!(stats.bytes(Direction::Download), answered.len() as u64);
            }
            Outcome::Reset(from, Fault::Reset) => {
                // All that the reset side said has arrived before; nobody was shown a clean end of it.
                let (reset, heard, said) = match from {
                    Side::Downstream => (client.ends_in_reset, &server_heard, &asked),
                    Side::Upstream => (server.ends_in_reset, &client_heard, &answered),
                };
                prop_assert!(reset);
                prop_assert!(&heard.bytes == said);
                prop_assert_eq!(heard.fin_at, None);
                prop_assert!(server_heard.aborted && client_heard.aborted);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
