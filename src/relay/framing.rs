//! Passive HTTP/1.1 framing: where requests and answers begin and end, known from the bytes that pass.
//!
//! [`Framing`] is shown the bytes of both directions in the order in which they are read, in pieces of any size. It
//! never changes, holds or delays one; it has no clock and does no I/O. What it knows is a [`HttpPhase`]: between
//! answers, request under way, waiting, answer under way, or unknown.
//!
//! The rules are those of RFC 9112. Where the two sides could read a message differently (contradictory, repeated or
//! malformed lengths, a folded length, a stray CR, an answer to no request, anything that is not HTTP/1.x), the
//! result is [`HttpPhase::Unknown`] and stays so: the caller then falls back on silence as the sign of rest. It is never
//! a guess, because a wrong "between answers" would close a connection inside an answer. After `CONNECT` and `101`
//! the connection carries another protocol and is unknown too.
//!
//! State is a few dozen bytes; memory is taken only for a line that is split between two pieces, and given back with
//! its end. The length of a line that is kept is bounded.

use memchr::memchr;

use crate::types::Direction;
use grammar::{
    Field, Flow, LineEnd, MAX_METHOD, chunk_size, decimal, ends_in_chunked, field_name, is_token,
    known, line_end, may_begin_answer, may_begin_request, may_name_length, plain_length, trim,
    version,
};

mod grammar;

/// Longest head, trailer section or chunk-size line. Longer ones are legal, and unknown.
const MAX_HEAD: u32 = 64 << 10;
/// Requests that may be unanswered at once (pipelining).
const MAX_PIPELINED: u8 = 32;
/// A split line longer than this is cut down to its two ends.
const KEPT_LINE: usize = 4096;
/// What is kept of its beginning: a method, or a field's name.
const KEPT_FRONT: usize = 256;
/// What is kept of its end: an HTTP version and a CR.
const KEPT_BACK: usize = 16;

/// Where a connection is between its requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HttpPhase {
    /// Every request that has begun is complete and answered in full.
    Idle = 1,
    /// A request has begun and is not complete.
    Request,
    /// A complete request has no answer yet.
    Waiting,
    /// An answer has begun and is not complete.
    Answer,
    /// Not HTTP/1.x, or not unambiguously so.
    Unknown,
}

/// What some bytes have brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FramingProgress {
    /// Heads of requests that are complete now.
    pub requests: u32,
    /// Final (not 1xx) answers that have begun.
    pub begun: u32,
    /// Answers that are complete now.
    pub answers: u32,
}

/// The state of both directions of one connection.
#[derive(Debug, Default)]
pub struct Framing {
    scanners: [Scanner; 2],
    /// The part of a line that has been seen, by direction; `None` while neither has one.
    partial: Option<Box<[Vec<u8>; 2]>>,
    /// Bit n: the n-th open request is a HEAD, whose answer has no body.
    heads: u32,
    /// Requests with a complete head and without a complete answer.
    open: u8,
    /// The request that is under way has been answered in full already.
    answered_early: bool,
    unknown: bool,
}

/// The state of one direction.
#[derive(Debug, Default)]
struct Scanner {
    /// Bytes left of a body or chunk; while a head is read, its Content-Length.
    left: u64,
    /// Bytes of the current head, trailer section or chunk-size line.
    head: u32,
    state: ParserState,
    flags: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ParserState {
    /// Before or in a start line.
    #[default]
    Start,
    Fields,
    /// A body of known length.
    Body,
    ChunkSize,
    ChunkData,
    /// The line end behind the data of a chunk.
    ChunkEnd,
    Trailers,
    /// A body that ends with the connection.
    UntilClose,
}

/// `Transfer-Encoding` ends in `chunked`.
const CHUNKED: u8 = 1;
/// There was a Content-Length; it is in `left`.
const LENGTH: u8 = 2;
/// HTTP/1.0.
const OLD: u8 = 4;
/// A fold of the line before would change the framing.
const UNFOLDABLE: u8 = 8;
/// The answer has no body, whatever its fields say.
const BODILESS: u8 = 16;
/// The answer is a 1xx: another follows.
const INTERIM: u8 = 32;
/// The request is a HEAD.
const HEAD: u8 = 64;

// === impl Phase ===

impl HttpPhase {
    /// The word in `/v1/connections` and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            HttpPhase::Idle => "idle",
            HttpPhase::Request => "request",
            HttpPhase::Waiting => "waiting",
            HttpPhase::Answer => "answer",
            HttpPhase::Unknown => "unknown",
        }
    }

    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(HttpPhase::Idle),
            2 => Some(HttpPhase::Request),
            3 => Some(HttpPhase::Waiting),
            4 => Some(HttpPhase::Answer),
            5 => Some(HttpPhase::Unknown),
            _ => None,
        }
    }
}

