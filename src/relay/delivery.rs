//! Whether a peer still acknowledges what it is sent: the rule of `user_timeout`.
//!
//! The kernel's TCP_USER_TIMEOUT is not that rule: it counts the time during which the peer's window is closed, and so
//! ends a connection whose peer reads slowly although it answers every probe of the window. So while bytes wait behind
//! a closed window, the kernel's timer is switched off, and until all of them are acknowledged this watch ends the
//! connection when nothing answers what was sent for `user_timeout`. Otherwise the kernel's timer is on, with its precision.
//!
//! The watch has no timer of its own: the supervisor asks for a check of connections that have been waiting, several
//! times in each `user_timeout`.

use std::time::Duration;

use crate::clock::Moment;

use super::side_io::{DeliveryState, SideIo};

/// A probe may stay unanswered for this long although the peer is well: Linux answers one in 500 ms
/// (`net.ipv4.tcp_invalid_ratelimit`), and the next probe comes after at most twice the time since the last.
const PROBE_IGNORED: Duration = Duration::from_millis(1500);

/// The watch over one side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DeliveryWatch {
    /// A probe of the closed window, or bytes that it let through, have been unanswered since.
    unanswered_since: Option<Moment>,
    /// The kernel's timer is off.
    is_in_charge: bool,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Complete,
    Pending,
    /// Nothing was acknowledged for `user_timeout`, or [`PROBE_IGNORED`] where that is longer.
    Dead,
}

// === impl DeliveryWatch ===

impl DeliveryWatch {
    pub(super) fn check(
        &mut self,
        side: &SideIo<'_>,
        user_timeout: Duration,
        now: Moment,
    ) -> Delivery {
        let Some(state) = side.delivery_state() else {
            return Delivery::Complete;
        };
        let was_in_charge = self.is_in_charge;
        let delivery = self.advance(state, user_timeout, now);
        if was_in_charge != self.is_in_charge {
            side.set_user_timeout((!self.is_in_charge).then_some(user_timeout));
        }
        delivery
    }

    /// Whether the kernel's timer has to stay off.
    pub(super) fn is_in_charge(&self) -> bool {
        self.is_in_charge
    }

    fn advance(&mut self, state: DeliveryState, user_timeout: Duration, now: Moment) -> Delivery {
        // Once in charge it stays so until everything is acknowledged: a window that opens by less than a segment leaves
        // the kernel's count of the closed time running, and its timer would end the connection as soon as it is back.
        self.is_in_charge = state.unsent && (!state.in_flight || self.is_in_charge);
        let is_awaited = state.probes || state.in_flight;
        if !self.is_in_charge || !is_awaited {
            self.unanswered_since = None;
            return if state.unsent {
                Delivery::Pending
            } else {
                Delivery::Complete
            };
        }
        let since = *self.unanswered_since.get_or_insert(now);
        let limit = user_timeout.max(PROBE_IGNORED);
        if now.since(since).min(state.last_ack) >= limit {
            Delivery::Dead
        } else {
            Delivery::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(15);

    fn at(seconds: u64) -> Moment {
        Moment::at(Duration::from_secs(seconds))
    }

    /// Behind a closed window; a probe is unanswered, and the last acknowledgement came this long ago.
    fn closed(last_ack: u64) -> DeliveryState {
        DeliveryState {
            unsent: true,
            in_flight: false,
            probes: true,
            last_ack: Duration::from_secs(last_ack),
        }
    }

    #[test]
    fn a_closed_window_is_no_end_while_its_probes_are_answered() {
        let mut watch = DeliveryWatch::default();
        for second in 0..600 {
            // Samples may hit a probe on its way each time; what counts is when the last was answered.
            assert_eq!(
                watch.advance(closed(second % 14), TIMEOUT, at(second)),
                Delivery::Pending
            );
            assert!(watch.is_in_charge);
        }
    }

    #[test]
    fn a_probe_unanswered_for_the_whole_time_is_one() {
        let mut watch = DeliveryWatch::default();
        // The probe before was answered long ago because probes are that far apart: no reason yet.
        assert_eq!(
            watch.advance(closed(60), TIMEOUT, at(100)),
            Delivery::Pending
        );
        assert_eq!(
            watch.advance(closed(74), TIMEOUT, at(114)),
            Delivery::Pending
        );
        assert_eq!(watch.advance(closed(75), TIMEOUT, at(115)), Delivery::Dead);
        let answered = DeliveryState {
            probes: false,
            ..closed(0)
        };
        assert_eq!(watch.advance(answered, TIMEOUT, at(116)), Delivery::Pending);
        assert_eq!(
            watch.advance(closed(1), TIMEOUT, at(117)),
            Delivery::Pending
        );
    }

    #[test]
    fn one_probe_that_the_peer_ignores_is_none() {
        let mut watch = DeliveryWatch::default();
        let at = |millis| Moment::at(Duration::from_millis(millis));
        let mut seen = |millis| {
            let state = DeliveryState {
                last_ack: Duration::from_millis(400 + millis),
                ..closed(0)
            };
            watch.advance(state, Duration::from_secs(1), at(millis))
        };
        assert_eq!(seen(0), Delivery::Pending);
        assert_eq!(seen(1_100), Delivery::Pending);
        assert_eq!(seen(1_500), Delivery::Dead);
    }

    #[test]
    fn where_segments_are_under_way_the_kernel_decides() {
        let mut watch = DeliveryWatch::default();
        let in_flight = DeliveryState {
            in_flight: true,
            ..closed(100)
        };
        assert_eq!(
            watch.advance(in_flight, TIMEOUT, at(100)),
            Delivery::Pending
        );
        assert!(!watch.is_in_charge);
        let done = DeliveryState {
            unsent: false,
            ..in_flight
        };
        assert_eq!(watch.advance(done, TIMEOUT, at(101)), Delivery::Complete);
    }

    #[test]
    fn a_window_that_opens_a_little_leaves_the_watch_in_charge() {
        let mut watch = DeliveryWatch::default();
        watch.advance(closed(1), TIMEOUT, at(1));
        let in_flight = |last_ack| DeliveryState {
            in_flight: true,
            probes: false,
            ..closed(last_ack)
        };
        for second in 2..100 {
            assert_eq!(
                watch.advance(in_flight(0), TIMEOUT, at(second)),
                Delivery::Pending
            );
            assert!(watch.is_in_charge);
        }
        // What is under way then stays unacknowledged.
        assert_eq!(
            watch.advance(in_flight(14), TIMEOUT, at(114)),
            Delivery::Pending
        );
        assert_eq!(
            watch.advance(in_flight(15), TIMEOUT, at(115)),
            Delivery::Dead
        );
        let done = DeliveryState {
            unsent: false,
            ..in_flight(0)
        };
        assert_eq!(watch.advance(done, TIMEOUT, at(116)), Delivery::Complete);
        assert!(!watch.is_in_charge);
    }
}
