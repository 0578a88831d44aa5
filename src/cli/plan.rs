//! `entryway plan`: detection and failover times of the settings. Arithmetic only, no network access.

use std::io::Write;

use serde_json::json;

use super::args::OutputFormat;
use super::check;
use super::error::CliError;
use super::status::print_json;
use crate::settings::{Loaded, UpstreamSettings};
use crate::upstream::endpoint::Role;
use crate::upstream::plan::{Inputs, Predictions, predict};

/// Prints the predictions for every upstream; JSON is one object for one upstream, and a list under `upstreams` for several.
pub fn print(loaded: &Loaded, output: OutputFormat, to: &mut dyn Write) -> Result<u8, CliError> {
    let max_drain = loaded.settings.shutdown.max_delay;
    let planned: Vec<(&UpstreamSettings, Predictions)> = loaded
        .settings
        .upstreams
        .iter()
        .zip(&loaded.targets)
        .map(|(upstream, target)| {
            // A derived name is counted when it answers; a VPC endpoint has up to three zones.
            let certain = target
                .endpoints
                .iter()
                .filter(|spec| spec.role == Role::Configured)
                .count();
            let endpoints = if certain > 0 { certain } else { 3 };
            (upstream, predict(&inputs(upstream, max_drain, endpoints)))
        })
        .collect();
    if output == OutputFormat::Json {
        let one = |(upstream, predictions): &(&UpstreamSettings, Predictions)| {
            let mut value = json!(predictions);
            value["schema_version"] = json!(1);
            value["upstream"] = json!(upstream.name);
            value
        };
        let mut value = match &planned[..] {
            [only] => one(only),
            several => {
                json!({"schema_version": 1, "upstreams": several.iter().map(one).collect::<Vec<_>>()})
            }
        };
        value["targets"] = check::targets(loaded);
        print_json(to, &value)?;
        return Ok(0);
    }
    check::print_targets(loaded, to)?;
    for (upstream, predictions) in &planned {
        if planned.len() > 1 {
            writeln!(to, "{}:", upstream.name)?;
        }
        rows(predictions, to)?;
    }
    Ok(0)
}

fn inputs(
    upstream: &UpstreamSettings,
    max_drain: std::time::Duration,
    endpoints: usize,
) -> Inputs<'_> {
    Inputs {
        health: &upstream.health,
        failback: &upstream.failback,
        connect_timeout: upstream.connect_timeout,
        hedge_after: upstream.hedge_after.cap(),
        keepalive: upstream.tcp.keepalive,
        keepalive_interval: upstream.tcp.keepalive_interval,
        keepalive_probes: upstream.tcp.keepalive_probes,
        user_timeout: upstream.tcp.user_timeout,
        max_drain,
        endpoints,
    }
}

fn rows(plan: &Predictions, to: &mut dyn Write) -> std::io::Result<()> {
    let time = |seconds: Option<f64>| match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 1.0 => format!("{:.0} ms", seconds * 1000.0),
        Some(seconds) => format!("{seconds:.1} s"),
    };
    let detection = &plan.detection_s;
    let added = &plan.added_latency_s;
    writeln!(
        to,
        "detection            refused {}, silent under traffic {}, silent at rest {}, answers errors {}",
        time(detection.refused),
        time(detection.silent_under_traffic),
        time(detection.silent_at_rest),
        time(detection.answers_error)
    )?;
    writeln!(
        to,
        "open connections     reset {} after their address fell silent; closed at rest where it answers errors",
        time(detection.open_connections_silent)
    )?;
    writeln!(
        to,
        "path                 second attempt after {} at most, a silent answer counts from {} on; both at least 3 round trips",
        time(plan.stagger_cap_s),
        time(plan.silence_floor_s)
    )?;
    writeln!(
        to,
        "worst added latency  refused {}, silent: first {}, later {}",
        time(added.refused),
        time(added.silent_first),
        time(added.silent_later)
    )?;
    writeln!(to, "failback             {}", time(plan.failback_s))?;
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.2}/s"));
    writeln!(
        to,
        "probe rate           {}, at most {}",
        rate(plan.probes_per_s),
        rate(plan.probes_per_s_cap)
    )?;
    for warning in &plan.warnings {
        writeln!(to, "warning              {warning}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;
    use crate::settings;

    /// What the flags lead to, a client map included, is printed with the times that hold for it.
    #[test]
    fn the_resolved_targets_come_first() {
        let folder = tempfile::tempdir().unwrap();
        let map = folder.path().join("client.edn");
        std::fs::write(&map, r#"{:system "prod" :region "us-east-1"}"#).unwrap();
        let map = format!("--from-client={}", map.display());
        let printed = |target: &str, output| {
            let matches = args::command().get_matches_from(["entryway", "plan", target]);
            let (_, matches) = matches.subcommand().unwrap();
            let loaded = settings::load(matches, std::iter::empty(), true).unwrap();
            let mut out = Vec::new();
            print(&loaded, output, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        for (target, host) in [
            ("-e=10.0.0.1:8182?zone=a&name=one", "10.0.0.1"),
            (&map, "entry.prod.us-east-1.datomic.net"),
        ] {
            let text = printed(target, OutputFormat::Text);
            let (targets, times) = text.split_once("detection").unwrap();
            assert!(targets.contains("upstream default"), "{text}");
            assert!(targets.contains(host), "{text}");
            assert!(times.contains("failback"), "{text}");
            let json: serde_json::Value =
                serde_json::from_str(&printed(target, OutputFormat::Json)).unwrap();
            let endpoints = json["targets"][0]["endpoints"].as_array().unwrap();
            assert!(endpoints.iter().any(|one| one["host"] == host), "{json}");
            assert!(json["detection_s"]["refused"].is_number(), "{json}");
        }
    }
}
