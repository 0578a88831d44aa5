//! `entryway init`: a short commented settings file, from where it runs, which release the system has and which way
//! leads to it. Everything that is not in it has its default.

use std::fmt::Write as _;
use std::io::Write;

use clap::ArgMatches;
use clap::builder::PossibleValuesParser;
use clap::{Arg, Command};

use super::error::{CliError, code};
use crate::addr::datomic_releases::{FIRST_WITH_ALB, FIRST_WITH_NLB};
use crate::settings::{Loaded, UpstreamSettings};

pub const WHERE: &[&str] = &["ecs", "k8s", "ec2", "laptop"];
pub const WAYS: &[&str] = &["vpce", "peering", "nlb"];

/// The arguments beside the target flags.
pub fn args(command: Command) -> Command {
    command
        .arg(
            Arg::new("where")
                .long("where")
                .value_name("ecs|k8s|ec2|laptop")
                .value_parser(PossibleValuesParser::new(WHERE))
                .hide_possible_values(true)
                .help("Where it will run [default: ec2]"),
        )
        .arg(
            Arg::new("release")
                .long("release")
                .value_name("N")
                .value_parser(release)
                .help("Release of the Datomic Cloud compute stack, such as 884 or 781-9041"),
        )
        .arg(
            Arg::new("way")
                .long("way")
                .value_name("vpce|peering|nlb")
                .value_parser(PossibleValuesParser::new(WAYS))
                .hide_possible_values(true)
                .help("The way to the system, where no target flag gives it [default: peering]"),
        )
}

/// `884` or `884-9095`.
fn release(text: &str) -> Result<u32, String> {
    let first = text.split('-').next().unwrap_or_default();
    first
        .parse()
        .map_err(|_| "a release is expected, such as 884 or 884-9095".to_owned())
}

/// Prints the file. `loaded` needs no target.
pub fn print(matches: &ArgMatches, loaded: &Loaded, to: &mut dyn Write) -> Result<u8, CliError> {
    let text = |name| matches.get_one::<String>(name).map(String::as_str);
    let upstream = loaded.settings.upstreams.first();
    let place = text("where").unwrap_or("ec2");
    let release = matches.get_one::<u32>("release").copied();
    let given = upstream.and_then(|upstream| upstream.target().keys().first().copied());
    if let (Some(given @ ("vpce" | "peering" | "nlb")), Some(way)) = (given, text("way"))
        && given != way
    {
        return Err(CliError::new(
            code::SETTING,
            format!("--way {way} and --{given} are two ways to one system"),
        )
        .next(format!(
            "entryway init --way {way}, or --{given} without --way"
        )));
    }
    let way = given.or(text("way")).unwrap_or("peering");
    let mut file = String::from(
        "# entryway settings, made by `entryway init`. Check it: entryway check -c FILE; use it: entryway run -c FILE\n\
         # Every key with its default: config/reference.toml or `entryway guide reference settings`.\n",
    );
    let profile = if place == "laptop" {
        "profile = \"laptop\"\n\n"
    } else {
        "\n"
    };
    file.push_str(profile);
    file.push_str("[[upstream]]\n");
    if let Some(note) = release.and_then(|release| release_note(release, way)) {
        let _ = writeln!(file, "# {note}");
    }
    target(&mut file, way, upstream);
    file.push_str(&location(place));
    to.write_all(file.as_bytes())?;
    Ok(0)
}

/// What a release means for the way to it.
fn release_note(release: u32, way: &str) -> Option<String> {
    let span = match release {
        _ if release < FIRST_WITH_NLB => {
            "an application load balancer; VPC peering with entry.SYSTEM.REGION"
        }
        _ if release < FIRST_WITH_ALB => {
            "Datomic's own NLB; a VPC endpoint onto it, or VPC peering"
        }
        _ => "an application load balancer; VPC peering, or a VPC endpoint onto an NLB of your own",
    };
    let fits = match way {
        "vpce" => release >= FIRST_WITH_NLB,
        "nlb" => release >= FIRST_WITH_ALB,
        _ => true,
    };
    let warning = if fits {
        ""
    } else {
        " THIS WAY DOES NOT EXIST THERE."
    };
    Some(format!("Release {release}: {span}.{warning}"))
}

