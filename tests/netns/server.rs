//! An upstream that writes down what it is sent, per connection, and answers as a row wants it.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::topology::{address, inside};

/// What one connection has sent, and how it ended.
#[derive(Clone, Debug)]
pub struct Seen {
    pub accepted: Instant,
    pub bytes: Vec<u8>,
    pub ended: Option<(Instant, &'static str)>,
}

/// How probes (`GET /`) are answered. Everything else is answered well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Probes {
    Well,
    Never,
    EverySecond,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Vec<Arc<Mutex<Seen>>>>,
    probes: AtomicU64,
    manner: AtomicU8,
    stop: AtomicBool,
}

/// The upstream; it stops listening with its handle.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    accepts: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Listens in a zone.
    pub fn start(zone: &str, port: u16, probes: Probes) -> Self {
        let shared = Arc::new(Shared {
            manner: AtomicU8::new(probes as u8),
            ..Shared::default()
        });
        let (to, known) = (format!("{}:{port}", address(zone)), Arc::clone(&shared));
        let (tell, told) = std::sync::mpsc::channel();
        let accepts = inside(zone, move || {
            let listener = listen(&to);
            tell.send(()).expect("the row waits");
            accept_all(&listener, &known);
        });
        told.recv().expect("it listens");
        Self {
            shared,
            accepts: Some(accepts),
        }
    }

    /// All connections that sent something else than a probe, or nothing.
    pub fn seen(&self) -> Vec<Seen> {
        let all = self.shared.seen.lock().unwrap();
        let all = all.iter().map(|seen| seen.lock().unwrap().clone());
        all.filter(|seen| !seen.bytes.starts_with(b"GET / "))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        let _ = self.accepts.take().map(std::thread::JoinHandle::join);
    }
}

fn listen(to: &str) -> TcpListener {
    let to: std::net::SocketAddr = to.parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&to.into()).unwrap();
    socket.listen(4096).unwrap();
    // An accept that looks up now and then, to be told to stop.
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    socket.into()
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stop.load(Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        // Accepted sockets inherit the listener's.
        stream.set_read_timeout(None).unwrap();
        let seen = Arc::new(Mutex::new(Seen {
            accepted: Instant::now(),
            bytes: Vec::new(),
            ended: None,
        }));
        shared.seen.lock().unwrap().push(Arc::clone(&seen));
        let shared = Arc::clone(shared);
        std::thread::spawn(move || serve(stream, &seen, &shared));
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Seen>, shared: &Shared) {
    let mut buffer = [0; 64 * 1024];
    let mut unread = Vec::new();
    let mut kib_per_second = None;
    loop {
        // A tenth of a second's worth every tenth of a second.
        let most = kib_per_second.map_or(buffer.len(), |rate: usize| {
            std::thread::park_timeout(Duration::from_millis(100));
            (rate * 1024 / 10).clamp(1, buffer.len())
        });
        let got = stream.read(&mut buffer[..most]);
        let mut seen = seen.lock().unwrap();
        let end = match got {
            Ok(0) => "FIN",
            Ok(got) => {
                // The start tells who it was; the rest would only fill memory.
                let room = 4096_usize.saturating_sub(seen.bytes.len());
                seen.bytes.extend_from_slice(&buffer[..got.min(room)]);
                kib_per_second = slowly(&seen.bytes);
                drop(seen);
                if kib_per_second.is_some() {
                    continue;
                }
                unread.extend_from_slice(&buffer[..got]);
                answer(&mut stream, &mut unread, shared);
                continue;
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => "RST",
            Err(_) => "another error",
        };
        seen.ended = Some((Instant::now(), end));
        return;
    }
}

/// The rate of a request for `/slowly/RATE`, in KiB a second.
fn slowly(bytes: &[u8]) -> Option<usize> {
    let rest = bytes.strip_prefix(b"POST /slowly/")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

/// Answers what has been read whole. `/stream` is answered without end, `/wait` never.
fn answer(stream: &mut TcpStream, unread: &mut Vec<u8>, shared: &Shared) {
    while let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
        let head: Vec<u8> = unread.drain(..end + 4).collect();
        let (status, body) = if head.starts_with(b"GET / ") && !shared.probe() {
            ("503 Service Unavailable", "{:no \"targets\"}")
        } else {
            ("200 OK", "{:s3-auth-path \"topology/topology\"}")
        };
        if head.starts_with(b"GET /wait ") {
            return;
        }
        if head.starts_with(b"GET /stream ") {
            let mut writes = stream.try_clone().unwrap();
            std::thread::spawn(move || while writes.write_all(&[0x5a; 16 * 1024]).is_ok() {});
            return;
        }
        let reply = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // An end of the connection shows in the next read.
        let _ = stream.write_all(reply.as_bytes());
    }
}

impl Shared {
    /// Counts a probe and says whether it is to be answered well.
    fn probe(&self) -> bool {
        let nth = self.probes.fetch_add(1, Relaxed);
        match self.manner.load(Relaxed) {
            manner if manner == Probes::Well as u8 => true,
            manner if manner == Probes::Never as u8 => false,
            _ => nth.is_multiple_of(2),
        }
    }
}
