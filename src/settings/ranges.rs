//! The range of every number and duration that no module below checks itself.
//!
//! Each of these values reaches a system call, a buffer size, a timer or a multiplication: a value outside of its range
//! would be refused by the kernel for every connection, or overflow, long after `check` has said ok. Values are read from
//! the serialized settings, so a key is named once, as a file names it.

use std::time::Duration;

use serde_json::Value as Json;

use super::byte_size::{self, ByteSize};
use super::model::Settings;
use crate::duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Values that a key may have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Range {
    /// Whole number, both ends included.
    Number(u64, u64),
    /// Number of items of a list.
    Items(u64),
    /// Duration, both ends included, in whole steps of the third. The kernel would round anything finer.
    Duration(Duration, Duration, Duration),
    /// As `Duration`, or `0s`, which means never.
    DurationOrNever(Duration, Duration, Duration),
    /// A size, both ends included.
    Bytes(u32, u32),
}

/// Key (lists of tables without an index) and range.
#[rustfmt::skip]
pub(super) const RANGES: &[(&str, Range)] = &[
    ("listener", Range::Items(256)),
    ("listener.bind", Range::Items(64)),
    ("listener.front_allow", Range::Items(256)),
    ("listener.max_connections", Range::Number(1, 1_000_000)),
    ("listener.hold_timeout", Range::Duration(Duration::ZERO, DAY, Duration::from_nanos(1))),
    ("listener.hold_max", Range::Number(0, 1_000_000)),
    ("upstream", Range::Items(256)),
    ("upstream.endpoint", Range::Items(256)),
    ("upstream.connect_timeout", Range::Duration(MS, Duration::from_secs(600), Duration::from_nanos(1))),
    ("upstream.hedge_after", Range::DurationOrNever(MS, Duration::from_secs(600), Duration::from_nanos(1))),
    ("upstream.pipe_size", Range::Bytes(4096, 1024 * 1024)),
    // TCP_KEEPIDLE and TCP_KEEPINTVL take whole seconds up to 32,767, TCP_KEEPCNT up to 127, TCP_USER_TIMEOUT
    // milliseconds up to 2^31 - 1.
    ("upstream.tcp.keepalive", Range::Duration(SECOND, Duration::from_secs(32_767), SECOND)),
    ("upstream.tcp.keepalive_interval", Range::Duration(SECOND, Duration::from_secs(32_767), SECOND)),
    ("upstream.tcp.keepalive_probes", Range::Number(1, 127)),
    ("upstream.tcp.user_timeout", Range::DurationOrNever(MS, Duration::from_millis(2_147_483_647), MS)),
    ("upstream.tcp.idle_timeout", Range::DurationOrNever(MS, YEAR, Duration::from_nanos(1))),
    ("upstream.tcp.half_open_timeout", Range::DurationOrNever(MS, YEAR, Duration::from_nanos(1))),
    ("upstream.tcp.reset_deadline", Range::DurationOrNever(MS, YEAR, Duration::from_nanos(1))),
    ("upstream.tcp.max_age", Range::DurationOrNever(MS, YEAR, Duration::from_nanos(1))),
    ("metrics.emf", Range::DurationOrNever(SECOND, DAY, MS)),
    ("upstream.via.ready_timeout", Range::Duration(MS, DAY, Duration::from_nanos(1))),
    ("upstream.via.renew_after", Range::DurationOrNever(SECOND, YEAR, Duration::from_nanos(1))),
    ("upstream.via.connect_timeout", Range::Duration(MS, Duration::from_secs(600), Duration::from_nanos(1))),
    ("upstream.warm.spares", Range::Number(0, 1024)),
    ("upstream.warm.max_age", Range::DurationOrNever(MS, DAY, Duration::from_nanos(1))),
    ("dns.servers", Range::Items(16)),
    ("admin.allowed_hosts", Range::Items(256)),
    ("shutdown.min_delay", Range::Duration(Duration::ZERO, DAY, Duration::from_nanos(1))),
    ("shutdown.max_delay", Range::Duration(Duration::ZERO, DAY, Duration::from_nanos(1))),
    ("runtime.workers", Range::Number(1, 512)),
    ("faults.max_ttl", Range::Duration(SECOND, DAY, Duration::from_nanos(1))),
    ("gateway.bind", Range::Items(64)),
    ("gateway.handshake_timeout", Range::Duration(Duration::from_millis(10), MINUTE, Duration::from_nanos(1))),
    ("gateway.max_handshakes", Range::Number(1, 65_536)),
    ("gateway.allow", Range::Items(1024)),
    ("readiness.upstream", Range::Number(0, 1_000_000)),
];

