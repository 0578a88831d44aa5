//! Carries one connection through its toxics, in place of the relay, and gives it back when the last one is gone.
//!
//! What the relay had in its buffers goes out first. An end stays what it was: a FIN goes through the toxics as the last
//! thing, a reset is passed on behind everything that came before it. Time spent in a toxic is no answer that is late,
//! and makes no address suspect; what a drill does to a connection looks as if its upstream did it, and does.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::drill::LiveFault;
use super::pipeline::{Item, Pipeline};
use super::toxic::Toxic;
use crate::activity::Activity;
use crate::clock;
use crate::connection::{Diversion, DiversionEnd, Entry};
use crate::events::Reason;
use crate::relay::{ConnectionCommand, Diverted, Limits, Outcome, SourceState};
use crate::stream::Stream;
use crate::sys::socket::{self, Fault, fault_of};
use crate::types::{Direction, Side};

/// One read, as Toxiproxy copies.
const CHUNK: usize = 32 * 1024;
/// How long a client that is closed may take to end its side.
const LINGER: Duration = Duration::from_secs(1);
/// How often the timers of the connection are checked.
const CHECK: Duration = Duration::from_millis(100);

/// A stream as tokio's traits see it.
struct Io<'a>(&'a mut Stream);

/// Which toxics a direction of a connection has now.
pub(super) trait Chain: Sync {
    fn toxics(&self, direction: Direction) -> Vec<Arc<Toxic>>;
    /// Whether the connection has any, in either direction.
    fn is_clear(&self) -> bool;
    /// What a drill does to it.
    fn live_fault(&self) -> Option<LiveFault>;
    /// Whether it is to end, because its proxy is disabled or gone.
    fn is_closed(&self) -> bool;
}

/// How one direction ended.
enum CarriedEnd {
    /// The source's FIN was passed on.
    Finished,
    /// No toxics any more; bytes that the destination has not taken yet, and what is known of the source.
    Clear(Vec<u8>, SourceState),
    /// A toxic closes the connection.
    Close,
    /// A toxic resets it.
    Reset,
    SourceReset(Fault),
    DestinationReset(Fault),
    Failed(io::Error),
}

