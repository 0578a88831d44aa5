//! Durations as text: `250ms 5s 2m 1h`, also `1m30s`, `1.5s` and a bare `0`.
//!
//! Also a serde module: `#[serde(with = "crate::duration")]` on a `Duration` field.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserializer, Serializer};

/// End of every error about a duration.
const LOOKS_LIKE: &str = "a duration looks like 250ms, 5s, 2m or 1h";

/// Units and their length in nanoseconds, longest first, the order in which [`show`] uses them.
const UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Parses a duration. The error is a sentence without a final dot that contains the text.
pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{}` is not a duration; {LOOKS_LIKE}", text.escape_debug());
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("`{rest}` has no unit; {LOOKS_LIKE}"));
    }
    let mut nanos = 0u128;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split(after, char::is_alphabetic);
        let (_, length) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(bad)?;
        nanos = scale(number, *length)
            .and_then(|part| nanos.checked_add(part))
            .ok_or_else(bad)?;
        rest = after.trim_start();
    }
    // At most a thousand years, so that sums cannot overflow.
    u64::try_from(nanos / 1_000_000_000)
        .ok()
        .filter(|secs| *secs < 1000 * 366 * 24 * 3600)
        .map(|secs| {
            let below_second = u32::try_from(nanos % 1_000_000_000).unwrap_or(0);
            Duration::new(secs, below_second)
        })
        .ok_or_else(|| format!("`{text}` is too long"))
}

/// Formats a duration so that [`parse`] returns the same one.
pub fn show(duration: Duration) -> String {
    let mut left = duration.as_nanos();
    if left == 0 {
        return "0s".to_owned();
    }
    // 1500ms rather than 1s500ms: below a minute a single unit reads better.
    if left < 60_000_000_000
        && let Some((unit, length)) = UNITS[2..]
            .iter()
            .find(|(_, length)| left.is_multiple_of(*length))
    {
        return format!("{}{unit}", left / length);
    }
    let mut text = String::new();
    for (unit, length) in UNITS {
        if left >= length {
            text.push_str(&format!("{}{unit}", left / length));
            left %= length;
        }
    }
    text
}

pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&show(*duration))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(Reads)
}

struct Reads;

impl Visitor<'_> for Reads {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration in quotes, such as \"250ms\" or \"5s\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }

    /// A bare number gets the error about missing units rather than one about types; a bare 0 is a duration.
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Duration, E> {
        parse(&number.to_string()).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Duration, E> {
        parse(&number.to_string()).map_err(E::custom)
    }
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// `number` × `length`, exactly; `None` if it is not a number, or finer than a nanosecond.
fn scale(number: &str, length: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.ends_with('.') || whole.len() > 15 || fraction.len() > 9 {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let fraction = match fraction {
        "" => 0,
        digits => {
            let scaled = digits.parse::<u128>().ok()? * length;
            let power = 10u128.pow(u32::try_from(digits.len()).ok()?);
            if !scaled.is_multiple_of(power) {
                return None;
            }
            scaled / power
        }
    };
    Some(whole * length + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            ("250ms", ms(250)),
            ("5s", ms(5_000)),
            ("2m", ms(120_000)),
            ("1h", ms(3_600_000)),
            ("1m30s", ms(90_000)),
            ("1m 30s", ms(90_000)),
            ("1.5s", ms(1_500)),
            ("0.25s", ms(250)),
            (" 1s ", ms(1_000)),
            ("0", Duration::ZERO),
            ("0s", Duration::ZERO),
            ("50us", Duration::from_micros(50)),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_none_and_says_what_one_looks_like() {
        for text in [
            "",
            "s",
            "5",
            "1.5",
            "5 parsecs",
            "-1s",
            "1.s",
            ".5s",
            "1s2",
            "5S",
            "1e3s",
            "ü",
            "١s",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.ends_with(LOOKS_LIKE), "{text}: {error}");
        }
        assert_eq!(
            parse("5").unwrap_err(),
            "`5` has no unit; a duration looks like 250ms, 5s, 2m or 1h"
        );
        assert_eq!(
            parse("999999999999h").unwrap_err(),
            "`999999999999h` is too long"
        );
        assert!(parse("99999999999999999999999h").is_err());
    }

    #[test]
    fn shows_the_way_it_reads() {
        for text in [
            "0s", "250ms", "1500ms", "5s", "1m", "1m30s", "2m", "1h", "1h1ms", "50us", "7ns",
        ] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
    }
}
