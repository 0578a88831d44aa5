//! What a suspend, or a stop of this process, has done: one line, once the upstreams answer again.
//!
//! Told apart from what is done about it ([`Handles::woke`]), because the line can only be written later: connections
//! that did not survive are found while their peers answer, or do not.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Handles;
use crate::clock::{self, Moment};
use crate::dial::hop::Hop;
use crate::events::{Reason, event};
use crate::metrics::family;
use crate::suspend::Interruption;
use crate::types::UpstreamName;

/// Connections that did not survive are found within this time, once the network is there.
const FOUND_WITHIN: Duration = Duration::from_millis(2500);
/// After this the line says that nothing has answered yet.
const BACK_WITHIN: Duration = Duration::from_secs(30);
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// Each look goes through all connections.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Counts before and after.
struct WakeCounts {
    /// Connections that did not end as their client or their upstream wanted.
    broken: f64,
    hop_restarts: u64,
}

/// Writes the line.
pub(super) async fn tell(handles: Handles, interruption: Interruption) {
    let (woke, began) = (clock::now(), Instant::now());
    let before = WakeCounts::of(&handles);
    let back = back(&handles, woke, began).await;
    if back != Back::NotYet {
        sleep(FOUND_WITHIN).await;
    }
    let after = WakeCounts::of(&handles);
    let line = sentence(
        interruption,
        (after.broken - before.broken) as u64,
        after.hop_restarts.saturating_sub(before.hop_restarts),
        back,
    );
    event!(handles.events, INFO, "wake", line);
}

/// Asks the peers of all connections of before for a sign of life, each once the address that it leads to answers probes:
/// until then the network may not be there, and connections that live would seem dead.
pub(super) async fn find_the_dead(handles: Handles) {
    let (woke, began) = (clock::now(), Instant::now());
    let mut asked = HashSet::new();
    while began.elapsed() < BACK_WITHIN {
        let mut is_waiting = false;
        handles.registry.each(|entry| {
            if entry.accepted > woke || asked.contains(&entry.id) {
                return;
            }
            let answers = entry.relaying(|candidate, _| candidate.address.answered_since(woke));
            if answers == Some(true) {
                entry.commands.ask_for_life();
                asked.insert(entry.id);
            }
            is_waiting |= answers == Some(false);
        });
        if !is_waiting {
            break;
        }
        sleep(LOOK_INTERVAL).await;
    }
    sleep(2 * FOUND_WITHIN).await;
    handles.registry.each(|entry| {
        if asked.contains(&entry.id) {
            entry.commands.restore_options();
        }
    });
}

/// Resolves when something of every upstream has answered a probe since; with how long that took.
async fn back(handles: &Handles, woke: Moment, began: Instant) -> Back {
    let probed: Vec<_> = handles
        .upstreams
        .iter()
        .filter(|upstream| upstream.health.load().probes())
        .collect();
    if probed.is_empty() {
        return Back::Unknown;
    }
    while began.elapsed() < BACK_WITHIN {
        let answers = |upstream: &&super::upstream::Upstream| {
            let order = upstream.view.load().order(clock::now(), 1.0);
            let mut addresses = order.iter().map(|candidate| &candidate.address);
            addresses.any(|address| address.answered_since(woke))
        };
        if probed.iter().all(answers) {
            return Back::In(began.elapsed());
        }
        sleep(ASK_INTERVAL).await;
    }
    Back::NotYet
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    In(Duration),
    NotYet,
    /// Nothing is probed.
    Unknown,
}

fn sentence(interruption: Interruption, closed: u64, restarts: u64, back: Back) -> String {
    let mut line = format!("{interruption}: ");
    let _ = match closed {
        0 => write!(line, "no connection closed"),
        1 => write!(line, "1 connection closed"),
        many => write!(line, "{many} connections closed"),
    };
    let _ = match restarts {
        0 => Ok(()),
        1 => write!(line, ", hop restarted"),
        many => write!(line, ", hops restarted {many} times"),
    };
    let _ = match back {
        Back::In(time) => write!(line, ", back in {:.1} s", time.as_secs_f64()),
        Back::NotYet => write!(
            line,
            ", nothing has answered for {} s yet",
            BACK_WITHIN.as_secs()
        ),
        Back::Unknown => Ok(()),
    };
    line
}

// === impl Counts ===

impl WakeCounts {
    fn of(handles: &Handles) -> Self {
        let in_order = [Reason::ClientFin, Reason::UpstreamFin].map(Reason::code);
        // The reason is the last label.
        let broken = handles
            .metrics
            .series(&family::CONNECTIONS_CLOSED)
            .into_iter()
            .filter(|(labels, _)| {
                let reason = labels.last().map(AsRef::as_ref);
                reason.is_none_or(|reason| !in_order.contains(&reason))
            })
            .map(|(_, count)| count)
            .sum();
        let restarts =
            |(_, hop): &(UpstreamName, std::sync::Arc<Hop>)| hop.health().status().restarts;
        Self {
            broken,
            hop_restarts: handles.hops().iter().map(restarts).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_happened() {
        let slept = Interruption::Suspended(Duration::from_secs(2 * 3600 + 13 * 60 + 7));
        let back = Back::In(Duration::from_millis(812));
        assert_eq!(
            sentence(slept, 4, 1, back),
            "slept 2 h 13 min: 4 connections closed, hop restarted, back in 0.8 s"
        );
        let stopped = Interruption::Stopped(Duration::from_secs(61));
        assert_eq!(
            sentence(stopped, 0, 0, Back::NotYet),
            "stopped for 1 min 1 s: no connection closed, nothing has answered for 30 s yet"
        );
        let short = Interruption::Suspended(Duration::from_secs(9));
        assert_eq!(
            sentence(short, 1, 2, Back::Unknown),
            "slept 9 s: 1 connection closed, hops restarted 2 times"
        );
    }
}
