//! The report as one self-contained HTML page: tables, and charts as inline SVG. No script, no outside request.

use std::fmt::Write;

use super::Report;
use super::report::{Percentiles, Summary};

/// Size of a chart in SVG units, and the room for its labels.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 12.0;

const STYLE: &str = "
:root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--dim:#667;--line:#d5d9e0;--a:#1f6feb;--b:#c2410c;--c:#15803d}
@media(prefers-color-scheme:dark){:root{--fg:#e6e9ee;--bg:#14171c;--dim:#9aa3b2;--line:#333a45;--a:#6ea8fe;--b:#fb923c;--c:#4ade80}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:48rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:right}
th:first-child,td:first-child{text-align:left}th{color:var(--dim);font-weight:500}
svg{width:100%;height:auto}svg text{fill:var(--dim);font-size:11px}
.grid{stroke:var(--line)}.a{stroke:var(--a);fill:none;stroke-width:2}.b{stroke:var(--b);fill:none;stroke-width:2}
.ok{fill:var(--c)}.bad{fill:var(--b)}.key span{margin-right:1.2rem}.ka{color:var(--a)}.kb{color:var(--b)}.kc{color:var(--c)}
.missed{color:var(--b);font-weight:600}
";

/// The page.
pub(super) fn page(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_page(&mut out, report);
    out
}

fn write_page(out: &mut String, report: &Report) -> std::fmt::Result {
    let summary = &report.summary;
    let title = format!("{} against {}", summary.workload, summary.target);
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title><style>{STYLE}</style></head><body>\n\
         <h1>{0}</h1>\n",
        escape(&title)
    )?;
    facts(out, summary)?;
    latency(out, summary)?;
    verdicts(out, summary)?;
    writeln!(out, "<h2>Latency by percentile</h2>")?;
    percentile_chart(out, report)?;
    if !summary.timeline.is_empty() {
        writeln!(
            out,
            "<h2>Latency over time</h2>\n<p class=\"key\"><span class=\"ka\">p50</span><span class=\"kb\">p99</span></p>"
        )?;
        latency_timeline(out, summary)?;
        writeln!(
            out,
            "<h2>Requests over time</h2>\n<p class=\"key\"><span class=\"kc\">answered</span><span class=\"kb\">failed</span></p>"
        )?;
        rate_timeline(out, summary)?;
    }
    writeln!(out, "</body></html>")
}

fn facts(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let requests = &summary.requests;
    writeln!(out, "<table>")?;
    let mut row = |name: &str, value: String| {
        writeln!(out, "<tr><td>{name}</td><td>{}</td></tr>", escape(&value))
    };
    row(
        "mode",
        format!("{} loop, {:.1} s", summary.mode, summary.duration_s),
    )?;
    if let Some(offered) = summary.rate.offered {
        row("offered", format!("{offered:.1} requests/s"))?;
    }
    row(
        "achieved",
        format!("{:.1} requests/s", summary.rate.achieved),
    )?;
    row("answered", requests.ok.to_string())?;
    row("failed", requests.failed.to_string())?;
    for (cause, count) in &requests.by_error {
        row(&format!("– {}", escape(cause)), count.to_string())?;
    }
    if let Some(most) = summary.max_in_flight {
        row(
            "skipped",
            format!("{} (due with {most} in flight)", requests.skipped),
        )?;
    }
    row(
        "bytes",
        format!(
            "{} sent, {} received",
            summary.bytes.sent, summary.bytes.received
        ),
    )?;
    for warning in &summary.warnings {
        row("warning", warning.clone())?;
    }
    writeln!(out, "</table>")
}

fn latency(out: &mut String, summary: &Summary) -> std::fmt::Result {
    writeln!(
        out,
        "<h2>Latency, ms</h2>\n<table><tr><th></th><th>min</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th>\
         <th>max</th><th>mean</th></tr>"
    )?;
    let mut row = |name: &str, of: &Percentiles| {
        write!(out, "<tr><td>{name}</td>")?;
        for value in [of.min, of.p50, of.p90, of.p99, of.p999, of.max, of.mean] {
            match value {
                Some(value) => write!(out, "<td>{value:.3}</td>")?,
                None => write!(out, "<td>–</td>")?,
            }
        }
        writeln!(out, "</tr>")
    };
    if summary.mode == "open" {
        row("from the intended time", &summary.latency_ms)?;
        row("uncorrected", &summary.uncorrected_ms)?;
    } else {
        row("request to answer", &summary.latency_ms)?;
    }
    writeln!(out, "</table>")
}

fn verdicts(out: &mut String, summary: &Summary) -> std::fmt::Result {
    if let Some(versus) = &summary.versus {
        writeln!(
            out,
            "<h2>Against {}</h2>\n<p>{}. {} rounds each; 95 % intervals in ms:</p>\n<table>",
            escape(&versus.target),
            escape(&versus.verdict),
            versus.rounds
        )?;
        let deltas = &versus.delta_ms;
        for (name, delta) in [
            ("p50", deltas.p50),
            ("p99", deltas.p99),
            ("p99.9", deltas.p999),
        ] {
            if let Some([low, middle, high]) = delta {
                writeln!(
                    out,
                    "<tr><td>{name}</td><td>{middle:+.3}</td><td>{low:+.3} to {high:+.3}</td></tr>"
                )?;
            }
        }
        writeln!(out, "</table>")?;
    }
    if summary.slo.is_empty() {
        return Ok(());
    }
    writeln!(out, "<h2>Objectives</h2>\n<table>")?;
    for verdict in &summary.slo {
        let observed = verdict
            .observed
            .map_or("not observed".to_owned(), |it| format!("{it:.3}"));
        let (class, word) = if verdict.ok {
            ("", "met")
        } else {
            ("missed", "missed")
        };
        let term = escape(&verdict.term);
        writeln!(
            out,
            "<tr><td>{term}</td><td>{observed}</td><td class=\"{class}\">{word}</td></tr>"
        )?;
    }
    writeln!(out, "</table>")
}

/// Latency against the percentile, the horizontal axis in nines so that the tail is seen.
fn percentile_chart(out: &mut String, report: &Report) -> std::fmt::Result {
    if report.corrected.is_empty() {
        return writeln!(out, "<p>No request succeeded.</p>");
    }
    let nines = (report.corrected.len() as f64).log10().clamp(1.0, 6.0);
    let points: Vec<(f64, f64)> = (0..=120)
        .map(|step| {
            let x = nines * f64::from(step) / 120.0;
            let quantile = 1.0 - 10f64.powf(-x);
            (x, report.corrected.value_at_quantile(quantile) as f64 / 1e6)
        })
        .collect();
    let top = nice(points.iter().map(|(_, y)| *y).fold(0.0, f64::max));
    open(out, "latency by percentile")?;
    y_axis(out, top, "ms")?;
    let labels = [
        (0.0, "0"),
        (1.0, "90 %"),
        (2.0, "99 %"),
        (3.0, "99.9 %"),
        (4.0, "99.99 %"),
        (5.0, "99.999 %"),
        (6.0, "99.9999 %"),
    ];
    for (at, label) in labels.into_iter().filter(|(at, _)| *at <= nines) {
        x_label(out, at / nines, label)?;
    }
    let points = points.into_iter().map(|(x, y)| (x / nines, y / top));
    line(out, "a", points)?;
    writeln!(out, "</svg>")
}

fn latency_timeline(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let seconds = &summary.timeline;
    let top = nice(
        seconds
            .iter()
            .filter_map(|second| second.p99_ms)
            .fold(0.0, f64::max),
    );
    open(out, "latency over time")?;
    y_axis(out, top, "ms")?;
    time_axis(out, summary)?;
    let length = span(summary);
    for (class, of) in [("a", 0), ("b", 1)] {
        let points = seconds.iter().filter_map(|second| {
            let value = if of == 0 {
                second.p50_ms
            } else {
                second.p99_ms
            };
            value.map(|value| ((second.t_s as f64 - 0.5) / length, value / top))
        });
        line(out, class, points)?;
    }
    writeln!(out, "</svg>")
}

fn rate_timeline(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let seconds = &summary.timeline;
    let top = nice(
        seconds
            .iter()
            .map(|second| (second.ok + second.failed) as f64)
            .fold(0.0, f64::max),
    );
    open(out, "requests over time")?;
    y_axis(out, top, "requests/s")?;
    time_axis(out, summary)?;
    let length = span(summary);
    let width = (WIDTH - LEFT) / length;
    for second in seconds {
        let x = LEFT + (second.t_s as f64 - 1.0) * width;
        let mut below = 0.0;
        for (class, count) in [("ok", second.ok), ("bad", second.failed)] {
            let height = count as f64 / top * (HEIGHT - TOP - BOTTOM);
            if height > 0.0 {
                let y = HEIGHT - BOTTOM - below - height;
                let width = (width * 0.9).max(0.5);
                writeln!(
                    out,
                    "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
                )?;
            }
            below += height;
        }
    }
    writeln!(out, "</svg>")
}

fn span(summary: &Summary) -> f64 {
    summary
        .timeline
        .last()
        .map_or(1.0, |second| second.t_s as f64)
}

fn open(out: &mut String, label: &str) -> std::fmt::Result {
    writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">"
    )
}

