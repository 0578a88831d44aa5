//! Early closing: which connections at rest are closed, and which waiting ones are cut.
//!
//! Pure but for the statistics it reads; `now` is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;
use crate::connection::Entry;
use crate::events::Reason;
use crate::relay::{ConnStats, ConnectionCommand, HttpPhase};
use crate::types::Direction;
use crate::upstream::constants;
use crate::upstream::input::Intent;
use crate::upstream::settings::OnDown;
use crate::upstream::snapshot::{AddressView, EndpointView, HealthState, Snapshot};

/// Silence that makes a connection at rest where HTTP framing does not tell.
pub(super) const QUIET: Duration = Duration::from_secs(10);

/// At least this often it is checked whether a waiting peer still acknowledges.
const CHECK_DELIVERY: Duration = Duration::from_secs(1);

/// At this age of a connection to an upstream its socket gets its options, which can matter only later.
const OPTIONS_AFTER: Duration = Duration::from_secs(1);

/// How long a command to close stands at a busy connection. Longer than a tick, so that it stands without a gap while
/// it is repeated.
const COMMAND_STANDS: Duration = Duration::from_millis(300);
/// The same for the sake of balance, which is not repeated: a connection that is chosen is closed behind its answer, and does
/// not use up the pace for nothing.
const REBALANCE_STANDS: Duration = Duration::from_secs(5);

/// A busy connection whose request has waited for longer is not chosen for the sake of balance.
const LONG_WAIT: Duration = Duration::from_millis(500);

/// Quiet behind a download that lets a connection leave an address which answers, but wrongly.
const UNHEALTHY_QUIET: Duration = Duration::from_millis(250);

/// What rebalancing may catch up on when a pass came late.
const CATCH_UP: Duration = Duration::from_millis(200);

/// Share of the farther connections that may be closed a second.
const REBALANCE_SHARE: f64 = 0.05;

/// What the settings of an upstream say about established connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloseRules {
    /// What happens to connections that wait on a silent address.
    pub on_down: OnDown,
    /// Age above which connections at rest are closed.
    pub max_age: Option<Duration>,
    /// How long sent bytes may stay unacknowledged.
    pub user_timeout: Option<Duration>,
}

/// How often it is checked whether a waiting peer still acknowledges.
pub(super) fn delivery_check(user_timeout: Duration) -> Duration {
    (user_timeout / 4).min(CHECK_DELIVERY)
}

/// One established connection.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    pub(super) id: u64,
    pub(super) age: Duration,
    /// Connected to its candidate since.
    pub(super) since: Moment,
    /// A command stands at it.
    pub(super) is_ordered: bool,
    pub(super) stats: &'a ConnStats,
}

// === impl CloseRules ===

impl CloseRules {
    /// How long after its connect the upstream leg gets its options.
    pub(super) fn options_after(&self) -> Duration {
        // Early in a short user timeout: the kernel looks at it only when it sends again, at intervals that double.
        self.user_timeout.map_or(OPTIONS_AFTER, delivery_check)
    }
}

// === impl Pair ===

impl<'a> Pair<'a> {
    /// Of a connection that has an upstream since `since`.
    pub(super) fn of(entry: &'a Entry, since: Moment, now: Moment) -> Self {
        Self {
            id: entry.id,
            age: now.since(entry.accepted),
            since,
            is_ordered: entry.commands.is_set(),
            stats: &entry.stats,
        }
    }

    pub(super) fn at_rest(&self, now: Moment, quiet: Duration) -> bool {
        self.stats.at_rest(now, self.since, quiet)
    }

    /// The command that closes this connection at rest; where framing shows it to be busy, as soon as it is.
    pub(super) fn close(
        &self,
        reason: Reason,
        now: Moment,
        quiet: Duration,
    ) -> Option<ConnectionCommand> {
        let stands = match reason {
            Reason::Rebalance => REBALANCE_STANDS,
            _ => COMMAND_STANDS,
        };
        (self.stats.is_framed() || self.at_rest(now, quiet)).then(|| {
            ConnectionCommand::CloseAtRest {
                reason,
                quiet,
                until: now + stands,
            }
        })
    }

    /// Whether a close that is ordered now will soon happen.
    fn may_close_soon(&self, now: Moment) -> bool {
        let waiting = self.stats.waiting_since();
        let is_quick = || waiting.is_none_or(|since| now.since(since) < LONG_WAIT);
        !self.is_ordered && (self.at_rest(now, QUIET) || self.stats.is_framed() && is_quick())
    }
}

/// Decides about the connections of one upstream, and keeps the pace of rebalancing: on average the stated share of the
/// farther connections a second, jittered, and in no second more than that.
#[derive(Debug, Default)]
pub(super) struct IdleCloser {
    /// When the next connection may be closed. Advances by the stated spacing, not from the moment of a close, so that
    /// the mean pace holds although passes come every 100 ms.
    next: Moment,
    /// When connections were closed in the last second.
    closed: VecDeque<Moment>,
    /// Farther connections seen in this pass, and in the last.
    farther: usize,
    farther_last: usize,
}

