//! Whether a peer still acknowledges what it is sent: the rule of `user_timeout`.
//!
//! The kernel's TCP_USER_TIMEOUT is not that rule: it counts the time during which the peer's window is closed, and so
//! ends a connection whose peer reads slowly although it answers every probe of the window. So while bytes wait behind
//! a closed window, the kernel's timer is switched off, and until all of them are acknowledged this watch ends the
//! connection when nothing answers what was sent for `user_timeout`. While they wait otherwise, the kernel's timer has
//! `user_timeout`, with its precision. While nothing waits it has more, because it would end a connection at the first
//! keepalive probe that is lost ([`TcpOptions::resting_user_timeout`]).
//!
//! The watch has no timer of its own: the supervisor asks for a check of connections that have been waiting, several
//! times in each `user_timeout`.

use std::time::Duration;

use crate::clock::Moment;
use crate::sys::socket::TcpOptions;

use super::side_io::{DeliveryState, SideIo};

/// A probe may stay unanswered for this long although the peer is well: Linux answers one in 500 ms
/// (`net.ipv4.tcp_invalid_ratelimit`), and the next probe comes after at most twice the time since the last.
const PROBE_IGNORED: Duration = Duration::from_millis(1500);

/// The watch over one side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DeliveryWatch {
    /// A probe of the closed window, or bytes that it let through, have been unanswered since.
    unanswered_since: Option<Moment>,
    timer: KernelTimer,
}

/// What TCP_USER_TIMEOUT a side has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum KernelTimer {
    /// Nothing waits to be acknowledged, as far as we know.
    #[default]
    Resting,
    /// Bytes wait.
    Awaiting,
    /// They wait behind a closed window: the watch is in charge.
    Off,
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
        options: &TcpOptions,
        user_timeout: Duration,
        now: Moment,
    ) -> Delivery {
        let Some(state) = side.delivery_state() else {
            return Delivery::Complete;
        };
        let before = self.timer;
        let delivery = self.advance(state, user_timeout, now);
        if before != self.timer {
            self.set_timer(side, options);
        }
        delivery
    }

    /// Sets the kernel's timer as it is to be; also after the options of a side were set.
    pub(super) fn set_timer(&self, side: &SideIo<'_>, options: &TcpOptions) {
        side.set_user_timeout(match self.timer {
            KernelTimer::Resting => options.resting_user_timeout(),
            KernelTimer::Awaiting => options.user_timeout,
            KernelTimer::Off => None,
        });
    }

    fn advance(&mut self, state: DeliveryState, user_timeout: Duration, now: Moment) -> Delivery {
        // Once in charge it stays so until everything is acknowledged: a window that opens by less than a segment leaves
        // the kernel's count of the closed time running, and its timer would end the connection as soon as it is back.
        self.timer = match state.unsent {
            false => KernelTimer::Resting,
            true if !state.in_flight || self.timer == KernelTimer::Off => KernelTimer::Off,
            true => KernelTimer::Awaiting,
        };
        let is_awaited = state.probes || state.in_flight;
        if self.timer != KernelTimer::Off || !is_awaited {
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
            assert_eq!(watch.timer, KernelTimer::Off);
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
        assert_eq!(watch.timer, KernelTimer::Awaiting);
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
            assert_eq!(watch.timer, KernelTimer::Off);
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
        assert_eq!(watch.timer, KernelTimer::Resting);
    }
}
