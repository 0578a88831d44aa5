//! The report as one self-contained HTML page: the numbers, and a timeline as inline SVG. No script, no outside request.

use std::fmt::Write;

use super::report::{DrillSummary, time};
use crate::load::escape;

/// Size of the chart in SVG units, and the room around the plot.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 52.0;

/// The smallest latency that the chart tells apart, in milliseconds: its vertical axis is logarithmic.
const LEAST_MS: f64 = 0.1;

const STYLE: &str = "
:root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--dim:#667;--line:#d5d9e0;--a:#1f6feb;--b:#c2410c;--c:#15803d;--f:#fde8e0}
@media(prefers-color-scheme:dark){:root{--fg:#e6e9ee;--bg:#14171c;--dim:#9aa3b2;--line:#333a45;--a:#6ea8fe;--b:#fb923c;--c:#4ade80;--f:#3a241c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:56rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:left}
td.n,th.n{text-align:right;white-space:nowrap}th{color:var(--dim);font-weight:500}
svg{width:100%;height:auto}svg text{fill:var(--dim);font-size:11px}svg text.mark{fill:var(--fg)}
.grid{stroke:var(--line)}.fault{fill:var(--f)}.a{stroke:var(--a);fill:none;stroke-width:1.5}
.max{stroke:var(--a);fill:none;stroke-width:1;opacity:.45}.bad{fill:var(--b)}.mark{stroke:var(--c)}text.mark{stroke:none}
.key span{margin-right:1.2rem}.ka{color:var(--a)}.kb{color:var(--b)}.kc{color:var(--c)}
.PASS{color:var(--c);font-weight:600}.FAIL{color:var(--b);font-weight:600}.dim{color:var(--dim)}
";

/// The page.
pub(super) fn page(summary: &DrillSummary) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_page(&mut out, summary);
    out
}

fn write_page(out: &mut String, summary: &DrillSummary) -> std::fmt::Result {
    let title = escape(&format!("Drill: {}", summary.title()));
    let interrupted = match summary.interrupted {
        true => " It was interrupted.",
        false => "",
    };
    writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head><body>\n\
         <h1>{title} <span class=\"{0}\">{0}</span></h1>\n\
         <p class=\"dim\">The fault stood for {1} s; {2} requests a second were sent.{interrupted}</p>",
        summary.verdict,
        (summary.for_s * 10.0).round() / 10.0,
        summary.rate
    )?;
    numbers(out, summary)?;
    if let Some(why) = summary.not_compared {
        writeln!(out, "<p class=\"dim\">{}</p>", escape(why))?;
    }
    if !summary.asserts.is_empty() {
        writeln!(
            out,
            "<h2>Assertions</h2>\n<table><tr><th>assertion</th><th class=\"n\">observed</th><th></th></tr>"
        )?;
        for verdict in &summary.asserts {
            let (class, word) = match verdict.ok {
                true => ("PASS", "holds"),
                false => ("FAIL", "missed"),
            };
            let observed = verdict
                .observed
                .map_or("not observed".to_owned(), |value| value.to_string());
            writeln!(
                out,
                "<tr><td>{}</td><td class=\"n\">{observed}</td><td class=\"{class}\">{word}</td></tr>",
                escape(&verdict.term)
            )?;
        }
        writeln!(out, "</table>")?;
    }
    if !summary.timeline.is_empty() {
        writeln!(
            out,
            "<h2>Timeline</h2>\n<p class=\"key\"><span class=\"ka\">latency: median, and the longest (pale)</span>\
             <span class=\"kb\">■ failed requests</span><span class=\"kc\">│ what happened</span>\
             <span class=\"dim\">shaded: the fault</span></p>"
        )?;
        chart(out, summary)?;
    }
    writeln!(out, "</body></html>")
}

fn numbers(out: &mut String, summary: &DrillSummary) -> std::fmt::Result {
    let other = summary.compare.as_ref();
    writeln!(out, "<table>")?;
    if let Some(other) = other {
        writeln!(
            out,
            "<tr><th></th><th class=\"n\">entryway</th><th class=\"n\">{}</th><th></th></tr>",
            escape(&other.program)
        )?;
    }
    let theirs = other.map(|other| other.summary.rows()).unwrap_or_default();
    for (index, (name, value, meaning)) in summary.rows().into_iter().enumerate() {
        write!(out, "<tr><td>{name}</td><td class=\"n\">{value}</td>")?;
        let their = theirs.get(index);
        if let Some((_, value, _)) = their {
            write!(out, "<td class=\"n\">{value}</td>")?;
        }
        write!(out, "<td class=\"dim\">{}", escape(&meaning))?;
        if let (Some((_, _, said)), Some(other)) = (their, other)
            && *said != meaning
        {
            write!(out, "<br>{}: {}", escape(&other.program), escape(said))?;
        }
        writeln!(out, "</td></tr>")?;
    }
    writeln!(out, "</table>")
}

