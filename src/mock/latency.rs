//! Distributions of answer times: a constant, a normal distribution, or a log-normal one given by two percentiles.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::duration;

/// The 99th percentile of the standard normal distribution.
const Z99: f64 = 2.326_347_9;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Latency {
    Fixed(Duration),
    Normal {
        mean: Duration,
        deviation: Duration,
    },
    /// Log-normal, the usual shape of a service's answer times.
    Percentiles {
        p50: Duration,
        p99: Duration,
    },
}

/// A text that is no latency.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a latency ({why}); a latency looks like 2ms, normal(5ms,1ms) or p50=2ms,p99=40ms"
)]
pub struct BadLatency {
    text: String,
    why: String,
}

// === impl Latency ===

impl Latency {
    pub fn sample(&self) -> Duration {
        match *self {
            Latency::Fixed(latency) => latency,
            Latency::Normal { mean, deviation } => {
                let seconds = mean.as_secs_f64() + deviation.as_secs_f64() * standard_normal();
                Duration::from_secs_f64(seconds.max(0.0))
            }
            Latency::Percentiles { p50, p99 } => {
                let (p50, p99) = (p50.as_secs_f64(), p99.as_secs_f64());
                let deviation = (p99 / p50).ln() / Z99;
                // Beyond 6 standard deviations nothing is drawn in practice; the bound keeps the number finite.
                let exponent = deviation * standard_normal().clamp(-6.0, 6.0);
                Duration::from_secs_f64((p50 * exponent.exp()).min(3600.0))
            }
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        let pair = |inside: &str| match inside.split_once(',') {
            Some((first, second)) => Ok((first.trim().to_owned(), second.trim().to_owned())),
            None => Err("two values are needed".to_owned()),
        };
        if let Some(inside) = text.strip_prefix("normal(") {
            let inside = inside
                .strip_suffix(')')
                .ok_or("the closing `)` is missing")?;
            let (mean, deviation) = pair(inside)?;
            let (mean, deviation) = (duration::parse(&mean)?, duration::parse(&deviation)?);
            return Ok(Latency::Normal { mean, deviation });
        }
        if let Some(inside) = text.strip_prefix("p50=") {
            let (p50, p99) = pair(inside)?;
            let p99 = p99.strip_prefix("p99=").ok_or("p99= must follow p50=")?;
            let (p50, p99) = (duration::parse(&p50)?, duration::parse(p99)?);
            if p50.is_zero() || p99 < p50 {
                return Err("p50 must be more than 0 and at most p99".to_owned());
            }
            return Ok(Latency::Percentiles { p50, p99 });
        }
        duration::parse(text).map(Latency::Fixed)
    }
}

/// Box and Muller's method.
fn standard_normal() -> f64 {
    let (a, b) = (1.0 - fastrand::f64(), fastrand::f64());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

impl Default for Latency {
    fn default() -> Self {
        Latency::Fixed(Duration::ZERO)
    }
}

impl FromStr for Latency {
    type Err = BadLatency;

    fn from_str(text: &str) -> Result<Self, BadLatency> {
        Self::read(text.trim()).map_err(|why| BadLatency {
            text: text.escape_debug().to_string(),
            why,
        })
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = duration::show;
        match *self {
            Latency::Fixed(latency) => f.write_str(&show(latency)),
            Latency::Normal { mean, deviation } => {
                write!(f, "normal({},{})", show(mean), show(deviation))
            }
            Latency::Percentiles { p50, p99 } => write!(f, "p50={},p99={}", show(p50), show(p99)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_read_and_shown() {
        for text in ["2ms", "normal(5ms,1ms)", "p50=2ms,p99=40ms", "0s"] {
            assert_eq!(text.parse::<Latency>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "5",
            "normal(5ms)",
            "normal(5ms,1ms",
            "p50=2ms",
            "p50=2ms,40ms",
            "p50=9ms,p99=2ms",
            "p50=0s,p99=2ms",
            "uniform(1ms,2ms)",
        ] {
            let error = text.parse::<Latency>().unwrap_err().to_string();
            assert!(error.contains("a latency looks like"), "{text}: {error}");
        }
    }

    #[test]
    fn samples_have_the_percentiles_asked_for() {
        let quantiles = |text: &str| {
            let latency: Latency = text.parse().unwrap();
            let mut all: Vec<f64> = (0..20_000)
                .map(|_| latency.sample().as_secs_f64() * 1e3)
                .collect();
            all.sort_by(f64::total_cmp);
            (all[10_000], all[19_800])
        };
        let (p50, p99) = quantiles("p50=2ms,p99=40ms");
        assert!(
            (1.8..2.2).contains(&p50) && (33.0..48.0).contains(&p99),
            "{p50} {p99}"
        );
        let (p50, p99) = quantiles("normal(5ms,1ms)");
        assert!(
            (4.9..5.1).contains(&p50) && (7.1..7.6).contains(&p99),
            "{p50} {p99}"
        );
    }
}
