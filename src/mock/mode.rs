//! The ways an entry point can behave.

use std::fmt;
use std::str::FromStr;

/// How a zone behaves. `refuse` and `silent` act on new connections only, `rst` and `fin` right after accept, `dead`
/// and `dead-silent` on new and open ones, the others on every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    Ok,
    /// The listening socket is closed: connects are refused. Open connections are served on.
    Refuse,
    /// Connects are not answered (full backlog). Open connections are served on.
    Silent,
    /// Accepts and never answers; requests that came meanwhile are answered when the mode ends.
    Freeze,
    /// Resets right after accept.
    Rst,
    /// Closes right after accept.
    Fin,
    /// Answers late.
    Slow,
    /// Sends heads at once and bodies in pieces.
    SlowBody,
    /// A load balancer without targets.
    Status503,
    /// A node over its capacity.
    Status429,
    /// Answers 200 with a web page, like a captive portal.
    Html,
    /// Answers as another Datomic system.
    OtherIdentity,
    /// Open connections are reset, connects refused: the process is gone.
    Dead,
    /// Open connections are mute, connects not answered: the network is gone.
    DeadSilent,
}

/// What a mode does to the listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    Open,
    Closed,
    /// Open with a full accept queue: SYNs are not answered.
    Full,
}

/// A mode that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown mode {0:?}; modes: {list}", list = Mode::ALL.map(Mode::as_str).join(" "))]
pub struct UnknownMode(pub String);

// === impl Mode ===

impl Mode {
    pub const ALL: [Mode; 14] = [
        Mode::Ok,
        Mode::Refuse,
        Mode::Silent,
        Mode::Freeze,
        Mode::Rst,
        Mode::Fin,
        Mode::Slow,
        Mode::SlowBody,
        Mode::Status503,
        Mode::Status429,
        Mode::Html,
        Mode::OtherIdentity,
        Mode::Dead,
        Mode::DeadSilent,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Ok => "ok",
            Mode::Refuse => "refuse",
            Mode::Silent => "silent",
            Mode::Freeze => "freeze",
            Mode::Rst => "rst",
            Mode::Fin => "fin",
            Mode::Slow => "slow",
            Mode::SlowBody => "slow-body",
            Mode::Status503 => "503",
            Mode::Status429 => "429",
            Mode::Html => "html",
            Mode::OtherIdentity => "other-identity",
            Mode::Dead => "dead",
            Mode::DeadSilent => "dead-silent",
        }
    }

    pub(super) const fn listening(self) -> Listening {
        match self {
            Mode::Refuse | Mode::Dead => Listening::Closed,
            Mode::Silent | Mode::DeadSilent => Listening::Full,
            _ => Listening::Open,
        }
    }

    /// Whether requests on open connections get no answer while the mode lasts.
    pub(super) const fn is_mute(self) -> bool {
        matches!(self, Mode::Freeze | Mode::DeadSilent)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        Mode::ALL
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| UnknownMode(text.to_owned()))
    }
}
