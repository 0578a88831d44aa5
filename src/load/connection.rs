//! One connection of the generator, and one exchange over it.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::workload::{BodyEnd, Chunks, Workload, read_head};
use super::{LoadTarget, REQUEST_TIMEOUT};
use crate::clock::{self, Moment};

/// Read buffer of one connection.
const BUFFER: usize = 32 * 1024;

/// A kept connection that has been idle for so long is asked whether the server has closed it.
const SUSPECT_AFTER: Duration = Duration::from_millis(200);

/// Why a request failed; the text is the key in the report.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Failure {
    Connect(&'static str),
    /// No complete answer in time.
    Timeout,
    Reset,
    /// The server ended the connection before its answer was complete.
    Closed,
    /// An HTTP status of 400 or more.
    Status(u16),
    /// Bytes that are no answer to what was sent.
    Answer(&'static str),
    /// This machine could not: out of descriptors, out of ports.
    Local(&'static str),
}

/// Bytes of one exchange.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bytes {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// An open connection and what has been read from it.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
    filled: usize,
    used_at: Moment,
    reusable: bool,
    pub(super) connected: Moment,
}

// === impl Failure ===

impl Failure {
    /// The key under `requests.by_error`.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Connect(why) => format!("connect {why}"),
            Self::Timeout => "timeout".to_owned(),
            Self::Reset => "reset".to_owned(),
            Self::Closed => "closed".to_owned(),
            Self::Status(status) => format!("status {status}"),
            Self::Answer(why) => format!("bad answer: {why}"),
            Self::Local(why) => format!("local: {why}"),
        }
    }

    fn of_connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Connect("refused"),
            io::ErrorKind::TimedOut => Self::Connect("timeout"),
            io::ErrorKind::ConnectionReset => Self::Connect("reset"),
            io::ErrorKind::AddrNotAvailable => Self::Local("no free local port"),
            _ => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => Self::Local("no free file descriptor"),
                _ => Self::Connect("unreachable"),
            },
        }
    }

    fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Reset,
        }
    }
}

// === impl Connection ===