pub(super) async fn carry(
    down: &mut Stream,
    up: &mut Stream,
    diversion: Diversion<'_>,
    chain: &dyn Chain,
    changes: watch::Receiver<u64>,
) -> DiversionEnd {
    let Diversion {
        entry,
        limits,
        state,
        connected,
        activity,
    } = diversion;
    let waiting = entry.stats.waiting_since();
    match chain.live_fault() {
        // Nothing passes, so what framing knows of it stays true.
        Some(LiveFault::Silent | LiveFault::Forgotten) => {}
        Some(LiveFault::Slow | LiveFault::Reset) => {
            entry.stats.begin_diverted();
            if let Some(since) = waiting {
                entry.stats.wait_diverted(since);
            }
        }
        None => entry.stats.begin_diverted(),
    }
    // The kernel's timer counts the time during which the upstream's window is closed. The relay's watch, which tells a
    // slow reader from a dead one, does not run here.
    set_user_timeout(up, None);
    let user_timeout = limits.tcp.user_timeout;
    let ended = {
        let (mut down_read, mut down_write) = tokio::io::split(Io(down));
        let (mut up_read, mut up_write) = tokio::io::split(Io(up));
        let [upload, download] = state.directions;
        let mut first = state.first_end;
        // Both directions go back together: once one has found no toxics, the other does not wait for the next.
        let leaving = Cell::new(false);
        let is_half_open = Cell::new(first.is_some());
        let upload = direction(
            Direction::Upload,
            upload,
            (&mut down_read, &mut up_write),
            (entry, activity),
            chain,
            &leaving,
            changes.clone(),
        );
        let download = direction(
            Direction::Download,
            download,
            (&mut up_read, &mut down_write),
            (entry, activity),
            chain,
            &leaving,
            changes,
        );
        tokio::pin!(upload, download);
        let limits = watch_limits(entry, chain, limits, connected, &is_half_open);
        tokio::pin!(limits);
        let mut ends: [Option<CarriedEnd>; 2] = [None, None];
        loop {
            let (side, end) = tokio::select! {
                end = &mut upload, if ends[0].is_none() => (Side::Downstream, end),
                end = &mut download, if ends[1].is_none() => (Side::Upstream, end),
                outcome = &mut limits => break outcome,
            };
            let other = match side {
                Side::Downstream => Side::Upstream,
                Side::Upstream => Side::Downstream,
            };
            match end {
                CarriedEnd::Finished => {
                    first.get_or_insert(side);
                    is_half_open.set(true);
                }
                CarriedEnd::Clear(..) => {}
                CarriedEnd::Close => break CarriedClose::Gracefully(Reason::Killed),
                CarriedEnd::Reset => break CarriedClose::Abort(Outcome::Commanded(Reason::Killed)),
                CarriedEnd::SourceReset(fault) => {
                    break CarriedClose::Abort(Outcome::Reset(side, fault));
                }
                CarriedEnd::DestinationReset(fault) => {
                    break CarriedClose::Abort(Outcome::Reset(other, fault));
                }
                CarriedEnd::Failed(error) => break CarriedClose::Abort(Outcome::Internal(error)),
            }
            ends[usize::from(side == Side::Upstream)] = Some(end);
            match ends {
                [Some(CarriedEnd::Finished), Some(CarriedEnd::Finished)] => {
                    let first = first.unwrap_or(Side::Downstream);
                    break CarriedClose::None(DiversionEnd::Ended(Outcome::Finished { first }));
                }
                [Some(upload), Some(download)] => {
                    let resume = |end| match end {
                        CarriedEnd::Clear(rest, source) => (rest, source),
                        _ => (Vec::new(), SourceState::Finished),
                    };
                    break CarriedClose::None(DiversionEnd::Resume(Box::new(Diverted {
                        directions: [resume(upload), resume(download)],
                        first_end: first,
                    })));
                }
                some => ends = some,
            }
        }
    };
    for direction in Direction::BOTH {
        entry.stats.set_diverted_pending(direction, 0);
    }
    set_user_timeout(up, user_timeout);
    match ended {
        CarriedClose::None(end) => end,
        CarriedClose::Abort(outcome) => {
            down.abort();
            up.abort();
            DiversionEnd::Ended(outcome)
        }
        CarriedClose::Gracefully(reason) => {
            let _ = Io(up).shutdown().await;
            finish(down).await;
            DiversionEnd::Ended(Outcome::Commanded(reason))
        }
    }
}

/// The kernel's limit on unacknowledged bytes.
fn set_user_timeout(stream: &Stream, timeout: Option<Duration>) {
    if let Stream::Tcp(tcp) = stream {
        // Refused, it stays as it is: a slow reader may be cut.
        let _ = socket::user_timeout(tcp, timeout);
    }
}

enum CarriedClose {
    None(DiversionEnd),
    Abort(Outcome),
    Gracefully(Reason),
}

/// Sends the client our FIN and reads off what it still sends, so that closing does not reset what it has not read.
async fn finish(down: &mut Stream) {
    let mut io = Io(down);
    let closing = async {
        if io.shutdown().await.is_err() {
            return;
        }
        let mut buffer = vec![0; 4096];
        while io.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    };
    let _ = timeout(LINGER, closing).await;
}

