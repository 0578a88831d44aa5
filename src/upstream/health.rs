//! The health of one address: a state machine over probe results and suspicions.
//!
//! A transition comes only after its threshold; a dial or a slow answer never marks an address down by itself; timeouts
//! are distinguished from refusals. Has no clock: the caller filters what is void and says whether timeouts may mark
//! this address down now ([`TimeoutMarkdownLimit`]).

use std::borrow::Cow;
use std::time::Duration;

use crate::clock::Moment;
use crate::upstream::constants;
use crate::upstream::input::SuspicionKind;
use crate::upstream::settings::{FailbackSettings, HealthSettings};
use crate::upstream::snapshot::{HealthState, ProbeMode};

/// What a probe says about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeVerdict {
    Ok,
    /// Refused, or without a route: what the network says itself.
    Unreachable(&'static str),
    Timeout,
    BadResponse(String),
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: HealthState,
    pub to: HealthState,
    pub reason: Cow<'static, str>,
    /// Down, and silence had a part in it.
    pub silent: bool,
}

/// The health of one address.
#[derive(Clone, Debug)]
pub struct AddressHealth {
    state: HealthState,
    since: Moment,
    reason: Cow<'static, str>,
    /// Consecutive failures; how many of them, counted from the last, were refusals; consecutive successes.
    failures: u32,
    unreachable: u32,
    successes: u32,
    /// Consecutive timeouts, and when the first of them was sent.
    timeouts: u32,
    first_timeout_sent: Option<Moment>,
    /// Whether a timeout is among the consecutive failures: then the limit on silence holds.
    has_timeout: bool,
    /// When the latest successful probe was sent: failures sent before it are old news.
    last_success_sent: Option<Moment>,
    /// A suspect that was returning goes back to that, with its time kept.
    returning_since: Option<Moment>,
    /// The last suspicion by a slow answer.
    slow_answer_at: Option<Moment>,
    /// The present suspicion came from an address mute on every connection.
    suspected_as_mute: bool,
    /// How long the exception for mute addresses pauses after the next cleared suspicion of that kind, and until when
    /// it pauses now.
    mute_pause: Duration,
    mute_paused_until: Moment,
    /// Connections that it has ended without an answer.
    ends: UnansweredEnds,
    /// Since when it is up, cleared suspicions included: rebalancing waits for a time of being up, and a suspicion
    /// that a probe clears is no interruption of it.
    up_since: Option<Moment>,
    /// It is up by failback, since then.
    ramp_from: Option<Moment>,
    /// What is between it and us is in doubt since then: asked until it has answered.
    doubted: Option<Moment>,
}

/// What speaks against a probe that succeeds: connections that the address ends without an answer, each begun after a probe
/// had cleared it of the one before, and not one answer in between. Else an address that takes connections and does not
/// serve them would get the next request as soon as its probe had succeeded, for ever.
#[derive(Clone, Copy, Debug, Default)]
struct UnansweredEnds {
    in_a_row: u32,
    /// How many answers the address had given before them.
    answers: u64,
    /// How long it stays suspect, and until when that is now.
    pause: Duration,
    paused_until: Moment,
}

/// Silence marks at most one zone down per 30 s while another is up.
#[derive(Clone, Debug, Default)]
pub struct TimeoutMarkdownLimit {
    /// Who was marked in the last 30 s.
    marks: Vec<(String, Moment)>,
}

/// How often a slow answer may make one address suspect.
const SLOW_ANSWER_INTERVAL: Duration = Duration::from_secs(10);
/// How long the exception for mute addresses pauses after a cleared suspicion, at first and at most.
const MUTE_PAUSE: Duration = Duration::from_secs(10);
const MAX_MUTE_PAUSE: Duration = Duration::from_secs(300);
/// So many ends without an answer in a row outweigh a probe, at first and at most for so long.
const UNANSWERED_ENDS: u32 = 3;
const UNANSWERED_PAUSE: Duration = Duration::from_secs(10);
const MAX_UNANSWERED_PAUSE: Duration = Duration::from_secs(300);

// === impl UnansweredEnds ===

impl UnansweredEnds {
    fn add(&mut self, now: Moment) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row >= UNANSWERED_ENDS {
            self.pause = (2 * self.pause).clamp(UNANSWERED_PAUSE, MAX_UNANSWERED_PAUSE);
            self.paused_until = now + self.pause;
        }
    }
}

// === impl AddressHealth ===