impl Connection {
    /// Connects to the first address of the target that answers.
    pub(super) async fn open(target: &LoadTarget) -> Result<Self, Failure> {
        let mut failure = Failure::Connect("no address");
        for address in &target.addresses {
            match timeout(REQUEST_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small requests must not wait for the acknowledgement of the one before.
                    let _ = stream.set_nodelay(true);
                    let now = clock::now();
                    return Ok(Self {
                        stream,
                        buffer: vec![0; BUFFER].into_boxed_slice(),
                        filled: 0,
                        used_at: now,
                        reusable: true,
                        connected: now,
                    });
                }
                Ok(Err(error)) => failure = Failure::of_connect(&error),
                Err(_) => failure = Failure::Connect("timeout"),
            }
        }
        Err(failure)
    }

    /// Our side's port.
    pub(super) fn local_port(&self) -> Option<u16> {
        self.stream.local_addr().ok().map(|address| address.port())
    }

    /// Whether another request can go over it. One that was idle for long is asked first.
    pub(super) fn is_reusable(&mut self) -> bool {
        if !self.reusable || self.filled > 0 {
            return false;
        }
        if clock::now().since(self.used_at) < SUSPECT_AFTER {
            return true;
        }
        // Anything readable between two requests is an end, or bytes nobody asked for.
        let mut byte = [0u8; 1];
        matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends one request and reads its answer to the end.
    pub(super) async fn exchange(
        &mut self,
        workload: &Workload,
        bytes: &mut Bytes,
    ) -> Result<(), Failure> {
        let outcome = match timeout(REQUEST_TIMEOUT, self.exchange_untimed(workload, bytes)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Timeout),
        };
        // A failed status leaves the connection usable; everything else leaves it in an unknown state.
        if !matches!(outcome, Ok(()) | Err(Failure::Status(_))) {
            self.reusable = false;
        }
        self.used_at = clock::now();
        outcome
    }

    async fn exchange_untimed(
        &mut self,
        workload: &Workload,
        bytes: &mut Bytes,
    ) -> Result<(), Failure> {
        match workload {
            Workload::Connect => Ok(()),
            Workload::Echo { body, .. } => self.echo(*body, bytes).await,
            Workload::Http(request) => {
                self.send(&request.bytes, bytes).await?;
                self.read_answer(request.head_only, bytes).await
            }
        }
    }

    async fn send(&mut self, request: &[u8], bytes: &mut Bytes) -> Result<(), Failure> {
        let sent = self.stream.write_all(request).await;
        sent.map_err(|error| Failure::of_io(&error))?;
        bytes.sent += request.len() as u64;
        Ok(())
    }

    /// Reads behind what is in the buffer; 0 at the end of the stream.
    async fn fill(&mut self, bytes: &mut Bytes) -> Result<usize, Failure> {
        if self.filled == self.buffer.len() {
            let mut larger = vec![0; self.buffer.len() * 2];
            larger[..self.filled].copy_from_slice(&self.buffer);
            self.buffer = larger.into_boxed_slice();
        }
        let read = self.stream.read(&mut self.buffer[self.filled..]).await;
        let read = read.map_err(|error| Failure::of_io(&error))?;
        self.filled += read;
        bytes.received += read as u64;
        Ok(read)
    }

    /// Drops the first `count` bytes of the buffer.
    fn consume(&mut self, count: usize) {
        self.buffer.copy_within(count..self.filled, 0);
        self.filled -= count;
    }

    async fn read_answer(&mut self, head_only: bool, bytes: &mut Bytes) -> Result<(), Failure> {
        let head = loop {
            match read_head(&self.buffer[..self.filled], head_only).map_err(Failure::Answer)? {
                Some(head) if head.status < 200 => self.consume(head.len),
                Some(head) => break head,
                None => {
                    if self.fill(bytes).await? == 0 {
                        return Err(Failure::Closed);
                    }
                }
            }
        };
        self.consume(head.len);
        match head.body {
            BodyEnd::Length(length) => self.skip_length(length, bytes).await?,
            BodyEnd::Chunked => self.skip_chunks(bytes).await?,
            BodyEnd::Close => self.skip_to_end(bytes).await?,
        }
        self.reusable &= !head.closes;
        match head.status {
            400.. => Err(Failure::Status(head.status)),
            _ => Ok(()),
        }
    }

    async fn skip_length(&mut self, length: u64, bytes: &mut Bytes) -> Result<(), Failure> {
        let mut left = length;
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.filled);
            self.consume(here);
            left -= here as u64;
            if left == 0 {
                return Ok(());
            }
            if self.fill(bytes).await? == 0 {
                return Err(Failure::Closed);
            }
        }
    }

    async fn skip_chunks(&mut self, bytes: &mut Bytes) -> Result<(), Failure> {
        let mut chunks = Chunks::default();
        loop {
            let taken = chunks.take(&self.buffer[..self.filled]);
            if let Some(body) = taken.map_err(Failure::Answer)? {
                self.consume(body.end);
                return Ok(());
            }
            self.filled = 0;
            if self.fill(bytes).await? == 0 {
                return Err(Failure::Closed);
            }
        }
    }

    async fn skip_to_end(&mut self, bytes: &mut Bytes) -> Result<(), Failure> {
        loop {
            self.filled = 0;
            if self.fill(bytes).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Writes and reads at the same time: an echo server that is full stops reading.
    async fn echo(&mut self, length: usize, bytes: &mut Bytes) -> Result<(), Failure> {
        let (mut sent, mut received) = (0, 0);
        let pattern = vec![b'x'; length.min(BUFFER)];
        while received < length {
            let (mut reader, mut writer) = self.stream.split();
            let chunk = &pattern[..(length - sent).min(pattern.len())];
            tokio::select! {
                wrote = writer.write(chunk), if sent < length => match wrote {
                    Ok(count) => {
                        sent += count;
                        bytes.sent += count as u64;
                    }
                    Err(error) => return Err(Failure::of_io(&error)),
                },
                read = reader.read(&mut self.buffer) => match read {
                    Ok(0) => return Err(Failure::Closed),
                    Ok(count) => {
                        bytes.received += count as u64;
                        if self.buffer[..count].iter().any(|byte| *byte != b'x') {
                            return Err(Failure::Answer("other bytes than were sent"));
                        }
                        received += count;
                        if received > sent {
                            return Err(Failure::Answer("more bytes than were sent"));
                        }
                    }
                    Err(error) => return Err(Failure::of_io(&error)),
                },
            }
        }
        Ok(())
    }
}
