//! Which system each address answers as, and which system the upstream is pinned to.
//!
//! An address that answers as another system is forbidden from the first probe that saw it on; without a majority nothing
//! is allowed; a pin once lost stays lost until a reload. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::upstream::settings::ExpectIdentity;

/// The `:s3-auth-path` an address answered with: equal ids, the same Datomic system.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(Arc<str>);

/// What the upstream's addresses answered, and what follows from it.
#[derive(Clone, Debug)]
pub struct Pin {
    expect: ExpectIdentity,
    pinned: Option<SystemId>,
    conflict: Option<(SystemId, SystemId)>,
    /// What each address of the set last answered as.
    seen: BTreeMap<SocketAddr, SystemId>,
    /// Before the first round is over nothing is pinned.
    settled: bool,
}

/// What a report changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinChange {
    /// The upstream is now pinned to this system.
    Pinned(SystemId),
    /// Two systems: the upstream is not used.
    Conflict(SystemId, SystemId),
    /// No address answers as the configured system; the upstream is not used.
    Unexpected { expected: SystemId, got: SystemId },
    /// This address answers as another system.
    Mismatch {
        socket: SocketAddr,
        /// What it answers as.
        got: SystemId,
        /// What the upstream is pinned to.
        pinned: SystemId,
    },
}

// === impl SystemId ===

impl SystemId {
    /// Wraps the value as it was read.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(Arc::from(text.as_ref()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Pin ===

impl Pin {
    /// Nothing has answered.
    pub fn new(expect: ExpectIdentity) -> Self {
        let pinned = match &expect {
            ExpectIdentity::Value(text) => Some(SystemId::new(text)),
            ExpectIdentity::Auto | ExpectIdentity::Off => None,
        };
        Self {
            expect,
            pinned,
            conflict: None,
            seen: BTreeMap::new(),
            settled: false,
        }
    }

    /// The system this upstream is pinned to.
    pub fn pinned(&self) -> Option<&SystemId> {
        self.pinned.as_ref()
    }

    /// The two systems, when there are two.
    pub fn conflict(&self) -> Option<&(SystemId, SystemId)> {
        self.conflict.as_ref()
    }

    /// Whether the pinned system is the one that the settings name.
    pub fn is_configured(&self) -> bool {
        matches!(self.expect, ExpectIdentity::Value(_))
    }

    /// What an address last answered as.
    pub fn of(&self, socket: SocketAddr) -> Option<&SystemId> {
        self.seen.get(&socket)
    }

    /// Whether an address answers as another system than the pinned one.
    pub fn mismatch(&self, socket: SocketAddr) -> bool {
        self.expect != ExpectIdentity::Off
            && matches!((&self.pinned, self.seen.get(&socket)), (Some(pinned), Some(got)) if pinned != got)
    }

    /// Whether an address must not be offered.
    pub fn forbids(&self, socket: SocketAddr) -> bool {
        if self.expect == ExpectIdentity::Off {
            return false;
        }
        if self.conflict.is_some() || self.mismatch(socket) {
            return true;
        }
        // Before the pin: as long as all agree nothing speaks against anybody; else only the majority is used.
        self.pinned.is_none()
            && self.values().len() > 1
            && (self
                .seen
                .get(&socket)
                .is_some_and(|got| Some(got) != self.majority().as_ref())
                || self.majority().is_none())
    }

    /// An address has answered.
    pub fn observe(&mut self, socket: SocketAddr, got: SystemId) -> Vec<PinChange> {
        if self.expect == ExpectIdentity::Off {
            self.seen.insert(socket, got);
            return Vec::new();
        }
        let before = self.mismatch(socket);
        let old = self.seen.insert(socket, got.clone());
        let mut changes = self.evaluate();
        if self.mismatch(socket)
            && (!before || old.as_ref() != Some(&got))
            && let Some(pinned) = self.pinned.clone()
        {
            changes.push(PinChange::Mismatch {
                socket,
                got,
                pinned,
            });
        }
        changes
    }

    /// The first round is over: the majority of what was answered is pinned.
    pub fn end_first_round(&mut self) -> Vec<PinChange> {
        if self.settled {
            return Vec::new();
        }
        self.settled = true;
        let mut changes = self.evaluate();
        if let Some(pinned) = &self.pinned {
            changes.extend(self.seen.iter().filter(|(_, got)| *got != pinned).map(
                |(socket, got)| PinChange::Mismatch {
                    socket: *socket,
                    got: got.clone(),
                    pinned: pinned.clone(),
                },
            ));
        }
        changes
    }

    /// An address has left the set for good.
    pub fn remove(&mut self, socket: SocketAddr) {
        self.seen.remove(&socket);
    }

    /// A reload: pins anew, by what the addresses that still answer (`answering`) last said.
    pub fn repin(
        &mut self,
        expect: ExpectIdentity,
        answering: impl Fn(SocketAddr) -> bool,
    ) -> Vec<PinChange> {
        let (settled, mut seen) = (self.settled, std::mem::take(&mut self.seen));
        seen.retain(|socket, _| answering(*socket));
        *self = Pin::new(expect);
        self.seen = seen;
        if settled {
            self.end_first_round()
        } else {
            Vec::new()
        }
    }