// === impl IdleCloser ===

impl IdleCloser {
    pub(super) fn begin_pass(&mut self, snapshot: &Snapshot, now: Moment) {
        self.farther_last = std::mem::take(&mut self.farther);
        while self
            .closed
            .front()
            .is_some_and(|at| now.since(*at) >= Duration::from_secs(1))
        {
            self.closed.pop_front();
        }
        if snapshot.rebalance.is_none() {
            self.next = now;
        }
    }

    /// Connections a second.
    fn rate(&self) -> f64 {
        (self.farther_last as f64 * REBALANCE_SHARE).max(1.0)
    }

    fn may_rebalance(&self, now: Moment) -> bool {
        self.next <= now && (self.closed.len() as f64) < self.rate().ceil()
    }

    fn rebalanced(&mut self, now: Moment) {
        // What was not used is not saved up for a burst.
        if now.since(self.next) > CATCH_UP {
            self.next = now;
        }
        let spacing = (0.9 + 0.2 * fastrand::f64()) / self.rate();
        self.next = self.next + Duration::from_secs_f64(spacing);
        self.closed.push_back(now);
    }

    /// What is to be done about this connection, if anything.
    pub(super) fn evaluate(
        &mut self,
        pair: &Pair<'_>,
        found: Option<(&EndpointView, &AddressView)>,
        snapshot: &Snapshot,
        rules: CloseRules,
        now: Moment,
    ) -> Option<ConnectionCommand> {
        if let Some((_, view)) = found
            && rules.on_down == OnDown::CutSilent
            && let Some(order) = silent(pair, view, snapshot, now)
        {
            return Some(order);
        }
        if let Some((_, view)) = found
            && rules.on_down == OnDown::CutSilent
            && view.state == HealthState::Down
            && view.down_by_silence.is_none()
            && snapshot.other_up(view.address.socket)
        {
            return pair.close(Reason::EndpointUnhealthy, now, UNHEALTHY_QUIET);
        }
        let socket = found.map(|(_, view)| view.address.socket);
        let is_farther = socket.is_some_and(|socket| {
            let farther = snapshot.rebalance.as_ref();
            farther.is_some_and(|farther| farther.sockets.contains(&socket))
        });
        self.farther += usize::from(is_farther);
        let in_doubt = found.is_some_and(|(_, view)| {
            matches!(view.state, HealthState::Suspect | HealthState::Down)
        });
        let reason = if found.is_some_and(|(_, view)| view.mismatch) {
            Reason::IdentityMismatch
        } else if found.is_some_and(|(endpoint, _)| endpoint.intent == Intent::Drain) {
            Reason::DrainIdle
        } else if in_doubt {
            return None;
        } else if rules
            .max_age
            .is_some_and(|max_age| pair.age >= jittered(max_age, pair.id))
        {
            Reason::MaxAge
        } else if is_farther && self.may_rebalance(now) && pair.may_close_soon(now) {
            self.rebalanced(now);
            Reason::Rebalance
        } else {
            return None;
        };
        pair.close(reason, now, QUIET)
    }
}

/// Where the address is down by silence, and another is up: what is to be done.
fn silent(
    pair: &Pair<'_>,
    view: &AddressView,
    snapshot: &Snapshot,
    now: Moment,
) -> Option<ConnectionCommand> {
    let probed = view.down_by_silence?;
    if now.since(probed) < constants::CUT_SILENT || !snapshot.other_up(view.address.socket) {
        return None;
    }
    let stats = pair.stats;
    if pair.at_rest(now, QUIET) {
        return pair.close(Reason::EndpointSilent, now, QUIET);
    }
    let waits = match stats.phase() {
        Some(HttpPhase::Request | HttpPhase::Waiting) => true,
        Some(HttpPhase::Idle | HttpPhase::Answer) => false,
        // A byte that has not left its buffer waits as well: the upstream does not even take it.
        Some(HttpPhase::Unknown) | None => match stats.last_direction() {
            Some(direction) => direction == Direction::Upload,
            None => stats.pending() > 0,
        },
    };
    let heard = stats.last_download().is_some_and(|heard| heard >= probed);
    // One that connected after that probe has not been answered by the silence we know of.
    let older = pair.since < probed || now.since(pair.since) >= constants::CUT_SILENT;
    (waits && !heard && older).then_some(ConnectionCommand::Cut(Reason::EndpointSilent))
}

/// Up to a tenth later, by connection: connections that were opened together are not closed together.
fn jittered(max_age: Duration, id: u64) -> Duration {
    let spread = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    max_age + max_age.mul_f64(0.1 * spread as f64 / f64::from(1 << 24))
}
