//! How an exchange ends before there is an answer to evaluate, and how bytes of the other side are shown.

use std::io;

use crate::upstream::input::ProbeOutcome;

/// So much is shown of what an address said.
const SHOWN: usize = 80;

/// Why a probe's exchange ended before there was an answer to evaluate.
#[derive(Debug)]
pub(super) enum ProbeEnd {
    Io(io::Error),
    Outcome(ProbeOutcome),
}

/// Bytes of the other side, for people: escaped, and cut.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN)];
    let mut text = String::from_utf8_lossy(cut.trim_ascii())
        .escape_debug()
        .to_string();
    if bytes.len() > SHOWN {
        text.push('…');
    }
    text
}
