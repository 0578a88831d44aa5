//! The two ends of the comparison: an upstream that speaks a tiny protocol, and the load that drives it.
//!
//! A connection starts with one header of 16 bytes: what to do, and a size. Every byte is checked on arrival:
//! replies of round trips in full, bulk streams at the start of each block and by their length.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// Bulk streams move in blocks of this size; each starts with its number.
const BLOCK: usize = 256 * 1024;

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
    /// Connect, one byte each way, close.
    Connect,
}

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

fn header(work: Work) -> [u8; 16] {
    let (kind, size) = match work {
        Work::RoundTrips(size) => (b'E', size),
        Work::Connect => (b'E', 1),
        Work::Up => (b'U', 0),
        Work::Down => (b'D', 0),
        Work::Both => (b'B', 0),
    };
    let mut header = [0; 16];
    header[0] = kind;
    header[8..].copy_from_slice(&(size as u64).to_le_bytes());
    header
}

/// Serves on a free port for ever; returns the address.
pub(crate) fn upstream() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move { drop(answer(stream).await) });
            }
        });
    });
    Ok(address)
}

async fn answer(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut header = [0; 16];
    stream.read_exact(&mut header).await?;
    let size = u64::from_le_bytes(header[8..].try_into().expect("8 bytes")) as usize;
    if header[0] == b'E' {
        let mut message = vec![0; size];
        loop {
            stream.read_exact(&mut message).await?;
            stream.write_all(&message).await?;
        }
    }
    // Bulk blocks a thread of its own: few streams, and no reactor in their way.
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    thread::spawn(move || {
        let other = stream.try_clone()?;
        let sink = thread::spawn(move || {
            if header[0] == b'D' {
                Ok(0)
            } else {
                swallow(&other)
            }
        });
        if header[0] != b'U' {
            let mut stream = &stream;
            // The client decides the end by shutting its side down or leaving.
            let _ = pour(&mut stream, || false);
        }
        let taken = sink.join().unwrap_or(Ok(0))?;
        (&stream).write_all(&taken.to_le_bytes())?;
        stream.shutdown(Shutdown::Write)
    });
    Ok(())
}

/// Writes numbered blocks until told to stop; returns bytes written.
fn pour(stream: &mut impl Write, stop: impl Fn() -> bool) -> io::Result<u64> {
    let mut block = vec![0x5a; BLOCK];
    let mut number = 0u64;
    while !stop() {
        block[..8].copy_from_slice(&number.to_le_bytes());
        stream.write_all(&block)?;
        number += 1;
    }
    Ok(number * BLOCK as u64)
}

/// Reads numbered blocks to the end; returns bytes read, or an error when a block is out of place.
fn swallow(mut stream: &TcpStream) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut total = 0u64;
    let mut filled = 0;
    loop {
        let got = stream.read(&mut block[filled..])?;
        if got == 0 {
            return Ok(total);
        }
        filled += got;
        total += got as u64;
        if filled == BLOCK {
            check(&block, total / BLOCK as u64 - 1)?;
            filled = 0;
        }
    }
}

fn check(block: &[u8], number: u64) -> io::Result<()> {
    if block[..8] == number.to_le_bytes() && block[8] == 0x5a && block[BLOCK - 1] == 0x5a {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "block {number} is not the one that was sent"
    )))
}

/// Drives `connections` against `target` for `time`.
pub(crate) fn drive(target: SocketAddr, work: Work, connections: usize, time: Duration) -> Run {
    match work {
        Work::RoundTrips(_) | Work::Connect => small(target, work, connections, time),
        _ => bulk(target, work, connections, time),
    }
}

fn small(target: SocketAddr, work: Work, connections: usize, time: Duration) -> Run {
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
                    Work::RoundTrips(size) => round_trips(target, size, number, until).await,
                    _ => connects(target, until).await,
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
    number: usize,
    until: Instant,
) -> io::Result<Histogram<u64>> {
    let mut times = Histogram::new(3).expect("three digits");
    let mut stream = tokio::net::TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&header(Work::RoundTrips(size))).await?;
    let sent: Vec<u8> = (0..size).map(|place| (place * 7 + number) as u8).collect();
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
        if got != sent {
            return Err(io::Error::other("the reply differs from the request"));
        }
        times += began.elapsed().as_micros().max(1) as u64;
    }
    Ok(times)
}

async fn connects(target: SocketAddr, until: Instant) -> io::Result<Histogram<u64>> {
    let mut times = Histogram::new(3).expect("three digits");
    let mut message = header(Work::Connect).to_vec();
    message.push(b'x');
    while Instant::now() < until {
        let began = Instant::now();
        let mut stream = tokio::net::TcpStream::connect(target).await?;
        stream.write_all(&message).await?;
        let mut reply = [0];
        stream.read_exact(&mut reply).await?;
        if reply != *b"x" {
            return Err(io::Error::other("the reply differs from the request"));
        }
        times += began.elapsed().as_micros().max(1) as u64;
    }
    Ok(times)
}

fn bulk(target: SocketAddr, work: Work, connections: usize, time: Duration) -> Run {
    let began = Instant::now();
    let until = began + time;
    let moved = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let moved = Arc::clone(&moved);
            thread::spawn(move || stream_bulk(target, work, until, &moved))
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

fn stream_bulk(
    target: SocketAddr,
    work: Work,
    until: Instant,
    moved: &AtomicU64,
) -> io::Result<()> {
    let stream = TcpStream::connect(target)?;
    (&stream).write_all(&header(work))?;
    let reader = stream.try_clone()?;
    let late = move || Instant::now() >= until;
    thread::scope(|scope| {
        let download = scope.spawn(move || -> io::Result<u64> {
            let mut block = vec![0; BLOCK];
            let mut number = 0;
            if work == Work::Up {
                return Ok(0);
            }
            while !late() {
                (&reader).read_exact(&mut block)?;
                check(&block, number)?;
                number += 1;
            }
            Ok(number * BLOCK as u64)
        });
        let sent = if work == Work::Down {
            0
        } else {
            pour(&mut &stream, late)?
        };
        let got = download
            .join()
            .map_err(|_| io::Error::other("the reader panicked"))??;
        if work == Work::Up {
            stream.shutdown(Shutdown::Write)?;
            let mut taken = [0; 8];
            (&stream).read_exact(&mut taken)?;
            if u64::from_le_bytes(taken) != sent {
                return Err(io::Error::other("the upstream saw another number of bytes"));
            }
        }
        moved.fetch_add(sent + got, Relaxed);
        Ok(())
    })
}

/// Opens `count` connections, each with one byte each way done, and returns them.
pub(crate) fn hold(target: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut message = header(Work::Connect).to_vec();
    message.push(b'x');
    (0..count)
        .map(|_| {
            let mut stream = TcpStream::connect(target)?;
            stream.write_all(&message)?;
            stream.read_exact(&mut [0])?;
            Ok(stream)
        })
        .collect()
}