/// Commands from outside, and the timers that hold for every connection.
async fn watch_limits(
    entry: &Entry,
    chain: &dyn Chain,
    limits: &Limits,
    connected: clock::Moment,
    is_half_open: &Cell<bool>,
) -> CarriedClose {
    // A command to close at rest that stands: reason, quiet, until when.
    let mut standing = None;
    loop {
        tokio::select! {
            command = entry.commands.receive() => match command {
                ConnectionCommand::Cut(reason) => return CarriedClose::Abort(Outcome::Commanded(reason)),
                ConnectionCommand::CloseAtRest { reason, quiet, until } => {
                    standing = Some((reason, quiet, until));
                }
            },
            () = sleep(CHECK) => {}
        }
        let now = clock::now();
        if let Some((reason, quiet, until)) = standing {
            if entry.stats.at_rest(now, connected, quiet) {
                return CarriedClose::Gracefully(reason);
            }
            standing = standing.filter(|_| now < until);
        }
        let silent = now.since(entry.stats.last_moved().max(connected));
        if limits.idle_timeout.is_some_and(|idle| silent >= idle) {
            return CarriedClose::Abort(Outcome::IdleTimeout);
        }
        // As the kernel does with bytes that nobody acknowledges.
        let is_stuck =
            || chain.live_fault() == Some(LiveFault::Silent) && entry.stats.pending() > 0;
        if limits.tcp.user_timeout.is_some_and(|most| silent >= most) && is_stuck() {
            return CarriedClose::Abort(Outcome::Reset(Side::Upstream, Fault::UserTimeout));
        }
        if is_half_open.get() && limits.half_open_timeout.is_some_and(|most| silent >= most) {
            return CarriedClose::Abort(Outcome::HalfOpenTimeout);
        }
    }
}

