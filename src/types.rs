//! Types shared by every layer: names that could be swapped by mistake, sides and directions.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text as it is.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A listener's name; a metric label.
    ListenerName
}
name! {
    /// An upstream's name; a metric label.
    UpstreamName
}
name! {
    /// An endpoint's name, unique within its upstream; a metric label.
    EndpointName
}
name! {
    /// An availability zone, by name (`us-east-1a`; differs between accounts) or by id (`use1-az1`; does not).
    Zone
}

/// One configured hop; equal settings have equal ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HopId(u64);

/// Which of a pair's two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client's socket.
    Downstream,
    /// The endpoint's socket.
    Upstream,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Client to endpoint.
    Upload,
    /// Endpoint to client.
    Download,
}

// === impl HopId ===

impl HopId {
    /// The id of what these settings describe.
    pub fn of(settings: &impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        settings.hash(&mut hasher);
        Self(hasher.finish())
    }
}

// === impl Side ===

impl Side {
    /// The other one.
    pub const fn other(self) -> Side {
        match self {
            Side::Downstream => Side::Upstream,
            Side::Upstream => Side::Downstream,
        }
    }
}

// === impl Direction ===

impl Direction {
    /// Both, in the order in which arrays are indexed by [`Direction::index`].
    pub const BOTH: [Direction; 2] = [Direction::Upload, Direction::Download];

    /// Index into a two-element array.
    pub const fn index(self) -> usize {
        match self {
            Direction::Upload => 0,
            Direction::Download => 1,
        }
    }

    /// The side that is read from.
    pub const fn source(self) -> Side {
        match self {
            Direction::Upload => Side::Downstream,
            Direction::Download => Side::Upstream,
        }
    }

    /// The metric label and JSON key.
    pub const fn as_str(self) -> &'static str {
        match self {
            Direction::Upload => "upload",
            Direction::Download => "download",
        }
    }
}

/// Whether a listener, an upstream, an endpoint or a zone may have this name. It becomes a metric label, a segment of a
/// URL and an argument on a command line: `-x` would be read as a flag there, and `..` as the segment above.
pub fn check_label(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    match name.chars().find(|c| !fine(*c)) {
        Some(c) => Err(format!(
            "`{}` cannot be a name: `{}` is not allowed in one",
            name.escape_debug(),
            c.escape_debug()
        )),
        None if name.is_empty() => Err("a name cannot be empty".to_owned()),
        None if name.starts_with('-') => Err(format!(
            "`{name}` cannot be a name: on a command line it would be read as a flag"
        )),
        None if name == "." || name == ".." => Err(format!(
            "`{name}` cannot be a name: in a URL it means another path"
        )),
        None if name.len() > 253 => Err("a name cannot be longer than 253 bytes".to_owned()),
        None => Ok(()),
    }
}
