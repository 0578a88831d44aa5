//! What a relay is given and what it says in the end.

use std::io;

use crate::duration_window::DurationWindow;
use crate::events::Reason;
use crate::sys::socket::Fault;
use crate::types::Side;

use super::counters::Counters;
use super::settings::Limits;
use super::tally::Tally;

/// What one relay is given.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Time limits and the lane.
    pub limits: &'a Limits,
    /// Where live counts go, and orders come from.
    pub tally: &'a Tally,
    /// Where first-answer times of this upstream address go.
    pub answers: &'a DurationWindow,
    /// Shared counts and bounds.
    pub counters: &'a Counters,
    /// Untried candidates remain: an untouched upstream end comes back as [`Outcome::Untouched`].
    pub may_move: bool,
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome {
    /// Both directions ended in order; this side first.
    Finished {
        /// The side whose end came first.
        first: Side,
    },
    /// A side was reset or lost, and the other was told so.
    Reset(Side, Fault),
    /// The upstream ended within a second and no byte had moved; the client knows nothing of it. `None`: a FIN.
    /// Only with [`Terms::may_move`]; relay the same client again, with the same tally, to another upstream.
    Untouched(Option<Fault>),
    /// Fully open and silent for `idle_timeout`.
    IdleTimeout,
    /// Half open and silent for `half_open_timeout`.
    HalfOpenTimeout,
    /// Closed at rest or cut, as ordered.
    Ordered(Reason),
    /// A call failed in a way that is no fault of a peer; both sides were reset.
    Internal(io::Error),
}