async fn direction(
    direction: Direction,
    (rest, mut source): (Vec<u8>, SourceState),
    (reader, writer): (&mut ReadHalf<Io<'_>>, &mut WriteHalf<Io<'_>>),
    (entry, activity): (&Entry, &Activity),
    chain: &dyn Chain,
    leaving: &Cell<bool>,
    mut changes: watch::Receiver<u64>,
) -> CarriedEnd {
    if source == SourceState::Finished {
        return CarriedEnd::Finished;
    }
    let mut pipeline = Pipeline::default();
    if !rest.is_empty() {
        // It had left the relay's source before the toxics came.
        pipeline.push(Item::Data(rest, Instant::now()));
    }
    changes.mark_unchanged();
    let mut changed = true;
    let mut drill = None;
    pipeline.replace(chain.toxics(direction), Instant::now());
    if source == SourceState::Ended {
        pipeline.push(Item::End);
    }
    let mut reset: Option<Fault> = None;
    let mut is_leaving = false;
    let mut chunk = vec![0; CHUNK];
    let mut writing: Option<(Vec<u8>, usize)> = None;
    loop {
        let wake = pipeline.advance(Instant::now());
        if pipeline.reset {
            return CarriedEnd::Reset;
        }
        // What is held back when nothing passes goes on when that is over, as lost packets are sent again.
        let [is_cut_off, is_mute] = [Direction::Upload, Direction::Download]
            .map(|cut| cut == direction && drill == Some(LiveFault::Silent));
        if writing.is_none() && !is_cut_off {
            match pipeline.out.pop_front() {
                Some(Item::Data(bytes, _)) => {
                    if !bytes.is_empty() {
                        writing = Some((bytes, 0));
                    }
                    continue;
                }
                Some(Item::Close) => return CarriedEnd::Close,
                Some(Item::End) => {
                    if let Some(fault) = reset {
                        return CarriedEnd::SourceReset(fault);
                    }
                    return match writer.shutdown().await {
                        Ok(()) => CarriedEnd::Finished,
                        Err(error) => failed(error, CarriedEnd::DestinationReset),
                    };
                }
                None => {}
            }
        }
        let unwritten = writing.as_ref().map_or(0, |(bytes, at)| bytes.len() - at);
        entry
            .stats
            .set_diverted_pending(direction, pipeline.pending() + unwritten);
        // The chain may change while bytes wait for a destination that does not take them: those go back with it.
        if std::mem::take(&mut changed) {
            if chain.is_closed() {
                return CarriedEnd::Close;
            }
            drill = chain.live_fault();
            if drill == Some(LiveFault::Reset) {
                return reset_by_upstream(direction);
            }
            // Behind a reset of the source nothing goes back: it is passed on at the end of what came before it.
            is_leaving = reset.is_none() && (leaving.get() || chain.is_clear());
        }
        if is_leaving {
            leaving.set(true);
            pipeline.replace(Vec::new(), Instant::now());
            let mut rest = writing.map_or_else(Vec::new, |(mut bytes, at)| bytes.split_off(at));
            while let Some(item) = pipeline.out.pop_front() {
                match item {
                    Item::Data(bytes, _) => rest.extend(bytes),
                    Item::End => source = SourceState::Ended,
                    Item::Close => return CarriedEnd::Close,
                }
            }
            return CarriedEnd::Clear(rest, source);
        }
        let may_read =
            source == SourceState::Open && reset.is_none() && pipeline.has_room() && !is_mute;
        tokio::select! {
            biased;
            seen = changes.changed() => {
                if seen.is_err() {
                    return CarriedEnd::Close;
                }
                changed = true;
                let toxics = chain.toxics(direction);
                if !pipeline.has(&toxics) {
                    pipeline.replace(toxics, Instant::now());
                }
            }
            written = write(writer, &writing), if writing.is_some() && !is_cut_off => match written {
                Ok(count) => {
                    entry.stats.moved_diverted(direction, count, clock::now());
                    if direction == Direction::Download {
                        entry.stats.answered_diverted();
                    }
                    activity.record();
                    if let Some((bytes, at)) = &mut writing {
                        *at += count;
                        if *at == bytes.len() {
                            writing = None;
                        }
                    }
                }
                Err(error) => return failed(error, CarriedEnd::DestinationReset),
            },
            read = reader.read(&mut chunk), if may_read => match read {
                Ok(0) => {
                    source = SourceState::Ended;
                    pipeline.push(Item::End);
                }
                Ok(count) => {
                    if drill.is_some() && direction == Direction::Upload {
                        let now = clock::now();
                        // The upstream's kernel is taken to have it, though nothing has left.
                        entry.stats.moved_diverted(direction, 0, now);
                        entry.stats.wait_diverted(now);
                        activity.record();
                    }
                    if drill == Some(LiveFault::Forgotten) && direction == Direction::Upload {
                        return reset_by_upstream(direction);
                    }
                    pipeline.push(Item::Data(chunk[..count].to_vec(), Instant::now()));
                }
                Err(error) => match fault_of(&error) {
                    Some(fault) => {
                        reset = Some(fault);
                        pipeline.push(Item::End);
                    }
                    None => return CarriedEnd::Failed(error),
                },
            },
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
    }
}

/// The end of this direction when the upstream has reset the connection.
fn reset_by_upstream(direction: Direction) -> CarriedEnd {
    match direction {
        Direction::Upload => CarriedEnd::DestinationReset(Fault::Reset),
        Direction::Download => CarriedEnd::SourceReset(Fault::Reset),
    }
}

async fn write(
    writer: &mut WriteHalf<Io<'_>>,
    writing: &Option<(Vec<u8>, usize)>,
) -> io::Result<usize> {
    match writing {
        Some((bytes, at)) => match writer.write(&bytes[*at..]).await {
            Ok(0) => Err(io::ErrorKind::BrokenPipe.into()),
            other => other,
        },
        None => std::future::pending().await,
    }
}

fn failed(error: io::Error, end: fn(Fault) -> CarriedEnd) -> CarriedEnd {
    match fault_of(&error) {
        Some(fault) => end(fault),
        None => CarriedEnd::Failed(error),
    }
}

// === impl Io ===

impl AsyncRead for Io<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self.get_mut().0 {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Wrapped(wrapped) => Pin::new(&mut **wrapped).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self.get_mut().0 {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Stream::Wrapped(wrapped) => Pin::new(&mut **wrapped).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.get_mut().0 {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Wrapped(wrapped) => Pin::new(&mut **wrapped).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.get_mut().0 {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Wrapped(wrapped) => Pin::new(&mut **wrapped).poll_shutdown(cx),
        }
    }
}
