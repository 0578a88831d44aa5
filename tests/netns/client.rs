//! What clients do: requests on connections of their own, echoes on lasting ones, and how an end looks from there.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::time::Instant;

/// Waits until `look` gives something; panics after `limit`.
#[track_caller]
pub fn eventually<T>(limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    within(limit, look).unwrap_or_else(|| panic!("not within {limit:?}"))
}

/// Waits until `look` gives something, at most `limit`.
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Lets time pass: for faults that have to last.
pub fn last(time: Duration) {
    within(time, || None::<()>);
}

/// One HTTP request on a connection of its own; how long it took.
pub fn request(to: SocketAddr, limit: Duration) -> Result<Duration> {
    request_path(to, "/", limit)
}

/// The same for another path.
pub fn request_path(to: SocketAddr, path: &str, limit: Duration) -> Result<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    ask_path(&mut stream, path, "Connection: close\r\n")?;
    Ok(began.elapsed())
}

/// Asks and reads one answer on an open connection.
pub fn ask(stream: &mut TcpStream, header: &str) -> Result<()> {
    ask_path(stream, "/", header)
}

/// The same for another path.
pub fn ask_path(stream: &mut TcpStream, path: &str, header: &str) -> Result<()> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n").as_bytes())?;
    let mut reply = Vec::new();
    let mut buffer = [0; 1024];
    while !reply.windows(2).any(|pair| pair == b"\"}") {
        let got = stream.read(&mut buffer)?;
        if got == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        reply.extend_from_slice(&buffer[..got]);
    }
    Ok(())
}

/// Bytes that are unlike those of any other connection and turn.
pub fn pattern(id: u64, turn: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(id << 32 | turn);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// Sends bytes and reads them back; anything else is an error.
pub fn echo(stream: &mut TcpStream, body: &[u8]) -> Result<()> {
    let mut whole = format!(
        "POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    whole.extend_from_slice(body);
    stream.write_all(&whole)?;
    let mut reply = Vec::new();
    let mut buffer = [0; 8192];
    let wrong = |what: &str| Err(Error::new(ErrorKind::InvalidData, what.to_owned()));
    loop {
        let got = stream.read(&mut buffer)?;
        if got == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        reply.extend_from_slice(&buffer[..got]);
        let Some(head) = reply.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let echoed = &reply[head + 4..];
        if !reply.starts_with(b"HTTP/1.1 200 ") {
            return wrong("status");
        }
        if echoed.len() >= body.len() {
            return if echoed == body {
                Ok(())
            } else {
                wrong("wrong bytes")
            };
        }
    }
}

/// How a connection ended that says nothing any more, and after how long.
pub fn last_word(stream: &mut TcpStream, limit: Duration) -> (&'static str, Duration) {
    let began = Instant::now();
    stream.set_read_timeout(Some(limit)).expect("a limit");
    let mut buffer = [0; 1 << 16];
    let end = loop {
        break match stream.read(&mut buffer) {
            Ok(0) => "FIN",
            Ok(_) => continue,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => "RST",
            Err(error) if error.kind() == ErrorKind::WouldBlock => "nothing",
            Err(error) if error.kind() == ErrorKind::TimedOut => "timed out",
            Err(_) => "another error",
        };
    };
    (end, began.elapsed())
}

/// `count` requests on connections of their own.
pub struct Many {
    pub failed: usize,
    pub first: Duration,
    pub p50: Duration,
    pub p99: Duration,
}

/// Makes them, one after the other.
pub fn many(to: SocketAddr, count: usize) -> Many {
    let limit = Duration::from_secs(12);
    let first = request(to, limit);
    let mut failed = usize::from(first.is_err());
    let mut times: Vec<Duration> = (1..count)
        .filter_map(|_| request(to, limit).map_err(|_| failed += 1).ok())
        .collect();
    times.sort_unstable();
    let at = |percent: usize| {
        times
            .get(times.len() * percent / 100)
            .copied()
            .unwrap_or(limit)
    };
    Many {
        failed,
        first: first.unwrap_or(limit),
        p50: at(50),
        p99: at(99),
    }
}