/// The scales of one chart.
struct Scale {
    from: f64,
    to: f64,
    /// Exponents of ten of the vertical axis.
    low: f64,
    high: f64,
}

// === impl Scale ===

impl Scale {
    fn of(summary: &DrillSummary) -> Self {
        let slices = &summary.timeline;
        let step = match slices.as_slice() {
            [first, second, ..] => second.t_s - first.t_s,
            _ => 0.1,
        };
        let longest = slices
            .iter()
            .filter_map(|slice| slice.max_ms)
            .fold(1.0, f64::max);
        Self {
            from: slices.first().map_or(0.0, |slice| slice.t_s),
            to: slices.last().map_or(1.0, |slice| slice.t_s + step),
            low: LEAST_MS.log10(),
            high: longest.log10().ceil().max(1.0),
        }
    }

    fn x(&self, seconds: f64) -> f64 {
        let share = (seconds - self.from) / (self.to - self.from).max(0.1);
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, ms: f64) -> f64 {
        let share = (ms.max(LEAST_MS).log10() - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }
}

fn chart(out: &mut String, summary: &DrillSummary) -> std::fmt::Result {
    let scale = Scale::of(summary);
    let floor = HEIGHT - BOTTOM;
    writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"latency and failures over time\">"
    )?;
    let (from, to) = (scale.x(0.0), scale.x(summary.for_s));
    writeln!(
        out,
        "<rect class=\"fault\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
        to - from,
        floor - TOP
    )?;
    axes(out, &scale)?;
    for (class, of) in [("max", 1), ("a", 0)] {
        write!(out, "<polyline class=\"{class}\" points=\"")?;
        for slice in &summary.timeline {
            let value = if of == 0 { slice.p50_ms } else { slice.max_ms };
            if let Some(ms) = value {
                write!(out, "{:.1},{:.1} ", scale.x(slice.t_s), scale.y(ms))?;
            }
        }
        writeln!(out, "\"/>")?;
    }
    failures(out, summary, &scale)?;
    marks(out, summary, &scale)?;
    writeln!(out, "</svg>")
}

fn axes(out: &mut String, scale: &Scale) -> std::fmt::Result {
    let floor = HEIGHT - BOTTOM;
    for exponent in scale.low as i32..=scale.high as i32 {
        let ms = 10f64.powi(exponent);
        let y = scale.y(ms);
        let label = match ms {
            ms if ms >= 1000.0 => format!("{} s", ms / 1000.0),
            ms => format!("{ms} ms"),
        };
        writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0
        )?;
    }
    let span = scale.to - scale.from;
    let step = [
        1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0,
    ]
    .into_iter()
    .find(|step| span / step <= 12.0)
    .unwrap_or(86_400.0);
    let mut at = (scale.from / step).ceil() * step;
    while at <= scale.to {
        writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at} s</text>",
            scale.x(at),
            floor + 34.0
        )?;
        at += step;
    }
    Ok(())
}

/// A bar below the plot for each piece of time in which requests failed; the more, the higher.
fn failures(out: &mut String, summary: &DrillSummary, scale: &Scale) -> std::fmt::Result {
    let floor = HEIGHT - BOTTOM;
    let slices = &summary.timeline;
    let width = (scale.x(scale.to) - scale.x(scale.from)) / slices.len() as f64;
    for slice in slices.iter().filter(|slice| slice.failed > 0) {
        let share = slice.failed as f64 / (slice.ok + slice.failed) as f64;
        let height = 3.0 + 15.0 * share;
        writeln!(
            out,
            "<rect class=\"bad\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
            scale.x(slice.t_s),
            floor + 2.0,
            width.max(2.0)
        )?;
    }
    Ok(())
}

fn marks(out: &mut String, summary: &DrillSummary, scale: &Scale) -> std::fmt::Result {
    let after = |ms: Option<f64>| ms.map(|ms| ms / 1000.0);
    let failback = after(summary.failback_ms).map(|seconds| seconds + summary.for_s);
    let marks = [
        ("failover", after(summary.failover_ms), summary.failover_ms),
        (
            "detection",
            after(summary.detection_ms),
            summary.detection_ms,
        ),
        ("failback", failback, summary.failback_ms),
    ];
    for (index, (name, at, ms)) in marks.into_iter().enumerate() {
        let Some(at) = at else { continue };
        let (x, y) = (scale.x(at), 12.0 + 14.0 * index as f64);
        let (anchor, x_text) = match x > WIDTH - 160.0 {
            true => ("end", x - 5.0),
            false => ("start", x + 5.0),
        };
        writeln!(
            out,
            "<line class=\"mark\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>\
             <text class=\"mark\" x=\"{x_text:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{name} {}</text>",
            y - 10.0,
            HEIGHT - BOTTOM,
            time(ms)
        )?;
    }
    Ok(())
}
