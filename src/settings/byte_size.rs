//! Sizes in bytes: `64KiB`, `1MiB`, or a plain number of bytes.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u32);

/// Reads a size.
pub fn parse(text: &str) -> Result<ByteSize, String> {
    let trimmed = text.trim();
    let digits = trimmed.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match trimmed[digits.len()..].trim() {
        "" | "B" => Some(1),
        "KiB" | "K" => Some(1024),
        "MiB" | "M" => Some(1024 * 1024),
        _ => None,
    };
    let size = digits
        .parse::<u32>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor));
    size.map(ByteSize).ok_or_else(|| {
        format!(
            "`{}` is not a size; a size looks like 64KiB or 1MiB",
            text.escape_debug()
        )
    })
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 2] = [(1024 * 1024, "MiB"), (1024, "KiB")];
        match UNITS
            .iter()
            .find(|(size, _)| self.0 > 0 && self.0.is_multiple_of(*size))
        {
            Some((size, unit)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl Visitor<'_> for Reads {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64KiB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                parse(text).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteSize, E> {
                parse(&number.to_string()).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ByteSize, E> {
                parse(&number.to_string()).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Reads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_and_refuses_the_rest() {
        assert_eq!(parse("64KiB"), Ok(ByteSize(65_536)));
        assert_eq!(parse("1 MiB"), Ok(ByteSize(1_048_576)));
        assert_eq!(parse("4096"), Ok(ByteSize(4096)));
        for text in ["", "KiB", "-1", "64KB", "1.5MiB", "99999999999", "4096MiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