/// One value out of its range: the key with indices (`upstream[0].pipe_size`), and the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OutOfRange {
    pub key: String,
    pub message: String,
    /// It is the number of entries of a list.
    pub too_many: bool,
}

/// Every value of these settings that is out of its range.
pub(super) fn check(settings: &Settings) -> Vec<OutOfRange> {
    // Only maps with keys that are not text cannot be serialized, and settings have none.
    let all = serde_json::to_value(settings).unwrap_or_default();
    let mut found = Vec::new();
    for (key, range) in RANGES {
        let steps: Vec<&str> = key.split('.').collect();
        visit(&all, &steps, String::new(), &mut |at, value| {
            if !range.allows(value) {
                let name = key.rsplit('.').next().unwrap_or(key);
                found.push(OutOfRange {
                    key: at.to_owned(),
                    message: format!("`{name}` {}", range.rule()),
                    too_many: matches!(range, Range::Items(_)),
                });
            }
        });
    }
    found
}

/// A key without indices or names in brackets.
pub(super) fn without_indices(key: &str) -> String {
    let mut parts = key.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |key, part| {
        key + part.split_once(']').map_or(part, |(_, rest)| rest)
    })
}

/// Calls `found` with every value at a key; tables of a list on the way are visited one by one.
fn visit(value: &Json, steps: &[&str], at: String, found: &mut dyn FnMut(&str, &Json)) {
    let Some((step, rest)) = steps.split_first() else {
        return found(&at, value);
    };
    let Some(next) = value.get(step) else { return };
    let at = match at.is_empty() {
        true => (*step).to_owned(),
        false => format!("{at}.{step}"),
    };
    match next {
        Json::Array(items) if !rest.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                visit(item, rest, format!("{at}[{index}]"), found);
            }
        }
        _ => visit(next, rest, at, found),
    }
}

// === impl Range ===

impl Range {
    /// Whether a serialized value is within the range. A value of another kind (absent, a word) has no range.
    fn allows(&self, value: &Json) -> bool {
        let number = || value.as_u64();
        let length = || value.as_str().and_then(|text| duration::parse(text).ok());
        let within = |low: Duration, high: Duration, step: Duration, length: Duration| {
            (low..=high).contains(&length) && length.as_nanos().is_multiple_of(step.as_nanos())
        };
        match *self {
            Range::Number(low, high) => {
                number().is_none_or(|number| (low..=high).contains(&number))
            }
            Range::Bytes(low, high) => value
                .as_str()
                .and_then(|text| byte_size::parse(text).ok())
                .is_none_or(|size| (low..=high).contains(&size.0)),
            Range::Items(most) => value
                .as_array()
                .is_none_or(|items| items.len() as u64 <= most),
            Range::Duration(low, high, step) => {
                length().is_none_or(|length| within(low, high, step, length))
            }
            Range::DurationOrNever(low, high, step) => {
                length().is_none_or(|length| length.is_zero() || within(low, high, step, length))
            }
        }
    }

    /// The rule as the end of a sentence: `must be …`.
    pub(super) fn rule(&self) -> String {
        let show = duration::show;
        let whole = |step: Duration| match step {
            SECOND => ", in whole seconds",
            MS => ", in whole milliseconds",
            _ => "",
        };
        let high_of = |high: Duration| match high {
            // Longer than a minute in the unit that the kernel counts in.
            high if high > MINUTE
                && high.as_secs() < 40_000
                && !high.as_secs().is_multiple_of(60) =>
            {
                format!("{}s", high.as_secs())
            }
            high => show(high),
        };
        match *self {
            Range::Number(low, high) => format!("must be between {low} and {high}"),
            Range::Bytes(low, high) => {
                format!("must be between {} and {}", ByteSize(low), ByteSize(high))
            }
            Range::Items(most) => format!("may have at most {most} entries"),
            Range::Duration(low, high, step) => {
                format!(
                    "must be between {} and {}{}",
                    show(low),
                    high_of(high),
                    whole(step)
                )
            }
            Range::DurationOrNever(low, high, step) => format!(
                "must be 0s (never) or between {} and {}{}",
                show(low),
                high_of(high),
                whole(step)
            ),
        }
    }
}
