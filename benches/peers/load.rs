//! The two ends of the comparison: an upstream that speaks a tiny protocol, and the load that drives it.
//!
//! A connection starts with one header of 16 bytes: what to do, and a size. With [`Bytes::Http`] these are the first ones
//! of a request, and all that follows is HTTP too. What arrives is checked: replies of round trips byte by byte; bulk
//! streams by a stamp in every 4 KiB (lost, repeated or swapped bytes shift or change one) and by their length, which
//! the receiving end tells and the sending end compares.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::blocks::{BLOCK, check, fill, pour};

/// The stamp of a block that ends a stream in band: a half-close would lose the reply on proxies that lose it (nginx).
const LAST: u64 = u64::MAX;

/// The pause after each burst of [`Work::Burst`]: a proxy with spares fills them up again.
const LULL: Duration = Duration::from_millis(10);

/// Connections of one run of [`Work::Connect`], over all. Each leaves a port behind for a second at least (TIME_WAIT,
/// which loopback may use again after that), and `connect` goes through half of the 28,000 first, in order: a run that
/// comes round to its own would measure the search for a free one.
const MOST_CONNECTS: usize = 12_000;

/// What a connection asks of the upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    /// Messages of this many bytes, each answered by the same bytes.
    RoundTrips(usize),
    /// Client to endpoint, as fast as it goes.
    Up,
    /// Endpoint to client.
    Down,
    /// Both at once.
    Both,
    /// Connect, one byte each way, close; the next at once.
    Connect,
    /// The same, all connections at the same moment, then a pause. Only the time of the bursts counts.
    Burst,
}

/// What the ends speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bytes {
    /// A header, and nothing that a proxy could read.
    Raw,
    /// Requests and answers of HTTP/1.1.
    Http,
}

/// Bytes of a request, and of its answer, where a connection is for one of them.
const SMALL: usize = 256;

/// The bytes that a bulk stream of HTTP announces; never reached.
const ENDLESS: u64 = 1_000_000_000_000_000;

/// What one run measured.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Round trips, connections or bytes per second.
    pub(crate) per_second: f64,
    /// Units done in all.
    pub(crate) units: u64,
    /// 99th percentile of a unit, in microseconds; 0 for bulk.
    pub(crate) p99_us: u64,
    /// Wrong or missing bytes, failed connections.
    pub(crate) errors: u64,
}

/// The first bytes of a connection: its kind, and the size of its messages.
pub(crate) fn header(work: Work) -> [u8; 16] {
    let (kind, size) = match work {
        Work::RoundTrips(size) => (b'E', size),
        Work::Connect | Work::Burst => (b'E', 1),
        Work::Up => (b'U', 0),
        Work::Down => (b'D', 0),
        Work::Both => (b'B', 0),
    };
    let mut header = [0; 16];
    header[0] = kind;
    header[8..].copy_from_slice(&(size as u64).to_le_bytes());
    header
}

/// What a client sends first, or each time, and what comes back.
fn exchange(work: Work, bytes: Bytes) -> (Vec<u8>, Vec<u8>) {
    match (work, bytes) {
        (Work::RoundTrips(size), Bytes::Http) => (request(b'E', size), answer_of(size)),
        (Work::Connect | Work::Burst, Bytes::Http) => (request(b'E', SMALL), answer_of(SMALL)),
        (Work::Connect | Work::Burst, Bytes::Raw) => {
            ([&header(work)[..], b"x"].concat(), b"x".to_vec())
        }
        (_, Bytes::Raw) => (header(work).to_vec(), Vec::new()),
        (_, Bytes::Http) => (request(header(work)[0], 0), answer_of(0)),
    }
}

/// A request of `size` bytes in all; 0: the head of a bulk stream.
fn request(kind: u8, size: usize) -> Vec<u8> {
    let body = match (size, kind) {
        (0, b'D') => Some(0),
        (0, _) => Some(ENDLESS),
        _ => None,
    };
    message(
        &format!("POST /{}{size:07} HTTP/1.1", char::from(kind)),
        size,
        body,
    )
}

