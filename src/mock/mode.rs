//! The ways an entry point can behave.

use std::fmt;
use std::str::FromStr;

/// How a zone behaves. `refuse` and `silent` act on new connections only, `rst` and `fin` right after accept, `dead`
/// and `dead-silent` on new and open ones, the others on every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZoneMode {
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
#[error("unknown mode {0:?}; modes: {list}", list = ZoneMode::ALL.map(ZoneMode::as_str).join(" "))]
pub struct UnknownMode(pub String);

// === impl Mode ===

impl ZoneMode {
    pub const ALL: [ZoneMode; 14] = [
        ZoneMode::Ok,
        ZoneMode::Refuse,
        ZoneMode::Silent,
        ZoneMode::Freeze,
        ZoneMode::Rst,
        ZoneMode::Fin,
        ZoneMode::Slow,
        ZoneMode::SlowBody,
        ZoneMode::Status503,
        ZoneMode::Status429,
        ZoneMode::Html,
        ZoneMode::OtherIdentity,
        ZoneMode::Dead,
        ZoneMode::DeadSilent,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            ZoneMode::Ok => "ok",
            ZoneMode::Refuse => "refuse",
            ZoneMode::Silent => "silent",
            ZoneMode::Freeze => "freeze",
            ZoneMode::Rst => "rst",
            ZoneMode::Fin => "fin",
            ZoneMode::Slow => "slow",
            ZoneMode::SlowBody => "slow-body",
            ZoneMode::Status503 => "503",
            ZoneMode::Status429 => "429",
            ZoneMode::Html => "html",
            ZoneMode::OtherIdentity => "other-identity",
            ZoneMode::Dead => "dead",
            ZoneMode::DeadSilent => "dead-silent",
        }
    }

    pub(super) const fn listening(self) -> Listening {
        match self {
            ZoneMode::Refuse | ZoneMode::Dead => Listening::Closed,
            ZoneMode::Silent | ZoneMode::DeadSilent => Listening::Full,
            _ => Listening::Open,
        }
    }

    /// Whether requests on open connections get no answer while the mode lasts.
    pub(super) const fn is_mute(self) -> bool {
        matches!(self, ZoneMode::Freeze | ZoneMode::DeadSilent)
    }
}

impl fmt::Display for ZoneMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ZoneMode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        ZoneMode::ALL
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| UnknownMode(text.to_owned()))
    }
}