fn y_axis(out: &mut String, top: f64, unit: &str) -> std::fmt::Result {
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let y = HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
        writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{WIDTH}\" y2=\"{y:.1}\"/>"
        )?;
        let value = number(top * share);
        writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            LEFT - 6.0,
            y + 4.0
        )?;
    }
    writeln!(out, "<text x=\"0\" y=\"{:.1}\">{unit}</text>", HEIGHT - 6.0)
}

fn time_axis(out: &mut String, summary: &Summary) -> std::fmt::Result {
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        x_label(out, share, &format!("{} s", number(span(summary) * share)))?;
    }
    Ok(())
}

fn x_label(out: &mut String, share: f64, label: &str) -> std::fmt::Result {
    let x = LEFT + share * (WIDTH - LEFT);
    let anchor = if share > 0.95 {
        "end"
    } else if share < 0.05 {
        "start"
    } else {
        "middle"
    };
    writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{label}</text>",
        HEIGHT - BOTTOM + 18.0
    )
}

fn line(
    out: &mut String,
    class: &str,
    points: impl Iterator<Item = (f64, f64)>,
) -> std::fmt::Result {
    write!(out, "<polyline class=\"{class}\" points=\"")?;
    for (x, y) in points {
        let x = LEFT + x * (WIDTH - LEFT);
        let y = HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM);
        write!(out, "{x:.1},{y:.1} ")?;
    }
    writeln!(out, "\"/>")
}

/// The next round number at or above `value`, for the top of an axis.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let unit = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0, 10.0]
        .into_iter()
        .map(|step| step * unit)
        .find(|top| *top >= value)
        .unwrap_or(value)
}

fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

/// For text and attributes of XML and HTML.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no way to write most of them.
            character if character.is_control() => out.push(' '),
            _ => out.push(character),
        }
    }
    out
}