// === impl Framing ===

impl Framing {
    /// Where the connection is now.
    pub fn phase(&self) -> HttpPhase {
        if self.unknown {
            HttpPhase::Unknown
        } else if self.is_inside(Direction::Download) {
            HttpPhase::Answer
        } else if self.open > u8::from(self.is_uploading_open_request()) {
            HttpPhase::Waiting
        } else if self.is_inside(Direction::Upload) {
            HttpPhase::Request
        } else {
            HttpPhase::Idle
        }
    }

    /// How many of the next bytes cannot change anything but a count, and need not be shown.
    pub fn opaque(&self, direction: Direction) -> u64 {
        let scanner = &self.scanners[direction.index()];
        match scanner.state {
            _ if self.unknown => u64::MAX,
            ParserState::UntilClose => u64::MAX,
            ParserState::Body | ParserState::ChunkData => scanner.left,
            _ => 0,
        }
    }

    /// These bytes were read next in this direction.
    pub fn inspect(&mut self, direction: Direction, mut bytes: &[u8]) -> FramingProgress {
        let mut progress = FramingProgress::default();
        while !bytes.is_empty() && !self.unknown {
            let opaque = self.opaque(direction);
            if opaque > 0 {
                let passed =
                    usize::try_from(opaque).map_or(bytes.len(), |some| some.min(bytes.len()));
                self.pass(direction, passed as u64, &mut progress);
                bytes = &bytes[passed..];
                continue;
            }
            let used = match self.fields(direction, bytes, &mut progress) {
                0 => self.line(direction, bytes, &mut progress),
                used => used,
            };
            bytes = &bytes[used..];
        }
        progress
    }

    /// This many bytes, at most [`Framing::opaque`], passed unseen.
    pub fn skip(&mut self, direction: Direction, bytes: u64) -> FramingProgress {
        let mut progress = FramingProgress::default();
        self.pass(direction, bytes, &mut progress);
        progress
    }

    /// The source of this direction has ended in order.
    pub fn end(&mut self, direction: Direction) -> FramingProgress {
        let mut progress = FramingProgress::default();
        if !self.unknown && self.scanners[direction.index()].state == ParserState::UntilClose {
            self.complete(direction, &mut progress);
        }
        progress
    }

    /// Memory for lines that are split between two pieces, in bytes.
    pub fn kept(&self) -> usize {
        let lines = self.partial.as_deref();
        lines.map_or(0, |both| both.iter().map(Vec::capacity).sum())
    }

    fn pass(&mut self, direction: Direction, bytes: u64, progress: &mut FramingProgress) {
        let scanner = &mut self.scanners[direction.index()];
        if bytes == 0 || self.unknown || scanner.state == ParserState::UntilClose {
            return;
        }
        debug_assert!(bytes <= scanner.left);
        scanner.left = scanner.left.saturating_sub(bytes);
        if scanner.left > 0 {
            return;
        }
        if scanner.state == ParserState::ChunkData {
            scanner.state = ParserState::ChunkEnd;
            scanner.head = 0;
        } else {
            self.complete(direction, progress);
        }
    }

