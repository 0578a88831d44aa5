//! `entryway check`: validates the settings and prints every value with its source. No network access; the user's own
//! running instances are asked whether their sandbox allows what these settings of theirs need.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value as Json, json};

use super::args::OutputFormat;
use super::client::InstanceAddress;
use crate::admin::registration;
use crate::sandbox::{self, Need};
use crate::settings::{Loaded, SandboxSetting};

/// Prints the effective settings, each with where it was set.
pub fn print(loaded: &Loaded, output: OutputFormat, to: &mut dyn Write) -> io::Result<()> {
    let budget = loaded.settings.planned_budget();
    match output {
        OutputFormat::Json => {
            let document = json!({
                "schema_version": 1,
                "ok": true,
                "file": loaded.file(),
                "warnings": loaded.warnings,
                "targets": targets(loaded),
                "sandbox": sandbox(loaded),
                "limits": {
                    "open_files": budget.descriptors,
                    "max_connections": budget.max_connections,
                },
                "settings": loaded.effective(),
            });
            writeln!(to, "{document:#}")
        }
        OutputFormat::Text => {
            let lines = loaded.lines();
            let width = |pick: fn(&(String, String, String)) -> &String, most: usize| {
                lines
                    .iter()
                    .map(|line| pick(line).chars().count())
                    .max()
                    .unwrap_or(0)
                    .min(most)
            };
            let (key_width, value_width) = (width(|line| &line.0, 60), width(|line| &line.1, 40));
            for (key, value, source) in &lines {
                writeln!(to, "{key:key_width$}  {value:value_width$}  {source}")?;
            }
            print_targets(loaded, to)?;
            writeln!(to, "{}", sandbox_line(loaded))?;
            let (files, connections) = (budget.descriptors, budget.max_connections);
            writeln!(
                to,
                "{files} open files allow {connections} connections at once"
            )?;
            writeln!(to, "ok: {}", summary(loaded))
        }
    }
}

/// What running instances with this settings file would refuse, because their sandbox does not allow it.
pub async fn refused_by_sandboxes(loaded: &Loaded) -> Vec<String> {
    let mut refused = Vec::new();
    let Some(own) = loaded.file() else {
        return refused;
    };
    let own = sandbox::normal(Path::new(own)).display().to_string();
    for instance in registration::discover().await {
        let pid = instance.pid;
        let Some(status) = InstanceAddress::of(instance).status().await else {
            continue;
        };
        let sandbox = status.sandbox;
        if !sandbox.on || !sandbox.files.contains(&own) {
            continue;
        }
        for (key, need) in loaded.needs() {
            let is_allowed = match &need {
                Need::File(path) => {
                    let path = sandbox::normal(path).display().to_string();
                    sandbox.files.contains(&path)
                }
                Need::Command(words) => words
                    .first()
                    .is_some_and(|program| sandbox.programs.contains(program)),
                Need::SystemResolver => sandbox.system_resolver,
            };
            if !is_allowed {
                refused.push(format!(
                    "{key}: the sandbox of the running instance (process {pid}) does not allow {need}: a reload will be \
                     refused, `entryway upgrade` takes it in"
                ));
            }
        }
    }
    refused
}

/// What the sandbox allows with these settings.
fn sandbox(loaded: &Loaded) -> Json {
    let (mut files, mut programs, mut system_resolver) = (Vec::new(), BTreeSet::new(), false);
    for (_, need) in loaded.needs() {
        match need {
            Need::File(path) => files.push(sandbox::normal(&path)),
            Need::Command(words) => programs.extend(words.into_iter().take(1)),
            Need::SystemResolver => system_resolver = true,
        }
    }
    json!({
        "setting": loaded.settings.runtime.sandbox,
        "files": files,
        "programs": programs,
        "system_resolver": system_resolver,
    })
}

fn sandbox_line(loaded: &Loaded) -> String {
    if loaded.settings.runtime.sandbox == SandboxSetting::Off {
        return "sandbox: off".to_owned();
    }
    let allowed = sandbox(loaded);
    let count = |key: &str, what: &str| {
        let number = allowed[key].as_array().map_or(0, Vec::len);
        format!("{number} {what}{}", if number == 1 { "" } else { "s" })
    };
    format!(
        "sandbox: {} and {} of these settings are allowed",
        count("files", "file"),
        count("programs", "program")
    )
}