    fn evaluate(&mut self) -> Vec<PinChange> {
        let values = self.values();
        let count = |of: &SystemId| {
            values
                .iter()
                .find(|(value, _)| *value == of)
                .map_or(0, |(_, n)| *n)
        };
        match (&self.expect, &self.pinned) {
            (ExpectIdentity::Off, _) => Vec::new(),
            (ExpectIdentity::Value(_), Some(pinned)) => {
                // The operator said which: nothing to vote on. Named while nobody answers as that one.
                let other = values.first().filter(|_| count(pinned) == 0);
                let conflict = other.map(|(other, _)| (pinned.clone(), (*other).clone()));
                let news = conflict.clone().filter(|_| self.conflict.is_none());
                self.conflict = conflict;
                news.map(|(expected, got)| PinChange::Unexpected { expected, got })
                    .into_iter()
                    .collect()
            }
            _ if self.conflict.is_some() || !self.settled => Vec::new(),
            (_, Some(pinned)) => {
                let more = values
                    .iter()
                    .find(|(value, n)| *value != pinned && *n > count(pinned));
                match more.map(|(other, _)| (pinned.clone(), (*other).clone())) {
                    Some(two) => self.lose(two),
                    None => Vec::new(),
                }
            }
            (_, None) => match (self.majority(), values.first(), values.get(1)) {
                (Some(pinned), _, _) => {
                    self.pinned = Some(pinned.clone());
                    vec![PinChange::Pinned(pinned)]
                }
                (None, Some((one, _)), Some((other, _))) => {
                    let two = ((*one).clone(), (*other).clone());
                    self.lose(two)
                }
                _ => Vec::new(),
            },
        }
    }

    fn lose(&mut self, two: (SystemId, SystemId)) -> Vec<PinChange> {
        self.conflict = Some(two.clone());
        vec![PinChange::Conflict(two.0, two.1)]
    }

    /// The values and how many addresses answer with each, most first.
    fn values(&self) -> Vec<(&SystemId, usize)> {
        let mut counts: BTreeMap<&SystemId, usize> = BTreeMap::new();
        for value in self.seen.values() {
            *counts.entry(value).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        counts
    }

    /// The value that more than half of those who answered agree on.
    fn majority(&self) -> Option<SystemId> {
        self.values()
            .first()
            .filter(|(_, n)| n * 2 > self.seen.len())
            .map(|(value, _)| (*value).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 8182))
    }

    /// Runs `1=x 2=y |` (the bar ends the first round); gives the pin and which of 1..=4 are forbidden.
    fn run(expect: ExpectIdentity, script: &str) -> (Pin, String) {
        let mut pin = Pin::new(expect);
        for word in script.split_whitespace() {
            match word.split_once('=') {
                Some((n, value)) => pin.observe(at(n.parse().unwrap()), SystemId::new(value)),
                None => pin.end_first_round(),
            };
        }
        let forbidden = (1..=4)
            .filter(|n| pin.forbids(at(*n)))
            .map(|n| n.to_string())
            .collect();
        (pin, forbidden)
    }

    #[test]
    fn the_pin() {
        for (script, pinned, forbidden, conflict) in [
            ("", None, "", false),
            ("1=x", None, "", false),
            ("1=x 2=x", None, "", false),
            // Before the first round is over: only the majority, and nobody without one.
            ("1=x 2=y", None, "1234", false),
            ("1=x 2=y 3=x", None, "2", false),
            ("1=x 2=x 3=x |", Some("x"), "", false),
            ("1=x 2=y 3=x |", Some("x"), "2", false),
            ("1=x 2=y |", None, "1234", true),
            ("1=x 2=y 3=z |", None, "1234", true),
            // A later majority elsewhere: not used.
            ("1=x | 2=y", Some("x"), "2", false),
            ("1=x | 2=y 3=y", Some("x"), "1234", true),
            ("1=x 2=x | 1=y", Some("x"), "1", false),
            ("1=x 2=x | 1=y 2=y", Some("x"), "1234", true),
            // Lost stays lost.
            ("1=x 2=y | 2=x", None, "1234", true),
            // An empty first round: the first to answer pin.
            ("| 1=x 2=x", Some("x"), "", false),
            ("| 1=x 2=y", Some("x"), "2", false),
            // Back to the pinned value.
            ("1=x 2=x | 2=y 2=x", Some("x"), "", false),
        ] {
            let (pin, got) = run(ExpectIdentity::Auto, script);
            assert_eq!(pin.pinned().map(SystemId::as_str), pinned, "{script}");
            assert_eq!(got, forbidden, "{script}");
            assert_eq!(pin.conflict().is_some(), conflict, "{script}");
        }
    }

    #[test]
    fn a_value_and_off() {
        let value = || ExpectIdentity::Value("x".to_owned());
        assert_eq!(run(value(), "1=y").1, "1234");
        assert_eq!(run(value(), "1=y 2=x").1, "1");
        assert_eq!(run(value(), "1=y 2=x 3=y |").1, "13");
        assert_eq!(run(ExpectIdentity::Off, "1=y 2=x | 3=z").1, "");
    }

    #[test]
    fn a_mismatch_is_told_once() {
        let (mut pin, _) = run(ExpectIdentity::Auto, "1=x 2=x 3=x |");
        let told = pin.observe(at(3), SystemId::new("y"));
        assert!(
            matches!(&told[..], [PinChange::Mismatch { .. }]),
            "{told:?}"
        );
        assert!(pin.observe(at(3), SystemId::new("y")).is_empty());
    }

    #[test]
    fn a_reload_pins_anew() {
        let (mut pin, _) = run(ExpectIdentity::Auto, "1=x 2=x | 1=y 2=y");
        assert_eq!(
            pin.repin(ExpectIdentity::Auto, |_| true),
            [PinChange::Pinned(SystemId::new("y"))]
        );
        assert!(!pin.forbids(at(1)));
        let (mut pin, _) = run(ExpectIdentity::Auto, "1=x 2=y |");
        pin.repin(ExpectIdentity::Auto, |socket| socket == at(2));
        assert_eq!(pin.pinned().map(SystemId::as_str), Some("y"));
    }
}
