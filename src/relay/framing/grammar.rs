//! What a line of HTTP/1.1 says: RFC 9112 and, for tokens and white space, RFC 9110.

use std::ops::ControlFlow;

use memchr::{memchr, memchr3};

use super::OLD;

/// Longest method and its space.
pub(super) const MAX_METHOD: usize = 24;

/// `Break`: what follows cannot be told apart any more.
pub(super) type Flow = ControlFlow<()>;

/// The fields that framing depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    ContentLength,
    TransferEncoding,
    Other,
}

// === impl Field ===

impl Field {
    #[inline]
    pub(super) fn of(name: &[u8]) -> Self {
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => Field::ContentLength,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => Field::TransferEncoding,
            _ => Field::Other,
        }
    }
}

/// A field that framing depends on and its value, where the line is one as nearly everybody writes it. [`field_name`] and
/// [`Field::of`] say the same of the others.
#[inline]
pub(super) fn plain_length(line: &[u8]) -> Option<(Field, &[u8])> {
    let after = |name: &[u8]| {
        let (begin, value) = line.split_at_checked(name.len())?;
        begin.eq_ignore_ascii_case(name).then(|| trim(value))
    };
    // The first bytes in which the two differ from `Content-Type` and its like.
    match line.get(8)? {
        b'L' | b'l' => Some((Field::ContentLength, after(b"content-length:")?)),
        b'-' => Some((Field::TransferEncoding, after(b"transfer-encoding:")?)),
        _ => None,
    }
}

/// Whether the name of a field can be one that framing depends on. Nearly all are told from these by their first letter,
/// the others by what follows it.
#[inline]
pub(super) fn may_name_length(line: &[u8]) -> bool {
    const BEGINNINGS: [&[u8; 9]; 2] = [b"content-l", b"transfer-"];
    let first = line[0] | 0x20;
    if first.is_ascii_lowercase() && !matches!(first, b'c' | b't') {
        return false;
    }
    let Some(begin) = line.first_chunk::<9>() else {
        return true;
    };
    match begin.iter().position(|byte| !TOKEN[usize::from(*byte)]) {
        // A shorter name; or one with what is no part of a name.
        Some(at) => begin[at] != b':' || at == 0,
        None => {
            matches!(begin[8], b'L' | b'l' | b'-')
                && BEGINNINGS
                    .iter()
                    .any(|name| begin.eq_ignore_ascii_case(*name))
        }
    }
}

#[inline]
pub(super) fn known(holds: bool) -> Flow {
    if holds {
        Flow::Continue(())
    } else {
        Flow::Break(())
    }
}

/// Where a line ends.
pub(super) enum LineEnd {
    /// Its LF is there.
    At(usize),
    /// Not in these bytes.
    Later,
    /// It has a CR that ends no line, or a NUL: some take the first for a line end, some cut at the second.
    Stray,
}

#[inline]
pub(super) fn line_end(bytes: &[u8]) -> LineEnd {
    match memchr3(b'\n', b'\r', b'\0', bytes) {
        None => LineEnd::Later,
        Some(at) => match (bytes[at], bytes.get(at + 1)) {
            (b'\n', _) => LineEnd::At(at),
            (b'\r', Some(b'\n')) => LineEnd::At(at + 1),
            (b'\r', None) => LineEnd::Later,
            _ => LineEnd::Stray,
        },
    }
}

/// The name before the colon; `None` where there is none, or it is none: a space before the colon included.
#[inline]
pub(super) fn field_name(line: &[u8]) -> Option<&[u8]> {
    let name = &line[..memchr(b':', line)?];
    is_token(name).then_some(name)
}

/// Without the white space around it that RFC 9110 allows: other kinds are part of the value.
#[inline]
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The bytes of a token: RFC 9110, section 5.6.2.
const TOKEN: [bool; 256] = {
    let marks = b"!#$%&'*+-.^_`|~";
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut mark = 0;
    while mark < marks.len() {
        table[marks[mark] as usize] = true;
        mark += 1;
    }
    table
};

#[inline]
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| TOKEN[usize::from(*byte)])
}

/// The flag of an HTTP/1.x version.
pub(super) fn version(text: &[u8]) -> ControlFlow<(), u8> {
    match text {
        b"HTTP/1.0" => ControlFlow::Continue(OLD),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => ControlFlow::Continue(0),
        _ => ControlFlow::Break(()),
    }
}

pub(super) fn decimal(text: &[u8]) -> ControlFlow<(), u64> {
    number(text, 19, 10)
}

/// The size in front of chunk extensions.
pub(super) fn chunk_size(line: &[u8]) -> ControlFlow<(), u64> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let (size, rest) = line.split_at(digits);
    known(matches!(trim(rest), [] | [b';', ..]))?;
    number(size, 16, 16)
}

/// At most so many digits, below 2^63.
fn number(text: &[u8], most: usize, radix: u32) -> ControlFlow<(), u64> {
    known((1..=most).contains(&text.len()))?;
    let mut value = 0;
    for byte in text {
        let Some(digit) = char::from(*byte).to_digit(radix) else {
            return ControlFlow::Break(());
        };
        // 19 decimal digits, as 16 hexadecimal ones, are less than 2^64.
        value = value * u64::from(radix) + u64::from(digit);
    }
    known(i64::try_from(value).is_ok())?;
    ControlFlow::Continue(value)
}

pub(super) fn ends_in_chunked(value: &[u8]) -> bool {
    let mut codings = value.rsplit(|byte| *byte == b',').map(trim);
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    codings.next().is_some_and(is_chunked)
        && codings.all(|coding| !is_chunked(coding) && is_token(coding))
}

/// Whether a request line may begin like this.
pub(super) fn may_begin_request(line: &[u8]) -> bool {
    match line.iter().take(MAX_METHOD).position(|byte| *byte == b' ') {
        Some(space) => is_token(&line[..space]),
        None => line == b"\r" || (line.len() < MAX_METHOD && is_token(line)),
    }
}

/// Whether a status line may begin like this.
pub(super) fn may_begin_answer(line: &[u8]) -> bool {
    const HTTP: &[u8] = b"HTTP/1.";
    let common = line.len().min(HTTP.len());
    line[..common] == HTTP[..common]
}
