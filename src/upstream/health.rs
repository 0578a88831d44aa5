//! The health of one address: a state machine over probe results and suspicions (contract 7.1, 7.3, 7.9).
//!
//! Promises that a flip comes only after its threshold, that a dial or a slow answer never marks down by itself, and
//! that silence is told apart from refusal. Knows no clock; its caller filters what is void (7.12) and says whether
//! silence may mark down now ([`SilenceLimit`]).

use std::borrow::Cow;
use std::time::Duration;

use crate::clock::Moment;
use crate::upstream::snapshot::{Pace, State};
use crate::upstream::timing::{FailbackSettings, HealthSettings, Timing};

/// What a probe says about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It answers.
    Win,
    /// It refuses, or there is no route: hard evidence.
    Hard(&'static str),
    /// Nothing came.
    Silent,
    /// It answers wrongly.
    Bad(String),
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flip {
    /// From.
    pub from: State,
    /// To.
    pub to: State,
    /// Why.
    pub reason: Cow<'static, str>,
    /// Down, and silence had a part in it.
    pub silent: bool,
}

/// The health of one address.
#[derive(Clone, Debug)]
pub struct Health {
    state: State,
    since: Moment,
    reason: Cow<'static, str>,
    /// Failures running; how many of them, counted from the last, were refusals; successes running.
    fails: u32,
    hard: u32,
    wins: u32,
    /// Timeouts running, and when the first of them was sent.
    silent: u32,
    silent_since: Option<Moment>,
    /// Whether a timeout is among the failures running: then the limit on silence holds.
    soft: bool,
    /// When the latest successful probe was sent: failures sent before it are old news.
    last_win: Option<Moment>,
    /// A suspect that was returning goes back to that, with its time kept.
    was_returning: Option<Moment>,
    /// The last suspicion by a slow answer (once in 10 s unless a probe fails).
    slow_at: Option<Moment>,
    /// It is up by failback, since then.
    ramp_from: Option<Moment>,
}

/// Silence marks at most one zone down per 30 s while another is up (contract 7.3).
#[derive(Clone, Debug, Default)]
pub struct SilenceLimit {
    /// Who was marked in the last 30 s.
    marks: Vec<(String, Moment)>,
}

/// How often a slow answer may make one address suspect.
const SLOW_EVERY: Duration = Duration::from_secs(10);

// === impl Health ===

impl Health {
    /// Nothing is known. With probes off: up.
    pub fn new(now: Moment, probes: bool) -> Self {
        Self {
            state: if probes { State::Unknown } else { State::Up },
            since: now,
            reason: Cow::Borrowed(if probes { "new" } else { "unprobed" }),
            fails: 0,
            hard: 0,
            wins: 0,
            silent: 0,
            silent_since: None,
            soft: false,
            last_win: None,
            was_returning: None,
            slow_at: None,
            ramp_from: None,
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when.
    pub fn since(&self) -> Moment {
        self.since
    }

    /// Why.
    pub fn reason(&self) -> &Cow<'static, str> {
        &self.reason
    }

    /// Failed probes running.
    pub fn fails(&self) -> u32 {
        self.fails
    }

    /// Down by silence: when the first of the failed probes was sent.
    pub fn down_by_silence(&self, settings: &HealthSettings) -> Option<Moment> {
        (self.state == State::Down && self.silent >= settings.fall)
            .then_some(self.silent_since)
            .flatten()
    }

    /// While it shifts back: since when.
    pub fn ramp_from(&self, now: Moment, failback: &FailbackSettings) -> Option<Moment> {
        self.ramp_from
            .filter(|from| self.state == State::Up && now.since(*from) < failback.ramp)
    }

    /// Since when its being up counts as settled, so that farther pairs may move: after the ramp where it came back by
    /// failback, else after the time that failback takes.
    pub fn settled(&self, now: Moment, failback: &FailbackSettings) -> Option<Moment> {
        let wait = self.ramp_from.map_or(failback.after, |_| failback.ramp);
        let settled = self.since + wait;
        (self.state == State::Up && settled <= now).then_some(settled)
    }

    /// How it is to be probed.
    pub fn pace(&self, settings: &HealthSettings) -> Pace {
        match self.state {
            _ if !settings.probes() => Pace::Off,
            State::Down if self.wins == 0 => Pace::Down,
            State::Down | State::Suspect => Pace::Fast(settings.fast()),
            _ if self.fails > 0 => Pace::Fast(settings.fast()),
            _ => Pace::Regular,
        }
    }

    /// A probe that was sent at `sent` has ended. `may_mark` says whether silence may mark this one down now.
    pub fn probed(
        &mut self,
        now: Moment,
        sent: Moment,
        evidence: &Evidence,
        may_mark: bool,
        settings: &HealthSettings,
    ) -> Option<Flip> {
        if *evidence == Evidence::Win {
            return self.won(now, sent, settings);
        }
        if self.last_win.is_some_and(|win| win > sent) {
            return None;
        }
        self.wins = 0;
        self.fails = self.fails.saturating_add(1);
        self.slow_at = None;
        if *evidence == Evidence::Silent {
            self.soft = true;
            self.silent = self.silent.saturating_add(1);
            self.silent_since = Some(self.silent_since.map_or(sent, |first| first.min(sent)));
        } else {
            self.silent = 0;
            self.silent_since = None;
        }
        self.hard = match evidence {
            Evidence::Hard(_) => self.hard.saturating_add(1),
            _ => 0,
        };
        let reason = match evidence {
            Evidence::Hard(code) => Cow::Borrowed(*code),
            Evidence::Bad(code) => Cow::Owned(code.clone()),
            Evidence::Silent | Evidence::Win => Cow::Borrowed("timeout"),
        };
        let first = self.state == State::Unknown && self.hard > 0;
        if self.state == State::Down {
            None
        } else if first
            || self.hard >= Timing::HARD_FALL
            || (self.fails >= settings.fall && !self.soft)
        {
            self.go(now, State::Down, reason, false)
        } else if self.fails < settings.fall {
            None
        } else if may_mark {
            self.go(now, State::Down, reason, true)
        } else if self.state == State::Suspect {
            None
        } else {
            self.doubt(now, Cow::Borrowed("silent"))
        }
    }

    fn won(&mut self, now: Moment, sent: Moment, settings: &HealthSettings) -> Option<Flip> {
        // Sent before the doubt began: says nothing about now.
        if self.state == State::Suspect && sent < self.since {
            return None;
        }
        self.last_win = self.last_win.max(Some(sent));
        self.wins = self.wins.saturating_add(1);
        self.fails = 0;
        self.hard = 0;
        self.silent = 0;
        self.silent_since = None;
        self.soft = false;
        match self.state {
            State::Up | State::Returning => None,
            State::Unknown => self.up(now, Cow::Borrowed("probe_ok")),
            State::Suspect => match self.was_returning.take() {
                Some(since) => {
                    let flip = self.go(now, State::Returning, Cow::Borrowed("cleared"), false);
                    self.since = since;
                    flip
                }
                None => self.up(now, Cow::Borrowed("cleared")),
            },
            State::Down if self.wins >= settings.rise => {
                self.go(now, State::Returning, Cow::Borrowed("probe_ok"), false)
            }
            State::Down => None,
        }
    }

    /// Traffic makes it suspect. `slow`: by a slow answer, which counts once in 10 s unless a probe failed since.
    pub fn suspect(&mut self, now: Moment, reason: &'static str, slow: bool) -> Option<Flip> {
        if slow {
            if self
                .slow_at
                .is_some_and(|last| now.since(last) < SLOW_EVERY)
            {
                return None;
            }
            self.slow_at = Some(now);
        }
        match self.state {
            State::Down | State::Suspect => None,
            _ => self.doubt(now, Cow::Borrowed(reason)),
        }
    }

    /// Time has passed. `last_move`: when the active zone last moved.
    pub fn tick(
        &mut self,
        now: Moment,
        may_mark: bool,
        last_move: Option<Moment>,
        settings: &HealthSettings,
        failback: &FailbackSettings,
    ) -> Option<Flip> {
        let in_state = now.since(self.since);
        match self.state {
            State::Suspect if !settings.probes() && in_state >= Timing::SUSPECT_UNPROBED => {
                self.up(now, Cow::Borrowed("unprobed"))
            }
            State::Suspect if self.fails >= settings.fall && may_mark => {
                self.go(now, State::Down, Cow::Borrowed("timeout"), true)
            }
            State::Returning
                if in_state >= failback.after
                    && self.wins >= settings.rise
                    && last_move.is_none_or(|moved| now.since(moved) >= failback.dwell()) =>
            {
                let flip = self.up(now, Cow::Borrowed("failback"));
                self.ramp_from = Some(now);
                flip
            }
            _ => None,
        }
    }

    /// We were away (asleep, stopped): what was counted so far blames nobody.
    pub fn forgive(&mut self) {
        self.fails = 0;
        self.hard = 0;
        self.silent = 0;
        self.silent_since = None;
        self.soft = false;
        self.slow_at = None;
    }

    /// It was out of the set and is back: to be proven before use, with its history kept (contract 7.10).
    pub fn back(&mut self, now: Moment, probes: bool) -> Option<Flip> {
        self.forgive();
        self.wins = 0;
        self.was_returning = None;
        self.ramp_from = None;
        match self.state {
            _ if !probes => self.go(now, State::Up, Cow::Borrowed("unprobed"), false),
            State::Returning | State::Down => {
                self.go(now, State::Down, Cow::Borrowed("was_down"), false)
            }
            _ => self.go(now, State::Unknown, Cow::Borrowed("back_in_dns"), false),
        }
    }

    /// Probes were switched off: it counts as up.
    pub fn unprobed(&mut self, now: Moment) -> Option<Flip> {
        self.forgive();
        self.was_returning = None;
        self.up(now, Cow::Borrowed("unprobed"))
    }

    fn doubt(&mut self, now: Moment, reason: Cow<'static, str>) -> Option<Flip> {
        self.was_returning = (self.state == State::Returning).then_some(self.since);
        self.wins = 0;
        self.go(now, State::Suspect, reason, false)
    }

    fn up(&mut self, now: Moment, reason: Cow<'static, str>) -> Option<Flip> {
        self.was_returning = None;
        let flip = self.go(now, State::Up, reason, false);
        if flip.is_some() {
            self.ramp_from = None;
        }
        flip
    }

    fn go(
        &mut self,
        now: Moment,
        to: State,
        reason: Cow<'static, str>,
        silent: bool,
    ) -> Option<Flip> {
        let from = self.state;
        self.reason = reason.clone();
        if from == to {
            return None;
        }
        self.state = to;
        self.since = now;
        if to == State::Down {
            self.was_returning = None;
            self.wins = 0;
        }
        Some(Flip {
            from,
            to,
            reason,
            silent,
        })
    }
}

// === impl SilenceLimit ===

impl SilenceLimit {
    /// Whether silence may mark an address of this place (zone, or endpoint) down now.
    pub fn allows(&self, now: Moment, place: &str, another_up: bool) -> bool {
        let recent = |at: &Moment| now.since(*at) < Timing::SILENCE_GAP;
        !another_up
            || !self
                .marks
                .iter()
                .any(|(other, at)| other != place && recent(at))
    }

    /// It did.
    pub fn marked(&mut self, now: Moment, place: &str) {
        self.marks
            .retain(|(_, at)| now.since(*at) < Timing::SILENCE_GAP);
        self.marks.push((place.to_owned(), now));
    }
}

#[cfg(test)]
mod tests;