fn answer_of(size: usize) -> Vec<u8> {
    message("HTTP/1.1 200 OK", size, (size == 0).then_some(ENDLESS))
}

fn message(start: &str, size: usize, announced: Option<u64>) -> Vec<u8> {
    let head = |length: u64| {
        format!(
            "{start}\r\nHost: localhost:8182\r\nContent-Type: application/transit+msgpack\r\nContent-Length: {length:016}\r\n\r\n"
        )
    };
    let body = size.saturating_sub(head(0).len());
    let mut message = head(announced.unwrap_or(body as u64)).into_bytes();
    message.extend((0..body).map(|place| (place * 7) as u8));
    message
}

/// What the header of a connection says: the kind of work, the size of its messages, and what they are.
fn opening(header: [u8; 16]) -> Option<(u8, usize, Bytes)> {
    if header[0] == b'P' {
        let size = std::str::from_utf8(&header[7..14]).ok()?.parse().ok()?;
        return Some((header[6], size, Bytes::Http));
    }
    let size = u64::from_le_bytes(header[8..].try_into().ok()?);
    Some((header[0], size as usize, Bytes::Raw))
}

/// Serves on so many free ports for ever, on one thread; returns where to dial them: `at`, which leads here.
pub(crate) fn upstreams(count: usize, at: Ipv4Addr) -> io::Result<Vec<SocketAddr>> {
    let bind = if at.is_loopback() {
        at
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    let listeners = (0..count)
        .map(|_| {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            listener.set_nonblocking(true)?;
            listener.bind(&SocketAddr::from((bind, 0)).into())?;
            // The standard library's 128 are too few for 256 connects at once: a SYN that is dropped costs a second.
            listener.listen(4096)?;
            Ok(TcpListener::from(listener))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let addresses = listeners
        .iter()
        .map(|listener| Ok(SocketAddr::from((at, listener.local_addr()?.port()))))
        .collect();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let mut ports = tokio::task::JoinSet::new();
            for listener in listeners {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                ports.spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(async move { drop(answer(stream).await) });
                    }
                });
            }
            ports.join_all().await;
        });
    });
    addresses
}

async fn answer(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut header = [0; 16];
    stream.read_exact(&mut header).await?;
    let (kind, size, bytes) =
        opening(header).ok_or_else(|| io::Error::other("a header of no kind"))?;
    if kind == b'E' {
        let mut message = vec![0; size];
        let answer = match bytes {
            Bytes::Raw => None,
            Bytes::Http => Some(answer_of(size)),
        };
        // A request's first bytes are the header.
        let mut begun = answer.as_ref().map_or(0, |_| header.len());
        loop {
            stream.read_exact(&mut message[begun..]).await?;
            begun = 0;
            stream
                .write_all(answer.as_ref().unwrap_or(&message))
                .await?;
        }
    }
    if bytes == Bytes::Http {
        let mut rest = vec![0; request(kind, 0).len() - header.len()];
        stream.read_exact(&mut rest).await?;
        stream.write_all(&answer_of(0)).await?;
    }
    // Bulk blocks a thread of its own: few streams, and no reactor in their way.
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    thread::spawn(move || answer_bulk(&stream, kind));
    Ok(())
}

/// Takes and gives blocks; after the client's last block, its own last block tells how many bytes came.
fn answer_bulk(stream: &TcpStream, kind: u8) -> io::Result<()> {
    let ended = AtomicBool::new(false);
    let taken = thread::scope(|scope| {
        let sink = scope.spawn(|| {
            let taken = match kind {
                b'D' => Ok(0),
                _ => swallow(stream).map(|(taken, _)| taken),
            };
            ended.store(kind != b'D', Relaxed);
            taken
        });
        if kind != b'U' {
            // Towards a client that wants downloads only, until it leaves.
            pour(&mut &*stream, || ended.load(Relaxed))?;
        }
        sink.join().unwrap_or(Ok(0))
    })?;
    end(&mut &*stream, taken)
}