    /// Takes the whole fields of a head and the empty line behind them, which most lines are; how many bytes they were.
    /// Leaves anything else to [`Framing::line`].
    fn fields(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        progress: &mut FramingProgress,
    ) -> usize {
        let state = self.scanners[direction.index()].state;
        if state != ParserState::Fields || self.is_split(direction) {
            return 0;
        }
        let scanner = &mut self.scanners[direction.index()];
        let mut used = 0;
        while let [first, ..] = &bytes[used..]
            && !matches!(first, b'\r' | b'\n')
            && let LineEnd::At(end) = line_end(&bytes[used..])
            && end <= KEPT_LINE
            && scanner.head + (end as u32) < MAX_HEAD
        {
            let line = &bytes[used..used + end];
            scanner.head += end as u32 + 1;
            used += end + 1;
            if scanner
                .field(line.strip_suffix(b"\r").unwrap_or(line))
                .is_break()
            {
                self.unknown = true;
                self.partial = None;
                return used;
            }
        }
        if bytes[used..].starts_with(b"\r\n") && scanner.head + 2 <= MAX_HEAD {
            used += 2;
            if self.head_complete(direction, progress).is_break() {
                self.unknown = true;
                self.partial = None;
            }
        }
        used
    }

    /// Takes the next line, or what there is of it; how many bytes it was.
    fn line(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        progress: &mut FramingProgress,
    ) -> usize {
        let index = direction.index();
        let end = line_end(bytes);
        let used = match end {
            LineEnd::At(end) => end + 1,
            LineEnd::Later | LineEnd::Stray => bytes.len(),
        };
        let scanner = &mut self.scanners[index];
        scanner.head = u32::try_from(used)
            .ok()
            .and_then(|used| scanner.head.checked_add(used))
            .unwrap_or(u32::MAX);
        let is_too_long = scanner.head > MAX_HEAD;
        let partial = self.partial.as_deref().map(|both| &both[index][..]);
        let is_after_cr = matches!(partial, Some([.., b'\r']));
        let step = match end {
            _ if is_too_long || is_after_cr && bytes[0] != b'\n' => Flow::Break(()),
            LineEnd::Stray => Flow::Break(()),
            LineEnd::Later => self.keep(direction, bytes),
            LineEnd::At(end) => match self.take_partial(direction) {
                Some(mut line) => {
                    line.extend_from_slice(&bytes[..end]);
                    self.whole_line(direction, &line, progress)
                }
                None => self.whole_line(direction, &bytes[..end], progress),
            },
        };
        if step.is_break() {
            self.unknown = true;
            self.partial = None;
        }
        used
    }

    fn take_partial(&mut self, direction: Direction) -> Option<Vec<u8>> {
        let both = self.partial.as_mut()?;
        let line = std::mem::take(&mut both[direction.index()]);
        if both.iter().all(Vec::is_empty) {
            self.partial = None;
        }
        (!line.is_empty()).then_some(line)
    }

    /// Keeps the beginning of a line, as far as it can still matter, and judges what it has to be already.
    fn keep(&mut self, direction: Direction, bytes: &[u8]) -> Flow {
        if direction == Direction::Download && self.is_unasked() {
            return Flow::Break(());
        }
        let line = &mut self.partial.get_or_insert_default()[direction.index()];
        line.extend_from_slice(bytes);
        let plausible = match (self.scanners[direction.index()].state, direction) {
            (ParserState::Start, Direction::Upload) => may_begin_request(line),
            (ParserState::Start, Direction::Download) => may_begin_answer(line),
            (ParserState::ChunkEnd, _) => line == b"\r",
            _ => true,
        };
        if !plausible {
            return Flow::Break(());
        }
        if line.len() > KEPT_LINE {
            may_be_long(self.scanners[direction.index()].state, line)?;
            line.drain(KEPT_FRONT..line.len() - KEPT_BACK);
            line.shrink_to(KEPT_LINE);
        }
        Flow::Continue(())
    }

