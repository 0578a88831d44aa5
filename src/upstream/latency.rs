//! Addresses ranked by measured connect time, for where zones do not decide.
//!
//! Has hysteresis: an address is passed only by one that is nearer by 30 % and 0.2 ms, so that noise moves nothing. Pure.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::upstream::constants;

/// The order of nearness, and who is far.
#[derive(Clone, Debug, Default)]
pub struct LatencyRanking {
    order: Vec<SocketAddr>,
    far: BTreeSet<SocketAddr>,
}

// === impl LatencyRanking ===

impl LatencyRanking {
    /// An address's rank; those never looked at come last.
    pub fn rank(&self, socket: SocketAddr) -> usize {
        self.order
            .iter()
            .position(|other| *other == socket)
            .unwrap_or(self.order.len())
    }

    /// Whether it is clearly farther than the nearest.
    pub fn is_far(&self, socket: SocketAddr) -> bool {
        self.far.contains(&socket)
    }

    /// Looks at the medians of all addresses of the set (`None`: not enough connects). Says whether anything moved.
    pub fn update(&mut self, measured: &[(SocketAddr, Option<Duration>)]) -> bool {
        let median = |socket: &SocketAddr| {
            measured
                .iter()
                .find(|(other, _)| other == socket)
                .and_then(|(_, median)| *median)
        };
        let mut left: Vec<SocketAddr> = self.order.clone();
        left.retain(|socket| measured.iter().any(|(other, _)| other == socket));
        for (socket, _) in measured {
            if !left.contains(socket) {
                left.push(*socket);
            }
        }
        let mut order = Vec::with_capacity(left.len());
        while !left.is_empty() {
            // The one that stood first keeps its rank unless the fastest of the rest is clearly nearer.
            let fastest = (0..left.len())
                .filter_map(|index| Some((median(&left[index])?, index)))
                .min();
            let next = match (median(&left[0]), fastest) {
                (Some(first), Some((best, index))) if farther(first, best, 1.0) => index,
                _ => 0,
            };
            order.push(left.remove(next));
        }
        let best = measured.iter().filter_map(|(_, median)| *median).min();
        let far = measured
            .iter()
            .filter_map(|(socket, median)| Some((*socket, (*median)?, best?)))
            .filter(|(socket, median, best)| {
                farther(
                    *median,
                    *best,
                    if self.far.contains(socket) { 0.5 } else { 1.0 },
                )
            })
            .map(|(socket, _, _)| socket)
            .collect();
        let moved = order != self.order || far != self.far;
        self.order = order;
        self.far = far;
        moved
    }
}

/// Whether `this` is farther than `best`, by `part` of the gap that counts.
fn farther(this: Duration, best: Duration, part: f64) -> bool {
    let factor = 1.0 + (constants::NEARER_FACTOR - 1.0) * part;
    this >= best.mul_f64(factor) && this.saturating_sub(best) >= constants::NEARER_GAP.mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(ranking: &mut LatencyRanking, micros: [u64; 3]) -> String {
        let measured: Vec<_> = (0u8..3)
            .map(|n| {
                let median = Some(micros[usize::from(n)])
                    .filter(|m| *m > 0)
                    .map(Duration::from_micros);
                (SocketAddr::from(([10, 0, 0, n], 1)), median)
            })
            .collect();
        ranking.update(&measured);
        let mut shown: Vec<_> = measured.iter().map(|(socket, _)| *socket).collect();
        shown.sort_by_key(|socket| ranking.rank(*socket));
        shown
            .iter()
            .map(|socket| {
                let name =
                    ["a", "b", "c"][usize::from(socket.ip().to_string().as_bytes()[7] - b'0')];
                if ranking.is_far(*socket) {
                    name.to_uppercase()
                } else {
                    name.to_owned()
                }
            })
            .collect()
    }

    #[test]
    fn nearness_has_hysteresis() {
        // Each row starts from the one before. Capitals are far.
        let mut ranking = LatencyRanking::default();
        for (micros, expected) in [
            ([0, 0, 0], "abc"),
            ([1000, 900, 800], "abc"),
            ([1000, 900, 700], "cAb"),
            ([850, 900, 700], "cAb"),
            ([700, 900, 700], "cab"),
            ([500, 900, 700], "aCB"),
            // 30 %, but not 0.2 ms.
            ([500, 400, 360], "acb"),
            ([100, 400, 900], "aBC"),
            ([100, 0, 900], "abC"),
        ] {
            assert_eq!(look(&mut ranking, micros), expected, "{micros:?}");
        }
    }
}