/// Sends the last block, which says `word`.
fn end(stream: &mut impl Write, word: u64) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    block[..8].copy_from_slice(&LAST.to_le_bytes());
    block[8..16].copy_from_slice(&word.to_le_bytes());
    stream.write_all(&block)
}

/// Reads blocks to the last one; returns bytes read before it and what it says, or an error when one is not what was
/// sent.
fn swallow(stream: &TcpStream) -> io::Result<(u64, u64)> {
    let mut block = vec![0; BLOCK];
    let mut number = 0;
    loop {
        if fill(stream, &mut block)? < BLOCK {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if block[..8] == LAST.to_le_bytes() {
            let word = block[8..16].try_into().expect("8 bytes");
            return Ok((number * BLOCK as u64, u64::from_le_bytes(word)));
        }
        check(&block, number)?;
        number += 1;
    }
}

/// Drives `connections` against `target` for `time`.
pub(crate) fn drive(
    target: SocketAddr,
    work: Work,
    bytes: Bytes,
    connections: usize,
    time: Duration,
) -> Run {
    match work {
        Work::RoundTrips(_) | Work::Connect => small(target, work, bytes, connections, time),
        Work::Burst => bursts(target, bytes, connections, time),
        _ => bulk(target, work, bytes, connections, time),
    }
}

fn small(target: SocketAddr, work: Work, bytes: Bytes, connections: usize, time: Duration) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        let began = Instant::now();
        let until = began + time;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..connections {
            tasks.spawn(async move {
                match work {
                    Work::RoundTrips(size) => round_trips(target, size, bytes, number, until).await,
                    _ => connects(target, bytes, MOST_CONNECTS / connections, until).await,
                }
            });
        }
        let mut run = Run::default();
        let mut all = Histogram::<u64>::new(3).expect("three digits");
        while let Some(done) = tasks.join_next().await {
            match done.expect("a task that does not panic") {
                Ok(times) => all += times,
                Err(_) => run.errors += 1,
            }
        }
        run.units = all.len();
        run.per_second = all.len() as f64 / began.elapsed().as_secs_f64();
        run.p99_us = all.value_at_quantile(0.99);
        run
    })
}

async fn round_trips(
    target: SocketAddr,
    size: usize,
    bytes: Bytes,
    number: usize,
    until: Instant,
) -> io::Result<Histogram<u64>> {
    let mut times = Histogram::new(3).expect("three digits");
    let mut stream = tokio::net::TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let (opening, reply) = exchange(Work::RoundTrips(size), bytes);
    let (sent, expected) = match bytes {
        Bytes::Raw => {
            stream.write_all(&opening).await?;
            let sent: Vec<u8> = (0..size).map(|place| (place * 7 + number) as u8).collect();
            (sent.clone(), sent)
        }
        Bytes::Http => (opening, reply),
    };
    let mut got = vec![0; size];
    while Instant::now() < until {
        let began = Instant::now();
        if size > 64 * 1024 {
            let (mut read, mut write) = stream.split();
            tokio::try_join!(write.write_all(&sent), read.read_exact(&mut got))?;
        } else {
            stream.write_all(&sent).await?;
            stream.read_exact(&mut got).await?;
        }
        if got != expected {
            return Err(io::Error::other("the reply is not the one that was sent"));
        }
        times += began.elapsed().as_micros().max(1) as u64;
    }
    Ok(times)
}

async fn connects(
    target: SocketAddr,
    bytes: Bytes,
    most: usize,
    until: Instant,
) -> io::Result<Histogram<u64>> {
    let mut times = Histogram::new(3).expect("three digits");
    while Instant::now() < until && (times.len() as usize) < most {
        times += connect(target, bytes).await?;
    }
    Ok(times)
}

/// One connection for one message; in microseconds.
async fn connect(target: SocketAddr, bytes: Bytes) -> io::Result<u64> {
    let (message, expected) = exchange(Work::Connect, bytes);
    let mut reply = vec![0; expected.len()];
    let began = Instant::now();
    let mut stream = tokio::net::TcpStream::connect(target).await?;
    stream.write_all(&message).await?;
    stream.read_exact(&mut reply).await?;
    if reply != expected {
        return Err(io::Error::other("the reply is not the one that was sent"));
    }
    Ok(began.elapsed().as_micros().max(1) as u64)
}