    /// A line without its LF.
    fn whole_line(
        &mut self,
        direction: Direction,
        line: &[u8],
        progress: &mut FramingProgress,
    ) -> Flow {
        let state = self.scanners[direction.index()].state;
        if line.len() > KEPT_LINE {
            // As if it had come in pieces.
            may_be_long(state, line)?;
        }
        let (line, has_cr) = match line {
            [line @ .., b'\r'] => (line, true),
            _ => (line, false),
        };
        match (state, direction) {
            (ParserState::Start, Direction::Upload) if line.is_empty() => Flow::Continue(()),
            (ParserState::Start, Direction::Upload) => self.scanners[0].request_line(line),
            (ParserState::Start, Direction::Download) if self.is_unasked() => Flow::Break(()),
            (ParserState::Start, Direction::Download) => {
                let is_head = self.heads & 1 != 0;
                let scanner = &mut self.scanners[direction.index()];
                scanner.status_line(line, is_head)?;
                progress.begun += u32::from(scanner.flags & INTERIM == 0);
                Flow::Continue(())
            }
            (ParserState::Fields, _) if line.is_empty() => self.head_complete(direction, progress),
            (ParserState::Fields, _) => self.scanners[direction.index()].field(line),
            // Some take a bare LF here for data, some for an end: only CRLF is the same to all.
            (_, _) if !has_cr => Flow::Break(()),
            (ParserState::ChunkSize, _) => {
                let size = chunk_size(line)?;
                let scanner = &mut self.scanners[direction.index()];
                scanner.left = size;
                scanner.head = 0;
                scanner.state = if size == 0 {
                    ParserState::Trailers
                } else {
                    ParserState::ChunkData
                };
                Flow::Continue(())
            }
            (ParserState::ChunkEnd, _) if line.is_empty() => {
                let scanner = &mut self.scanners[direction.index()];
                scanner.state = ParserState::ChunkSize;
                scanner.head = 0;
                Flow::Continue(())
            }
            (ParserState::Trailers, _) if line.is_empty() => {
                self.complete(direction, progress);
                Flow::Continue(())
            }
            (ParserState::Trailers, _) => match line[0] {
                b' ' | b'\t' => Flow::Continue(()),
                _ => known(field_name(line).is_some()),
            },
            _ => Flow::Break(()),
        }
    }

    fn head_complete(&mut self, direction: Direction, progress: &mut FramingProgress) -> Flow {
        let scanner = &mut self.scanners[direction.index()];
        let flags = std::mem::take(&mut scanner.flags);
        scanner.head = 0;
        if direction == Direction::Upload {
            if self.open == MAX_PIPELINED {
                return Flow::Break(());
            }
            self.heads |= u32::from(flags & HEAD != 0) << self.open;
            self.open += 1;
            progress.requests += 1;
        } else if flags & INTERIM != 0 {
            *scanner = Scanner::default();
            return Flow::Continue(());
        } else if flags & BODILESS != 0 {
            self.complete(direction, progress);
            return Flow::Continue(());
        }
        if flags & CHUNKED != 0 {
            scanner.state = ParserState::ChunkSize;
        } else if flags & LENGTH != 0 && scanner.left > 0 {
            scanner.state = ParserState::Body;
        } else if flags & LENGTH == 0 && direction == Direction::Download {
            scanner.state = ParserState::UntilClose;
        } else {
            self.complete(direction, progress);
        }
        Flow::Continue(())
    }

    /// The message of this direction has ended.
    fn complete(&mut self, direction: Direction, progress: &mut FramingProgress) {
        let was_uploading = self.is_uploading_open_request();
        self.scanners[direction.index()] = Scanner::default();
        if direction == Direction::Upload {
            self.answered_early = false;
            return;
        }
        progress.answers += 1;
        self.heads >>= 1;
        self.open = self.open.saturating_sub(1);
        if self.open == 0 && was_uploading {
            self.answered_early = true;
        }
    }

    /// Whether a message of this direction has begun and is not complete.
    fn is_inside(&self, direction: Direction) -> bool {
        let index = direction.index();
        self.scanners[index].state != ParserState::Start || self.is_split(direction)
    }