/// The keys of the target: as given, or a sample to fill in.
fn target(file: &mut String, way: &str, upstream: Option<&UpstreamSettings>) {
    let key = |file: &mut String, name: &str, given: Option<&str>, sample: &str| {
        let written = toml::Value::String(given.unwrap_or(sample).to_owned());
        let hint = if given.is_some() { "" } else { "  # put yours" };
        let _ = writeln!(file, "{name} = {written}{hint}");
    };
    let of = |pick: fn(&UpstreamSettings) -> Option<&str>| upstream.and_then(pick);
    let (system, region) = (of(|u| u.system.as_deref()), of(|u| u.region.as_deref()));
    match way {
        "vpce" => {
            let sample = "vpce-0123456789abcdef0-abcd1234.vpce-svc-0123456789abcdef0.us-east-1.vpce.amazonaws.com";
            file.push_str("# The endpoint's regional name; the zones follow from it.\n");
            key(file, "vpce", of(|u| u.vpce.as_deref()), sample);
        }
        "nlb" => {
            let sample = "my-nlb-0123456789abcdef.elb.us-east-1.amazonaws.com";
            file.push_str("# Your network load balancer in front of Datomic's; the zones follow from its name.\n");
            key(file, "nlb", of(|u| u.nlb.as_deref()), sample);
        }
        "from_client" => {
            file.push_str("# The application's client map says where the system is.\n");
            key(
                file,
                "from_client",
                of(|u| u.from_client.as_deref()),
                "config.edn",
            );
        }
        "endpoint" => {
            let endpoints = upstream
                .map(|upstream| &upstream.endpoints[..])
                .unwrap_or_default();
            file.push_str("endpoint = [\n");
            for endpoint in endpoints.iter().take(8) {
                let mut text = endpoint.address.clone();
                let options = [
                    ("zone", endpoint.zone.as_ref().map(|zone| zone.as_str())),
                    ("name", endpoint.name.as_ref().map(|name| name.as_str())),
                ];
                for (name, value) in options {
                    if let Some(value) = value {
                        let sign = if text.contains('?') { '&' } else { '?' };
                        let _ = write!(text, "{sign}{name}={value}");
                    }
                }
                let _ = writeln!(file, "  {},", toml::Value::String(text));
            }
            file.push_str("]\n");
        }
        _ => {
            file.push_str("# entry-http.SYSTEM.REGION.datomic.net, or entry.… of releases before 884.\npeering = true\n");
            key(file, "system", system, "SYSTEM");
            key(file, "region", region, "us-east-1");
            if let Some(group) = of(|u| u.query_group.as_deref()) {
                key(file, "query_group", Some(group), "");
            }
            return;
        }
    }
    for (name, given) in [("system", system), ("region", region)] {
        if given.is_some() {
            key(file, name, given, "");
        }
    }
}

/// What the place it runs in asks for.
fn location(place: &str) -> String {
    match place {
        "ecs" => "# The own zone comes from the task's metadata (Fargate platform 1.4.0 or later).\nzone = \"auto\"\n\n\
                  [shutdown]\n# Less than the task's stopTimeout.\nmax_delay = \"25s\"\n"
            .to_owned(),
        "k8s" => "# The own zone comes from ENTRYWAY_ZONE, which `entryway snippet k8s` sets from the pod's label.\n\
                  zone = \"auto\"\n\n[admin]\n# For Prometheus and the kubelet; health and metrics only.\n\
                  metrics_bind = \"0.0.0.0:9182\"\n\n[shutdown]\n\
                  # Less than the pod's terminationGracePeriodSeconds.\nmax_delay = \"25s\"\n"
            .to_owned(),
        "laptop" => "# There is no own zone here; the nearest address is used.\nzone = \"none\"\n".to_owned(),
        _ => "# The own zone comes from the instance's metadata; in a container that needs a hop limit of 2.\n\
              zone = \"auto\"\n"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::args;
    use crate::settings;

    fn printed(line: &[&str]) -> Result<String, CliError> {
        let matches = args::command().get_matches_from([&["entryway", "init"], line].concat());
        let (_, matches) = matches.subcommand().unwrap();
        let env = std::iter::empty::<(OsString, OsString)>();
        let loaded = settings::load(matches, env, false).unwrap();
        let mut out = Vec::new();
        print(matches, &loaded, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn check(text: &str) -> Loaded {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entryway.toml");
        std::fs::write(&path, text).unwrap();
        let line = ["entryway", "check", "-c", path.to_str().unwrap()];
        let matches = args::command().get_matches_from(line);
        let (_, matches) = matches.subcommand().unwrap();
        let env = std::iter::empty::<(OsString, OsString)>();
        settings::load(matches, env, true).unwrap_or_else(|report| panic!("{text}\n{report}"))
    }

    /// Every answer to every question gives a short file that our own check accepts and that leads where it was asked to.
    #[test]
    fn every_combination_is_short_and_accepted() {
        let vpce = "vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com";
        let targets: [&[&str]; 7] = [
            &[],
            &["--way=vpce"],
            &["--way=nlb"],
            &["--vpce", vpce],
            &[
                "--nlb=my-nlb-0123.elb.us-east-1.amazonaws.com",
                "--system=prod",
            ],
            &[
                "--peering",
                "--system=prod",
                "--region=us-east-1",
                "--query-group=reports",
            ],
            &[
                "--endpoint=10.0.0.1:8182?zone=a&name=x",
                "--endpoint=10.0.0.2:8182",
            ],
        ];
        for place in WHERE {
            for release in [None, Some("300"), Some("781-9041"), Some("1217")] {
                for target in targets {
                    let mut line = vec!["--where", place];
                    line.extend(release.iter().flat_map(|release| ["--release", release]));
                    line.extend(target);
                    let text = printed(&line).unwrap();
                    assert!(text.lines().count() <= 25, "{text}");
                    let loaded = check(&text);
                    assert!(loaded.warnings.is_empty(), "{text}\n{:?}", loaded.warnings);
                    if target.contains(&"--peering") {
                        let host = &loaded.targets[0].endpoints[0].host;
                        assert_eq!(host, "entry-http.reports.us-east-1.datomic.net");
                    }
                }
            }
        }
    }

    #[test]
    fn two_ways_and_a_way_that_does_not_exist_are_said() {
        let error = printed(&["--way=nlb", "--peering", "--system=s", "--region=us-east-1"]);
        assert_eq!(error.unwrap_err().code, code::SETTING);
        let text = printed(&["--way=vpce", "--release=300"]).unwrap();
        assert!(text.contains("DOES NOT EXIST"), "{text}");
    }
}
