//! When to ask again: pure arithmetic, without a clock.
//!
//! A good answer: at its TTL, clamped, plus a little jitter. A bad one: after 1 s, doubling to 10 s; while the name has
//! never had an address, every second; a candidate that never answered, every 60 s.

use std::time::Duration;

/// At most one lookup a second and name, whatever wants it.
pub(crate) const FLOOR: Duration = Duration::from_secs(1);
/// The longest pause after bad answers.
const CEILING: Duration = Duration::from_secs(10);
/// Between two looks at a candidate that never answered.
const CANDIDATE: Duration = Duration::from_secs(60);
/// The most jitter a good answer's TTL gets: new addresses must be followed within TTL + 1 s.
const JITTER: Duration = Duration::from_millis(500);

/// How one name has fared so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    /// Whether it is a candidate: no endpoint until it has answered.
    candidate: bool,
    /// Whether it ever had an address.
    answered: bool,
    /// Bad answers since the last good one.
    bad: u32,
}

// === impl Backoff ===

impl Backoff {
    pub(crate) fn new(candidate: bool) -> Self {
        Self {
            candidate,
            ..Self::default()
        }
    }

    /// Notes a good answer; the pause until the next lookup, counted from the start of this one. `draw` is 0..1.
    pub(crate) fn good(&mut self, ttl: Duration, draw: f64) -> Duration {
        self.answered = true;
        self.bad = 0;
        let jitter = (ttl / 10).min(JITTER).mul_f64(draw);
        ttl.max(FLOOR) + jitter
    }

    /// Notes a bad answer; the pause until the next lookup, counted from the start of this one.
    pub(crate) fn bad(&mut self, draw: f64) -> Duration {
        let pause = match (self.answered, self.candidate) {
            (false, true) => CANDIDATE,
            (false, false) => FLOOR,
            (true, _) => CEILING.min(FLOOR * 2u32.pow(self.bad.min(4))),
        };
        self.bad = self.bad.saturating_add(1);
        // Many sidecars lose the same server at the same moment; they need not all come back in step.
        if pause > FLOOR {
            pause.mul_f64(1.0 - 0.1 * draw)
        } else {
            pause
        }
    }

    /// Whether it ever had an address.
    pub(crate) fn answered(&self) -> bool {
        self.answered
    }

    /// Whether the name is to have addresses: a candidate that never had any is not missed.
    pub(crate) fn is_expected(&self) -> bool {
        self.answered || !self.candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn good_answers_are_followed_within_ttl_and_a_second() {
        let mut pace = Backoff::default();
        for ttl in [secs(1), secs(5), secs(60)] {
            assert_eq!(pace.good(ttl, 0.0), ttl);
            assert!(pace.good(ttl, 1.0) <= ttl + JITTER);
        }
        assert_eq!(pace.good(Duration::ZERO, 1.0), FLOOR);
    }

    #[test]
    fn bad_answers_double_to_ten_seconds_once_there_was_a_good_one() {
        let mut pace = Backoff::default();
        assert_eq!([pace.bad(0.0), pace.bad(0.0)], [secs(1), secs(1)]);
        pace.good(secs(5), 0.0);
        let pauses: Vec<_> = (0..6).map(|_| pace.bad(0.0)).collect();
        assert_eq!(
            pauses,
            [secs(1), secs(2), secs(4), secs(8), secs(10), secs(10)]
        );
        pace.good(secs(5), 0.0);
        assert_eq!(pace.bad(1.0), secs(1));
    }

    #[test]
    fn a_candidate_is_asked_rarely_until_it_has_answered() {
        let mut pace = Backoff::new(true);
        assert_eq!(pace.bad(0.0), CANDIDATE);
        assert!(!pace.answered());
        pace.good(secs(5), 0.0);
        assert_eq!(pace.bad(0.0), secs(1));
    }
}