    /// Whether the beginning of a line of this direction is kept.
    fn is_split(&self, direction: Direction) -> bool {
        let both = self.partial.as_deref();
        both.is_some_and(|both| !both[direction.index()].is_empty())
    }

    /// Whether the youngest of the open requests has a body that is under way.
    fn is_uploading_open_request(&self) -> bool {
        !self.answered_early
            && matches!(
                self.scanners[Direction::Upload.index()].state,
                ParserState::Body
                    | ParserState::ChunkSize
                    | ParserState::ChunkData
                    | ParserState::ChunkEnd
                    | ParserState::Trailers
            )
    }

    /// Whether an answer would be one to no request.
    fn is_unasked(&self) -> bool {
        self.open == 0
    }
}

// === impl Scanner ===

impl Scanner {
    fn request_line(&mut self, line: &[u8]) -> Flow {
        let Some(([front @ .., b' '], http)) = line.split_last_chunk::<8>() else {
            return Flow::Break(());
        };
        let Some(first) = memchr(b' ', front) else {
            return Flow::Break(());
        };
        let (method, target) = (&front[..first], &front[first + 1..]);
        if !is_token(method)
            || method.len() >= MAX_METHOD
            || target.is_empty()
            || method == b"CONNECT"
        {
            return Flow::Break(());
        }
        self.flags = UNFOLDABLE | version(http)?;
        if method == b"HEAD" {
            self.flags |= HEAD;
        }
        self.left = 0;
        self.state = ParserState::Fields;
        Flow::Continue(())
    }

    fn status_line(&mut self, line: &[u8], is_head: bool) -> Flow {
        let Some((
            http,
            [
                b' ',
                a @ b'1'..=b'5',
                b @ b'0'..=b'9',
                c @ b'0'..=b'9',
                rest @ ..,
            ],
        )) = line.split_at_checked(8)
        else {
            return Flow::Break(());
        };
        self.flags = UNFOLDABLE | version(http)?;
        known(matches!(rest, [] | [b' ', ..]))?;
        match (a, b, c) {
            (b'1', b'0', b'1') => return Flow::Break(()),
            (b'1', ..) => self.flags |= INTERIM,
            (b'2', b'0', b'4') | (b'3', b'0', b'4') => self.flags |= BODILESS,
            _ if is_head => self.flags |= BODILESS,
            _ => {}
        }
        self.left = 0;
        self.state = ParserState::Fields;
        Flow::Continue(())
    }

    fn field(&mut self, line: &[u8]) -> Flow {
        if let [b' ' | b'\t', ..] = line {
            return known(self.flags & UNFOLDABLE == 0);
        }
        let (field, value) = match plain_length(line) {
            Some(plain) => plain,
            None if !may_name_length(line) => {
                self.flags &= !UNFOLDABLE;
                return Flow::Continue(());
            }
            None => {
                let Some(name) = field_name(line) else {
                    return Flow::Break(());
                };
                (Field::of(name), trim(&line[name.len() + 1..]))
            }
        };
        self.flags |= UNFOLDABLE;
        match field {
            Field::ContentLength => {
                known(self.flags & (LENGTH | CHUNKED) == 0)?;
                self.left = decimal(value)?;
                self.flags |= LENGTH;
            }
            Field::TransferEncoding => {
                known(self.flags & (LENGTH | CHUNKED | OLD) == 0)?;
                known(ends_in_chunked(value))?;
                self.flags |= CHUNKED;
            }
            Field::Other => self.flags &= !UNFOLDABLE,
        }
        Flow::Continue(())
    }
}

/// Whether the middle of such a line can be dropped: a length is never this long, and a name is known by now.
fn may_be_long(state: ParserState, line: &[u8]) -> Flow {
    match state {
        ParserState::Start => Flow::Continue(()),
        ParserState::Fields | ParserState::Trailers => {
            let name = field_name(&line[..KEPT_FRONT]);
            known(name.is_some_and(|name| Field::of(name) == Field::Other))
        }
        _ => Flow::Break(()),
    }
}

#[cfg(test)]
mod tests;
