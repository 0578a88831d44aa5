//! What the gateway counts.

use std::path::Path;

use hyper::StatusCode;
use jiff::Timestamp;

use crate::metrics::{Metrics, family};

#[derive(Clone, Debug)]
pub(super) struct GatewayMetrics {
    metrics: Metrics,
}

/// Values of the label `result` of handshakes; each series exists from the start.
const RESULTS: [&str; 9] = [
    "ok",
    "timeout",
    "no_certificate",
    "unknown_ca",
    "expired",
    "not_yet_valid",
    "revoked",
    "usage",
    "protocol",
];

/// Values of the label `code` of requests.
const CODES: [&str; 7] = ["200", "400", "403", "404", "405", "502", "503"];

// === impl GatewayMetrics ===

impl GatewayMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        for result in RESULTS {
            let _at_zero = metrics.counter(&family::GATEWAY_HANDSHAKES, &[result]);
        }
        for code in CODES {
            let _at_zero = metrics.counter(&family::GATEWAY_REQUESTS, &[code]);
        }
        Self {
            metrics: metrics.clone(),
        }
    }

    pub(super) fn handshake(&self, result: &str) {
        self.metrics
            .counter(&family::GATEWAY_HANDSHAKES, &[result])
            .increment(1);
    }

    pub(super) fn request(&self, status: StatusCode) {
        self.metrics
            .counter(&family::GATEWAY_REQUESTS, &[status.as_str()])
            .increment(1);
    }

    pub(super) fn expiry(&self, file: &Path, at: Timestamp) {
        let file = file.display().to_string();
        self.metrics
            .gauge(&family::CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS, &[&file])
            .set(at.as_second() as f64);
    }
}