fn bursts(target: SocketAddr, bytes: Bytes, connections: usize, time: Duration) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        let until = Instant::now() + time;
        let mut times = Histogram::<u64>::new(3).expect("three digits");
        let mut run = Run::default();
        let mut spent = Duration::ZERO;
        while Instant::now() < until {
            let began = Instant::now();
            let mut tasks: tokio::task::JoinSet<_> =
                (0..connections).map(|_| connect(target, bytes)).collect();
            while let Some(done) = tasks.join_next().await {
                match done.expect("a task that does not panic") {
                    Ok(took) => times += took,
                    Err(_) => run.errors += 1,
                }
            }
            spent += began.elapsed();
            tokio::time::sleep(LULL).await;
        }
        run.units = times.len();
        run.per_second = times.len() as f64 / spent.as_secs_f64();
        run.p99_us = times.value_at_quantile(0.99);
        run
    })
}

fn bulk(target: SocketAddr, work: Work, bytes: Bytes, connections: usize, time: Duration) -> Run {
    let began = Instant::now();
    let until = began + time;
    let moved = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let moved = Arc::clone(&moved);
            thread::spawn(move || stream_bulk(target, work, bytes, until, &moved))
        })
        .collect();
    let mut run = Run::default();
    for thread in threads {
        if !matches!(thread.join(), Ok(Ok(()))) {
            run.errors += 1;
        }
    }
    run.units = moved.load(Relaxed);
    run.per_second = run.units as f64 / began.elapsed().as_secs_f64();
    run
}

/// One bulk connection until then; adds its bytes once all of them are known to be right.
pub(crate) fn stream_bulk(
    target: SocketAddr,
    work: Work,
    bytes: Bytes,
    until: Instant,
    moved: &AtomicU64,
) -> io::Result<()> {
    let stream = TcpStream::connect(target)?;
    let (opening, head) = exchange(work, bytes);
    (&stream).write_all(&opening)?;
    (&stream).read_exact(&mut vec![0; head.len()])?;
    let late = || Instant::now() >= until;
    let (sent, (got, taken)) = thread::scope(|scope| {
        let download = scope.spawn(|| match work {
            Work::Down => swallow_until(&stream, late).map(|got| (got, 0)),
            // Of an upload this is the last block alone.
            _ => swallow(&stream),
        });
        let sent = match work {
            Work::Down => 0,
            _ => {
                let sent = pour(&mut &stream, late)?;
                end(&mut &stream, 0)?;
                sent
            }
        };
        let got = download
            .join()
            .map_err(|_| io::Error::other("the reader panicked"))??;
        Ok::<_, io::Error>((sent, got))
    })?;
    if work != Work::Down && taken != sent {
        return Err(io::Error::other("the upstream saw another number of bytes"));
    }
    moved.fetch_add(sent + got, Relaxed);
    Ok(())
}

/// Reads whole blocks until it is late; returns bytes read.
fn swallow_until(stream: &TcpStream, late: impl Fn() -> bool) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut number = 0;
    while !late() {
        if fill(stream, &mut block)? < BLOCK {
            return Err(io::Error::other("the download was cut"));
        }
        check(&block, number)?;
        number += 1;
    }
    Ok(number * BLOCK as u64)
}

/// Opens `count` connections, each with one message each way done, and returns them.
pub(crate) fn hold(target: SocketAddr, bytes: Bytes, count: usize) -> io::Result<Vec<TcpStream>> {
    let (message, reply) = exchange(Work::Connect, bytes);
    (0..count)
        .map(|_| {
            let mut stream = TcpStream::connect(target)?;
            stream.write_all(&message)?;
            stream.read_exact(&mut vec![0; reply.len()])?;
            Ok(stream)
        })
        .collect()
}
