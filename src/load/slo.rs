//! Terms such as `p99<20ms`, `errors<0.1%` or `failover<100ms`: what a measured quantity has to be.
//!
//! Which quantities there are is up to the caller; a term names one of them, compares it with a limit and keeps its own
//! text for the report.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::duration;

/// One term.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    text: String,
    /// The quantity it speaks of.
    pub name: String,
    comparison: Comparison,
    limit: Quantity,
}

/// A measured or demanded value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantity {
    /// A time, in milliseconds.
    Milliseconds(f64),
    /// A plain number: a count, or requests a second.
    Number(f64),
    /// A share between 0 and 1, written in percent.
    Share(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// A term and what was observed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The term as it was written.
    pub term: String,
    /// Milliseconds for times, percent for shares; null where it was not observed.
    pub observed: Option<f64>,
    /// Whether the term holds. What was not observed does not hold.
    pub ok: bool,
}

/// Longest first: `<=` must not be read as `<`.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

// === impl Term ===

impl Term {
    /// Reads terms separated by commas, each of which must speak of one of `names`.
    ///
    /// # Errors
    ///
    /// A sentence that names the term.
    pub fn parse_list(text: &str, names: &[&str]) -> Result<Vec<Self>, String> {
        let terms = text
            .split(',')
            .map(str::trim)
            .filter(|term| !term.is_empty());
        let terms: Vec<Self> = terms
            .map(|term| Self::parse(term, names))
            .collect::<Result<_, _>>()?;
        if terms.is_empty() {
            return Err(format!(
                "`{text}` holds no term; a term looks like p99<20ms or errors<0.1%"
            ));
        }
        Ok(terms)
    }

    /// Reads one term, which must speak of one of `names`.
    ///
    /// # Errors
    ///
    /// A sentence that names the term.
    pub fn parse(text: &str, names: &[&str]) -> Result<Self, String> {
        let term: Self = text.parse()?;
        if !names.contains(&term.name.as_str()) {
            return Err(format!(
                "`{text}`: nothing is called `{}`; there are {}",
                term.name,
                names.join(", ")
            ));
        }
        term.check_unit()?;
        Ok(term)
    }

    /// A number without its unit would be compared with something else than was meant.
    fn check_unit(&self) -> Result<(), String> {
        let wanted = match (self.name.as_str(), self.limit) {
            ("errors" | "skipped", Quantity::Number(_) | Quantity::Share(_))
            | ("held" | "rate", Quantity::Number(_)) => return Ok(()),
            ("errors" | "skipped", _) => "is counted; its limit looks like 0 or 0.1%",
            ("held", _) => "is counted; its limit looks like 0",
            ("rate", _) => "is counted a second; its limit looks like 500/s",
            (_, Quantity::Milliseconds(_)) => return Ok(()),
            (_, Quantity::Number(_) | Quantity::Share(_)) => {
                "is a time; its limit looks like 20ms or 1.5s"
            }
        };
        Err(format!("`{}`: {} {wanted}", self.text, self.name))
    }

    /// Compares with what was observed. A count may be held against a share and the other way round only by 0.
    pub fn evaluate(&self, observed: Option<Quantity>) -> Verdict {
        let ok = observed.is_some_and(|observed| self.holds(observed));
        Verdict {
            term: self.text.clone(),
            observed: observed.map(Quantity::value),
            ok,
        }
    }

    /// Whether the limit is a share.
    pub fn is_share(&self) -> bool {
        matches!(self.limit, Quantity::Share(_))
    }

    fn holds(&self, observed: Quantity) -> bool {
        let (observed, limit) = (observed.value(), self.limit.value());
        match self.comparison {
            Comparison::Less => observed < limit,
            Comparison::LessOrEqual => observed <= limit,
            Comparison::Greater => observed > limit,
            Comparison::GreaterOrEqual => observed >= limit,
            Comparison::Equal => observed == limit,
            Comparison::NotEqual => observed != limit,
        }
    }
}

