//! How many connections reached an upstream, against a target, from the counters since the start.

use std::collections::BTreeMap;

use super::api_types::{EndpointSlo, Slo};
use crate::events::Reason;
use crate::metrics::{Metrics, family};

/// Results of attempts that count against an endpoint; local errors and lost races are not its own.
const FAILED: [&str; 4] = ["refused", "timeout", "unreachable", "reset"];

/// Ends without an upstream that are no failure to serve: the program was stopped. A client that left before it had an
/// endpoint was not served: it gave up waiting.
fn is_counted(reason: &str) -> bool {
    use Reason::{DrainDeadline, DrainIdle, Killed};
    ![DrainDeadline, DrainIdle, Killed]
        .iter()
        .any(|known| known.code() == reason)
}

/// `target` in percent, above 0 and at most 100.
pub(super) fn evaluate(metrics: &Metrics, target: f64, window_s: f64) -> Slo {
    let mut endpoints: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    let mut bad = 0;
    for (labels, count) in metrics.series(&family::CONNECTIONS_CLOSED) {
        // listener, upstream, endpoint, zone, reason
        let [_, upstream, endpoint, _, reason] = &*labels else {
            continue;
        };
        if !endpoint.is_empty() {
            let key = (upstream.to_string(), endpoint.to_string());
            endpoints.entry(key).or_default().0 += count as u64;
        } else if is_counted(reason) {
            bad += count as u64;
        }
    }
    for (labels, open) in metrics.series(&family::CONNECTIONS) {
        let [_, upstream, endpoint, _] = &*labels else {
            continue;
        };
        if !endpoint.is_empty() {
            let key = (upstream.to_string(), endpoint.to_string());
            endpoints.entry(key).or_default().0 += open.max(0.0) as u64;
        }
    }
    for (labels, count) in metrics.series(&family::CONNECT_ATTEMPTS) {
        let [upstream, endpoint, _, result] = &*labels else {
            continue;
        };
        if FAILED.contains(&&**result) {
            let key = (upstream.to_string(), endpoint.to_string());
            endpoints.entry(key).or_default().1 += count as u64;
        }
    }
    let good: u64 = endpoints.values().map(|(good, _)| good).sum();
    let ratio = ratio_of(good, bad);
    let allowed = 1.0 - target / 100.0;
    let budget_left = match (bad, allowed > 0.0) {
        (0, _) => 1.0,
        (_, true) => 1.0 - (1.0 - ratio) / allowed,
        // Nothing may fail, and something did.
        (_, false) => -1.0,
    };
    Slo {
        target,
        window_s,
        good,
        bad,
        ratio,
        budget_left,
        by_endpoint: endpoints
            .into_iter()
            .map(|((upstream, endpoint), (good, bad))| EndpointSlo {
                ratio: ratio_of(good, bad),
                upstream,
                endpoint,
                good,
                bad,
            })
            .collect(),
    }
}

/// 1 while there was nothing.
fn ratio_of(good: u64, bad: u64) -> f64 {
    match good + bad {
        0 => 1.0,
        all => good as f64 / all as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_bad_and_what_is_left_of_the_budget() {
        let metrics = Metrics::default();
        assert_eq!(evaluate(&metrics, 99.9, 1.0).ratio, 1.0);
        let closed = |endpoint, reason, count| {
            metrics
                .counter(
                    &family::CONNECTIONS_CLOSED,
                    &["l", "u", endpoint, "", reason],
                )
                .increment(count);
        };
        closed("a", "client_fin", 995);
        closed("a", "upstream_rst", 3);
        metrics
            .gauge(&family::CONNECTIONS, &["l", "u", "a", ""])
            .set(1.0);
        closed("", "client_gone", 1);
        closed("", "drain_idle", 7);
        metrics
            .counter(&family::CONNECT_ATTEMPTS, &["u", "b", "", "refused"])
            .increment(4);
        metrics
            .counter(&family::CONNECT_ATTEMPTS, &["u", "a", "", "lost_race"])
            .increment(9);
        let slo = evaluate(&metrics, 99.8, 60.0);
        assert_eq!((slo.good, slo.bad), (999, 1));
        assert_eq!(slo.ratio, 0.999);
        assert!((slo.budget_left - 0.5).abs() < 1e-9, "{}", slo.budget_left);
        let by: Vec<_> = slo
            .by_endpoint
            .iter()
            .map(|one| (one.endpoint.as_str(), one.good, one.bad, one.ratio))
            .collect();
        assert_eq!(by, [("a", 999, 0, 1.0), ("b", 0, 4, 0.0)]);
        assert_eq!(evaluate(&metrics, 100.0, 60.0).budget_left, -1.0);
    }
}
