//! Sizes in bytes as people write them: `64KiB`, `1MiB`, or a plain number of bytes.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u32);

/// Reads a size.
pub(super) fn parse(text: &str) -> Result<Size, String> {
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
    size.map(Size).ok_or_else(|| {
        format!(
            "`{}` is not a size; a size looks like 64KiB or 1MiB",
            text.escape_debug()
        )
    })
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl Visitor<'_> for Reads {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64KiB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                parse(text).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
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
        assert_eq!(parse("64KiB"), Ok(Size(65_536)));
        assert_eq!(parse("1 MiB"), Ok(Size(1_048_576)));
        assert_eq!(parse("4096"), Ok(Size(4096)));
        for text in ["", "KiB", "-1", "64KB", "1.5MiB", "99999999999", "4096MiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