impl AddressHealth {
    /// Nothing is known. With probes off: up.
    pub fn new(now: Moment, probes: bool) -> Self {
        Self {
            state: if probes {
                HealthState::Unknown
            } else {
                HealthState::Up
            },
            since: now,
            reason: Cow::Borrowed(if probes { "new" } else { "unprobed" }),
            failures: 0,
            unreachable: 0,
            successes: 0,
            timeouts: 0,
            first_timeout_sent: None,
            has_timeout: false,
            last_success_sent: None,
            returning_since: None,
            slow_answer_at: None,
            suspected_as_mute: false,
            mute_pause: Duration::ZERO,
            mute_paused_until: Moment::default(),
            ends: UnansweredEnds::default(),
            up_since: (!probes).then_some(now),
            ramp_from: None,
            doubted: None,
        }
    }

    pub fn state(&self) -> HealthState {
        self.state
    }

    pub fn since(&self) -> Moment {
        self.since
    }

    pub fn reason(&self) -> &Cow<'static, str> {
        &self.reason
    }

    /// Consecutive failed probes.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Down by silence: when the first of the failed probes was sent.
    pub fn down_by_silence(&self, settings: &HealthSettings) -> Option<Moment> {
        (self.state == HealthState::Down && self.timeouts >= settings.fall)
            .then_some(self.first_timeout_sent)
            .flatten()
    }

    /// While it shifts back: since when.
    pub fn ramp_from(&self, now: Moment, failback: &FailbackSettings) -> Option<Moment> {
        self.ramp_from
            .filter(|from| self.state == HealthState::Up && now.since(*from) < failback.ramp)
    }

    /// Since when its being up counts as settled, so that farther connections may move: after the ramp where it came
    /// back by failback, else after the time that failback takes.
    pub fn settled(&self, now: Moment, failback: &FailbackSettings) -> Option<Moment> {
        self.settles_at(failback)
            .filter(|settled| self.state == HealthState::Up && *settled <= now)
    }

    /// When its being up counts, or will count, as settled.
    pub fn settles_at(&self, failback: &FailbackSettings) -> Option<Moment> {
        let wait = self.ramp_from.map_or(failback.after, |_| failback.ramp);
        Some(self.up_since? + wait)
    }

    /// How it is to be probed.
    pub fn pace(&self, settings: &HealthSettings) -> ProbeMode {
        match self.state {
            _ if !settings.probes() => ProbeMode::Off,
            HealthState::Down if self.successes == 0 => ProbeMode::Down,
            HealthState::Down | HealthState::Suspect => ProbeMode::Fast(settings.fast()),
            _ if self.failures > 0 || self.doubted.is_some() => ProbeMode::Fast(settings.fast()),
            _ => ProbeMode::Regular,
        }
    }

    /// A probe that was sent at `sent` has ended. `timeout_may_mark_down` says whether silence may mark this one down
    /// now.
    pub fn probed(
        &mut self,
        now: Moment,
        sent: Moment,
        verdict: &ProbeVerdict,
        timeout_may_mark_down: bool,
        settings: &HealthSettings,
    ) -> Option<Transition> {
        if *verdict == ProbeVerdict::Ok {
            return self.succeeded(now, sent, settings);
        }
        if self.last_success_sent.is_some_and(|success| success > sent) {
            return None;
        }
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        self.slow_answer_at = None;
        if *verdict == ProbeVerdict::Timeout {
            self.has_timeout = true;
            self.timeouts = self.timeouts.saturating_add(1);
            self.first_timeout_sent = Some(
                self.first_timeout_sent
                    .map_or(sent, |first| first.min(sent)),
            );
        } else {
            self.timeouts = 0;
            self.first_timeout_sent = None;
        }
        self.unreachable = match verdict {
            ProbeVerdict::Unreachable(_) => self.unreachable.saturating_add(1),
            _ => 0,
        };
        let reason = match verdict {
            ProbeVerdict::Unreachable(code) => Cow::Borrowed(*code),
            ProbeVerdict::BadResponse(code) => Cow::Owned(code.clone()),
            ProbeVerdict::Timeout | ProbeVerdict::Ok => Cow::Borrowed("timeout"),
        };
        let first = self.state == HealthState::Unknown && self.unreachable > 0;
        if self.state == HealthState::Down {
            None
        } else if first
            || self.unreachable >= constants::HARD_FALL
            || (self.failures >= settings.fall && !self.has_timeout)
        {
            self.transition(now, HealthState::Down, reason, false)
        } else if self.failures < settings.fall {
            None
        } else if timeout_may_mark_down {
            self.transition(now, HealthState::Down, reason, true)
        } else if self.state == HealthState::Suspect {
            None
        } else {
            self.mark_suspect(now, Cow::Borrowed("silent"))
        }
    }

    fn succeeded(
        &mut self,
        now: Moment,
        sent: Moment,
        settings: &HealthSettings,
    ) -> Option<Transition> {
        // Sent before the suspicion began: says nothing about now.
        if self.state == HealthState::Suspect && sent < self.since {
            return None;
        }
        if self.doubted.is_some_and(|doubted| sent >= doubted) {
            self.doubted = None;
        }
        self.last_success_sent = self.last_success_sent.max(Some(sent));
        self.successes = self.successes.saturating_add(1);
        self.failures = 0;
        self.unreachable = 0;
        self.timeouts = 0;
        self.first_timeout_sent = None;
        self.has_timeout = false;
        if std::mem::take(&mut self.suspected_as_mute) {
            self.mute_pause = (2 * self.mute_pause).clamp(MUTE_PAUSE, MAX_MUTE_PAUSE);
            self.mute_paused_until = now + self.mute_pause;
        }
        match self.state {
            HealthState::Up | HealthState::Returning => None,
            HealthState::Unknown => self.up(now, Cow::Borrowed("probe_ok")),
            HealthState::Suspect if now < self.ends.paused_until => None,
            HealthState::Suspect => match self.returning_since.take() {
                Some(since) => {
                    let transition = self.transition(
                        now,
                        HealthState::Returning,
                        Cow::Borrowed("cleared"),
                        false,
                    );
                    self.since = since;
                    transition
                }
                None => {
                    let (up_since, ramp_from) = (self.up_since, self.ramp_from);
                    let transition = self.up(now, Cow::Borrowed("cleared"));
                    self.up_since = up_since.or(self.up_since);
                    self.ramp_from = ramp_from;
                    transition
                }
            },
            HealthState::Down if self.successes >= settings.rise => self.transition(
                now,
                HealthState::Returning,
                Cow::Borrowed("probe_ok"),
                false,
            ),
            HealthState::Down => None,
        }
    }

    /// So many answers it has given by now: one more than last time, and its ends without an answer count no longer.
    pub fn answered(&mut self, answers: u64) {
        if self.ends.answers != answers {
            self.ends = UnansweredEnds {
                answers,
                ..UnansweredEnds::default()
            };
        }
    }

    /// It has ended a connection without an answer to what was sent at `started`.
    pub fn ended_unanswered(&mut self, now: Moment, started: Moment) {
        // What was under way when it became suspect, or had been cleared, is the same end once more.
        let is_news = matches!(self.state, HealthState::Up | HealthState::Returning);
        if is_news && started >= self.since {
            self.ends.add(now);
        }
    }

    /// Traffic makes it suspect.
    pub fn suspect(
        &mut self,
        now: Moment,
        reason: &'static str,
        kind: SuspicionKind,
    ) -> Option<Transition> {
        let mute = kind == SuspicionKind::Mute && now >= self.mute_paused_until;
        if kind != SuspicionKind::Immediate {
            let repeated = self
                .slow_answer_at
                .is_some_and(|last| now.since(last) < SLOW_ANSWER_INTERVAL);
            if repeated && !mute {
                return None;
            }
            self.slow_answer_at = Some(now);
        }
        match self.state {
            HealthState::Down | HealthState::Suspect => None,
            _ => {
                self.suspected_as_mute = mute;
                self.mark_suspect(now, Cow::Borrowed(reason))
            }
        }
    }

    /// What is between it and us is in doubt. Whether that changes how it is probed.
    pub fn doubt(&mut self, now: Moment) -> bool {
        let is_quiet = matches!(self.state, HealthState::Up | HealthState::Returning)
            && self.failures == 0
            && self.doubted.is_none();
        if is_quiet {
            self.doubted = Some(now);
        }
        is_quiet
    }

    /// Time has passed. `last_move`: when the active zone last moved.
    pub fn tick(
        &mut self,
        now: Moment,
        timeout_may_mark_down: bool,
        last_move: Option<Moment>,
        settings: &HealthSettings,
        failback: &FailbackSettings,
    ) -> Option<Transition> {
        let in_state = now.since(self.since);
        match self.state {
            HealthState::Suspect
                if !settings.probes() && in_state >= constants::SUSPECT_UNPROBED =>
            {
                self.up(now, Cow::Borrowed("unprobed"))
            }
            HealthState::Suspect if self.failures >= settings.fall && timeout_may_mark_down => {
                self.transition(now, HealthState::Down, Cow::Borrowed("timeout"), true)
            }
            HealthState::Returning
                if in_state >= failback.after
                    && self.successes >= settings.rise
                    && last_move.is_none_or(|moved| now.since(moved) >= failback.dwell()) =>
            {
                let transition = self.up(now, Cow::Borrowed("failback"));
                self.ramp_from = Some(now);
                transition
            }
            _ => None,
        }
    }

    /// We were away (asleep, stopped): what was counted so far does not count against the address.
    pub fn reset_failures(&mut self) {
        self.failures = 0;
        self.unreachable = 0;
        self.timeouts = 0;
        self.first_timeout_sent = None;
        self.has_timeout = false;
        self.slow_answer_at = None;
        self.doubted = None;
        self.ends.in_a_row = 0;
        self.ends.paused_until = Moment::default();
    }

    /// It was out of the set and is back: to be proven before use, with its history kept.
    pub fn readmit(&mut self, now: Moment, probes: bool) -> Option<Transition> {
        self.reset_failures();
        self.successes = 0;
        self.returning_since = None;
        self.ramp_from = None;
        match self.state {
            _ if !probes => self.up(now, Cow::Borrowed("unprobed")),
            HealthState::Returning | HealthState::Down => {
                self.transition(now, HealthState::Down, Cow::Borrowed("was_down"), false)
            }
            _ => self.transition(
                now,
                HealthState::Unknown,
                Cow::Borrowed("back_in_dns"),
                false,
            ),
        }
    }

    /// The hop before it is down, which says nothing about the address itself.
    pub fn hop_down(&mut self, now: Moment, probes: bool) -> Option<Transition> {
        if !probes {
            return None;
        }
        self.reset_failures();
        self.successes = 0;
        self.returning_since = None;
        self.ramp_from = None;
        let reason = Cow::Borrowed("hop_down");
        self.transition(now, HealthState::Unknown, reason, false)
    }

    /// Probes were switched off: it counts as up.
    pub fn unprobed(&mut self, now: Moment) -> Option<Transition> {
        self.reset_failures();
        self.returning_since = None;
        self.up(now, Cow::Borrowed("unprobed"))
    }

    fn mark_suspect(&mut self, now: Moment, reason: Cow<'static, str>) -> Option<Transition> {
        self.returning_since = (self.state == HealthState::Returning).then_some(self.since);
        self.successes = 0;
        self.transition(now, HealthState::Suspect, reason, false)
    }

    fn up(&mut self, now: Moment, reason: Cow<'static, str>) -> Option<Transition> {
        self.returning_since = None;
        let transition = self.transition(now, HealthState::Up, reason, false);
        if transition.is_some() {
            self.ramp_from = None;
            self.up_since = Some(now);
        }
        transition
    }

    fn transition(
        &mut self,
        now: Moment,
        to: HealthState,
        reason: Cow<'static, str>,
        silent: bool,
    ) -> Option<Transition> {
        let from = self.state;
        self.reason = reason.clone();
        if from == to {
            return None;
        }
        self.state = to;
        self.since = now;
        if !matches!(to, HealthState::Up | HealthState::Suspect) {
            self.up_since = None;
        }
        if to == HealthState::Down {
            self.returning_since = None;
            self.successes = 0;
            // The suspicion was right: the next one counts at once again.
            self.suspected_as_mute = false;
            self.mute_pause = Duration::ZERO;
            self.mute_paused_until = Moment::default();
        }
        Some(Transition {
            from,
            to,
            reason,
            silent,
        })
    }
}

// === impl TimeoutMarkdownLimit ===

impl TimeoutMarkdownLimit {
    /// Whether silence may mark an address of this zone (zone, or endpoint) down now.
    pub fn allows(&self, now: Moment, zone: &str, another_up: bool) -> bool {
        let recent = |at: &Moment| now.since(*at) < constants::SILENCE_GAP;
        !another_up
            || !self
                .marks
                .iter()
                .any(|(other, at)| other != zone && recent(at))
    }

    pub fn marked(&mut self, now: Moment, zone: &str) {
        self.marks
            .retain(|(_, at)| now.since(*at) < constants::SILENCE_GAP);
        self.marks.push((zone.to_owned(), now));
    }
}

#[cfg(test)]
mod tests;