/// What the target of each upstream was resolved to, without any look-up; `plan` prints it as well.
pub(super) fn targets(loaded: &Loaded) -> Json {
    let upstreams = loaded.settings.upstreams.iter().zip(&loaded.targets);
    let each = upstreams.map(|(upstream, target)| {
        let endpoints = target.endpoints.iter().map(|endpoint| {
            json!({
                "name": endpoint.name,
                "host": endpoint.host,
                "port": endpoint.port,
                "zone": endpoint.zone,
            })
        });
        json!({
            "upstream": upstream.name,
            "system": target.system,
            "region": target.region,
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    });
    each.collect()
}

/// The same as text.
pub(super) fn print_targets(loaded: &Loaded, to: &mut dyn Write) -> io::Result<()> {
    for (upstream, target) in loaded.settings.upstreams.iter().zip(&loaded.targets) {
        let known = [("system", &target.system), ("region", &target.region)];
        let known: String = known
            .into_iter()
            .filter_map(|(what, value)| Some(format!(", {what} {}", value.as_deref()?)))
            .collect();
        writeln!(to, "target of upstream {}{known}:", upstream.name)?;
        for endpoint in &target.endpoints {
            let host = match endpoint.host.contains(':') {
                true => format!("[{}]", endpoint.host),
                false => endpoint.host.clone(),
            };
            let zone = endpoint.zone.as_ref().map(|zone| format!(", zone {zone}"));
            let zone = zone.unwrap_or_default();
            writeln!(
                to,
                "  {host}:{}  name {}{zone}",
                endpoint.port, endpoint.name
            )?;
        }
    }
    Ok(())
}

fn summary(loaded: &Loaded) -> String {
    let count = |number: usize, what: &str| {
        format!("{number} {what}{}", if number == 1 { "" } else { "s" })
    };
    let settings = &loaded.settings;
    let mut text = format!(
        "{}, {}",
        count(settings.listeners.len(), "listener"),
        count(settings.upstreams.len(), "upstream")
    );
    if !loaded.warnings.is_empty() {
        text.push_str(&format!(", {}", count(loaded.warnings.len(), "warning")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;
    use crate::settings;
    use crate::sys::limits::DescriptorBudget;

    fn printed(output: OutputFormat) -> String {
        let line = [
            "entryway",
            "check",
            "-e",
            "10.0.0.1:8182?zone=a",
            "--fall",
            "4",
        ];
        let matches = args::command().get_matches_from(line);
        let (_, matches) = matches.subcommand().unwrap();
        let loaded = settings::load(matches, std::iter::empty(), true).unwrap();
        let mut out = Vec::new();
        print(&loaded, output, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_has_one_line_a_key_and_a_verdict() {
        let text = printed(OutputFormat::Text);
        let squeezed: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        for line in [
            "upstream[0].endpoint[0].address 10.0.0.1:8182 flag",
            "upstream[0].endpoint[0].zone a flag",
            "upstream[0].health.fall 4 flag",
            "upstream[0].health.rise 2 default",
            "listener[0].bind 127.0.0.1:8182 [::1]:8182 default",
            "upstream[0].vpce - default",
        ] {
            assert!(squeezed.iter().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("10.0.0.1:8182  name a, zone a"), "{text}");
        let budget = DescriptorBudget::default();
        let limits = format!(
            "{} open files allow {} connections at once",
            budget.descriptors, budget.max_connections
        );
        assert!(text.contains(&limits), "{text}");
        assert_eq!(text.lines().last(), Some("ok: 1 listener, 1 upstream"));
    }

    #[test]
    fn json_has_a_version_and_sources() {
        let document: serde_json::Value =
            serde_json::from_str(&printed(OutputFormat::Json)).unwrap();
        assert_eq!(document["schema_version"], 1);
        assert_eq!(document["ok"], true);
        let fall = &document["settings"]["upstream"][0]["health"]["fall"];
        assert_eq!(*fall, serde_json::json!({"value": 4, "source": "flag"}));
        assert!(document["limits"]["max_connections"].as_u64() > Some(0));
        let target = &document["targets"][0];
        assert_eq!(target["upstream"], "default");
        let endpoint = json!({"name": "a", "host": "10.0.0.1", "port": 8182, "zone": "a"});
        assert_eq!(target["endpoints"][0], endpoint);
    }
}
