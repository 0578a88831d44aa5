//! The Prometheus text exposition of one family: HELP, TYPE, series with escaped labels.

use std::fmt::Write as _;

use super::family::{Family, FamilyKind};
use super::registry::{Reading, SeriesSample};

/// Appends one family: HELP and TYPE, and its series where it has some.
pub(super) fn family(out: &mut String, family: &Family, samples: &[SeriesSample]) {
    let kind = match family.kind {
        FamilyKind::Counter => "counter",
        FamilyKind::Gauge => "gauge",
        FamilyKind::Histogram(_) => "histogram",
    };
    out.push_str("# HELP ");
    out.push_str(family.name);
    out.push(' ');
    escape(out, family.help, false);
    // Writing to a String cannot fail.
    let _ = writeln!(out, "\n# TYPE {} {kind}", family.name);
    for (values, reading) in samples {
        match reading {
            Reading::Int(count) => {
                series(out, family, "", values, None);
                let _ = writeln!(out, " {count}");
            }
            Reading::Float(value) => {
                series(out, family, "", values, None);
                out.push(' ');
                number(out, *value);
                out.push('\n');
            }
            Reading::Histogram(bounds, counts, sum) => {
                histogram(out, family, values, bounds, counts, *sum)
            }
        }
    }
}

fn histogram(
    out: &mut String,
    family: &Family,
    values: &[Box<str>],
    bounds: &[f64],
    counts: &[u64],
    sum: f64,
) {
    let mut total = 0;
    for (index, count) in counts.iter().enumerate() {
        total += count;
        series(
            out,
            family,
            "_bucket",
            values,
            Some(bounds.get(index).copied().unwrap_or(f64::INFINITY)),
        );
        let _ = writeln!(out, " {total}");
    }
    series(out, family, "_sum", values, None);
    out.push(' ');
    number(out, sum);
    out.push('\n');
    series(out, family, "_count", values, None);
    let _ = writeln!(out, " {total}");
}

fn series(
    out: &mut String,
    family: &Family,
    suffix: &str,
    values: &[Box<str>],
    bound: Option<f64>,
) {
    out.push_str(family.name);
    out.push_str(suffix);
    if values.is_empty() && bound.is_none() {
        return;
    }
    let mut before = '{';
    for (label, value) in family.labels.iter().zip(values) {
        out.push(before);
        before = ',';
        out.push_str(label);
        out.push_str("=\"");
        escape(out, value, true);
        out.push('"');
    }
    if let Some(bound) = bound {
        out.push(before);
        out.push_str("le=\"");
        number(out, bound);
        out.push('"');
    }
    out.push('}');
}

fn number(out: &mut String, value: f64) {
    if value == f64::INFINITY {
        out.push_str("+Inf");
    } else if value == f64::NEG_INFINITY {
        out.push_str("-Inf");
    } else {
        let _ = write!(out, "{value}");
    }
}

/// The format knows three escapes. Other control bytes are legal in it but not for people's eyes: they become `?`.
fn escape(out: &mut String, text: &str, quoted: bool) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quoted => out.push_str("\\\""),
            other if other.is_control() => out.push('?'),
            other => out.push(other),
        }
    }
}
