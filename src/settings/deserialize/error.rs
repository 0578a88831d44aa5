//! Why a value cannot be deserialized, in words for users of TOML rather than of serde.

use std::fmt;

use serde::de::{self, Unexpected};

use crate::settings::node::{KeyPath, PathStep};

#[derive(Clone, Debug, PartialEq)]
pub(in crate::settings) struct Error {
    /// Path from the root. While an error travels up it is built from the inside out, innermost step first.
    pub path: KeyPath,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::settings) enum What {
    Message(String),
    /// The key, and the known ones.
    UnknownKey(String, &'static [&'static str]),
    /// The word, and the known ones.
    UnknownWord(String, &'static [&'static str]),
    /// A required key.
    Missing(&'static str),
}

// === impl Error ===

impl Error {
    fn new(what: What) -> Self {
        Self {
            path: KeyPath::default(),
            what,
        }
    }

    pub(super) fn inside(mut self, step: PathStep) -> Self {
        self.path.0.push(step);
        self
    }

    pub(super) fn outside_in(mut self) -> Self {
        self.path.0.reverse();
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Message(message) => f.write_str(message),
            What::UnknownKey(key, _) => write!(f, "unknown key `{key}`"),
            What::UnknownWord(word, _) => write!(f, "unknown word `{word}`"),
            What::Missing(key) => write!(f, "`{key}` is missing"),
        }
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Message(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!(
            "expected {}, found {}",
            plain(&expected.to_string()),
            Found(found)
        ))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let range = match expected.to_string().as_str() {
            "u8" => "from 0 to 255",
            "u16" => "from 0 to 65535",
            "u32" | "u64" | "usize" => "from 0 up",
            _ => return Self::invalid_type(found, expected),
        };
        let found = Found(found);
        Self::custom(format_args!(
            "expected a whole number {range}, found {found}"
        ))
    }

    fn unknown_variant(word: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::UnknownWord(word.to_owned(), expected))
    }

    fn unknown_field(key: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey(key.to_owned(), expected))
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(What::Missing(key))
    }
}

/// serde's name of a type, in words for users.
fn plain(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "a string" | "a borrowed string" | "str" | "string" => "text in quotes",
        "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" => "a whole number",
        "f64" | "f32" => "a number",
        "a sequence" => "a list",
        "a map" => "a table",
        "socket address" => "an address in quotes, such as \"127.0.0.1:8182\"",
        text if text.starts_with("a nonzero") => "a whole number above 0",
        text if text.starts_with("struct ") => "a table",
        text if text.starts_with("enum ") => "text in quotes",
        text => text,
    }
}

struct Found<'a>(Unexpected<'a>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unexpected::Bool(yes) => write!(f, "`{yes}`"),
            Unexpected::Unsigned(number) => write!(f, "`{number}`"),
            Unexpected::Signed(number) => write!(f, "`{number}`"),
            Unexpected::Float(number) => write!(f, "`{number}`"),
            Unexpected::Str(text) => write!(f, "the text `{}`", text.escape_debug()),
            Unexpected::Seq => f.write_str("a list"),
            Unexpected::Map => f.write_str("a table"),
            Unexpected::Other(words) => f.write_str(words),
            ref other => write!(f, "{other}"),
        }
    }
}