// === impl Quantity ===

impl Quantity {
    /// Milliseconds, a number, or percent.
    pub fn value(self) -> f64 {
        match self {
            Self::Milliseconds(value) | Self::Number(value) => value,
            Self::Share(share) => share * 100.0,
        }
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let number = |text: &str| {
            text.trim()
                .parse::<f64>()
                .ok()
                .filter(|number| number.is_finite())
        };
        if let Some(percent) = text.strip_suffix('%').and_then(number) {
            return Ok(Self::Share(percent / 100.0));
        }
        if let Some(number) = number(text.strip_suffix("/s").unwrap_or(text)) {
            return Ok(Self::Number(number));
        }
        duration::parse(text).map(|limit| Self::Milliseconds(limit.as_secs_f64() * 1000.0))
    }
}

impl FromStr for Term {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let bad = || format!("`{text}` is not a term; a term looks like p99<20ms or errors<0.1%");
        let at = text.find(['<', '>', '=', '!']).ok_or_else(bad)?;
        let (name, rest) = text.split_at(at);
        let found = COMPARISONS.iter().find_map(|(sign, comparison)| {
            rest.strip_prefix(sign).map(|limit| (*comparison, limit))
        });
        let (comparison, limit) = found.ok_or_else(bad)?;
        let name = name.trim();
        if name.is_empty() {
            return Err(bad());
        }
        let limit = limit.parse().map_err(|why| format!("`{text}`: {why}"))?;
        Ok(Self {
            text: text.to_owned(),
            name: name.to_owned(),
            comparison,
            limit,
        })
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_and_compared() {
        for (text, observed, ok) in [
            ("p99<20ms", Quantity::Milliseconds(19.9), true),
            ("p99<20ms", Quantity::Milliseconds(20.0), false),
            ("p99<=1s", Quantity::Milliseconds(1000.0), true),
            ("errors<0.1%", Quantity::Share(0.0009), true),
            ("errors<0.1%", Quantity::Share(0.001), false),
            ("errors==0", Quantity::Number(0.0), true),
            ("errors==0", Quantity::Number(1.0), false),
            ("held > 0", Quantity::Number(3.0), true),
            ("rate>=500/s", Quantity::Number(500.0), true),
        ] {
            let term: Term = text.parse().unwrap();
            assert_eq!(term.evaluate(Some(observed)).ok, ok, "{text}");
            assert!(
                !term.evaluate(None).ok,
                "{text}: what was not observed does not hold"
            );
        }
        for text in [
            "",
            "p99",
            "p99<",
            "<5ms",
            "p99<five",
            "p99<5 parsecs",
            "errors=0",
            "p99<NaN",
        ] {
            assert!(text.parse::<Term>().is_err(), "{text}");
        }
        let unknown = Term::parse("p98<5ms", &["p50", "p99"]).unwrap_err();
        assert!(
            unknown.contains("`p98`") && unknown.contains("p50, p99"),
            "{unknown}"
        );
    }

    #[test]
    fn a_limit_has_the_unit_of_what_it_limits() {
        const NAMES: &[&str] = &["p99", "errors", "held", "rate", "skipped"];
        for text in [
            "p99<20ms",
            "p99<1.5s",
            "errors==0",
            "errors<0.1%",
            "skipped<1%",
            "held>0",
            "rate>500",
            "rate>500/s",
        ] {
            assert!(Term::parse(text, NAMES).is_ok(), "{text}");
        }
        for (text, said) in [
            ("p99<20", "p99 is a time; its limit looks like 20ms"),
            ("p99<5%", "is a time"),
            ("p99<0", "is a time"),
            ("errors<10ms", "errors is counted"),
            ("held>5ms", "held is counted"),
            ("held>5%", "held is counted"),
            ("rate>1s", "500/s"),
        ] {
            let error = Term::parse(text, NAMES).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
