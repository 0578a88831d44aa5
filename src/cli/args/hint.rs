//! Suggestions for command lines that are not understood: what was probably meant, and what to type instead.

use std::path::Path;

use clap::Command;

use crate::addr::parse_endpoint;

/// The subcommands that a build may lack, and the Cargo features they need.
pub(super) const OPTIONAL: [(&str, &str); 5] = [
    ("top", "top"),
    ("gateway", "gateway"),
    ("cert", "gateway"),
    ("load", "load"),
    ("drill", "faults, load"),
];

/// For an argument that no subcommand takes.
pub(super) fn unknown_argument(argument: &str) -> Option<String> {
    let flag = argument.split(['=', ' ']).next().unwrap_or(argument);
    let hint = match flag {
        "--socks" | "--socks5" | "--proxy" | "--proxy-port" | "--proxy-host" => proxy().to_owned(),
        "-v" | "--verbose" | "--debug" => "for more log lines: --log-level debug".to_owned(),
        "-q" | "--silent" => {
            "for fewer log lines: --quiet conns,probes, or --log-level warn".to_owned()
        }
        "-p" | "--port" => "to listen on another port: --listen 127.0.0.1:PORT".to_owned(),
        "-h" => return None,
        _ if flag.starts_with('-') && flag[1..].starts_with(|c: char| c.is_ascii_digit()) => {
            "durations and numbers cannot be negative".to_owned()
        }
        _ if flag.starts_with('-') => return None,
        _ if is_file(argument) => format!("a settings file is given with -c: -c {argument}"),
        _ if parse_endpoint(argument).is_ok() => {
            format!("an endpoint is given with --endpoint: --endpoint {argument}")
        }
        _ => return None,
    };
    Some(hint)
}

/// Whether some builds have this subcommand and others lack it.
pub(super) fn is_optional(word: &str) -> bool {
    OPTIONAL.iter().any(|(name, _)| *name == word)
}

/// How to reach Datomic through another host, in this version.
fn proxy() -> &'static str {
    let has_via = crate::settings::flags::FLAGS
        .iter()
        .any(|flag| flag.long == "via");
    if has_via {
        "to reach Datomic through a SOCKS or HTTP proxy: --via socks5://HOST:PORT or --via http://HOST:PORT"
    } else {
        "SOCKS proxies are not supported; forward a port with `ssh -L 18182:ENTRY:8182 HOST` and give \
         --endpoint 127.0.0.1:18182"
    }
}

fn is_file(argument: &str) -> bool {
    let path = Path::new(argument);
    path.extension()
        .is_some_and(|extension| extension == "toml")
        || path.is_file()
}

/// For a subcommand that clap finds nothing similar to: one that this build lacks; two letters swapped, missing or added.
pub(super) fn subcommand(word: &str, command: &Command) -> Option<String> {
    // clap knows it where it is there.
    if let Some((_, features)) = OPTIONAL.iter().find(|(name, _)| *name == word) {
        return Some(format!(
            "this program was built without it (Cargo features: {features}); `cargo build --release` makes one with everything"
        ));
    }
    let names = command.get_subcommands().map(Command::get_name);
    let (distance, close) = names
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .min()?;
    (distance <= 2 && word.len() > 2).then(|| format!("did you mean `{close}`?"))
}
