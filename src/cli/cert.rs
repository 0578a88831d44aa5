//! `entryway cert`: a small certificate authority for gateways and their clients.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::ArgMatches;
use serde_json::json;

use super::args::{OUTPUT, OutputFormat};
use super::error::{CliError, code};
use crate::cert::{self, CertificateFolder, Description, Error};

pub(super) fn run(matches: &ArgMatches, to: &mut dyn Write) -> Result<u8, CliError> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Ok(2);
    };
    let path = |id: &str| matches.get_one::<PathBuf>(id).cloned();
    let texts =
        |id: &str| -> Vec<String> { matches.get_many(id).unwrap_or_default().cloned().collect() };
    let days = || matches.get_one::<u32>("days").copied().unwrap_or(1);
    let first = |id: &str| texts(id).into_iter().next().unwrap_or_default();
    let authority = match verb {
        "ca" | "show" => PathBuf::new(),
        _ => path("ca").unwrap_or_default(),
    };
    let target = || CertificateFolder {
        folder: path("out").unwrap_or_else(|| authority.clone()),
        force: matches.get_flag("force"),
    };
    let written = match verb {
        "ca" => cert::create_authority(&target(), &first("name"), days()),
        "server" => cert::issue_server(&authority, &target(), &texts("dns"), days()),
        "client" => cert::issue_client(&authority, &target(), &first("identity"), days()),
        "crl" => {
            cert::revoke(&authority, &path("revoke").unwrap_or_default()).map(|list| vec![list])
        }
        _ => {
            let described = cert::describe(&path("file").unwrap_or_default()).map_err(explain)?;
            let format = matches
                .get_one::<OutputFormat>(OUTPUT)
                .copied()
                .unwrap_or_default();
            show(&described, format, to)?;
            return Ok(0);
        }
    };
    for path in written.map_err(explain)? {
        writeln!(to, "{}", path.display())?;
    }
    Ok(0)
}

fn show(described: &[Description], format: OutputFormat, to: &mut dyn Write) -> io::Result<()> {
    if format == OutputFormat::Json {
        let document = json!({"schema_version": 1, "certificates": described});
        return writeln!(to, "{document:#}");
    }
    for one in described {
        let list = |items: &[String]| match items.is_empty() {
            true => "-".to_owned(),
            false => items.join(", "),
        };
        let usages: Vec<String> = one.usages.iter().map(|usage| (*usage).to_owned()).collect();
        let until = match one.valid_now {
            true => one.not_after.to_string(),
            false => format!("{} (NOT VALID NOW)", one.not_after),
        };
        for (label, value) in [
            ("subject", one.subject.clone()),
            (
                "identity",
                one.identity.clone().unwrap_or_else(|| "-".to_owned()),
            ),
            ("names", list(&one.names)),
            ("usages", list(&usages)),
            ("authority", one.authority.to_string()),
            ("issuer", one.issuer.clone()),
            ("serial", one.serial.clone()),
            ("from", one.not_before.to_string()),
            ("until", until),
        ] {
            let value: String = value
                .chars()
                .map(|c| if c.is_control() { '\u{fffd}' } else { c })
                .collect();
            writeln!(to, "{label:<10} {value}")?;
        }
    }
    Ok(())
}

fn explain(error: Error) -> CliError {
    let code = match &error {
        Error::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
            code::PERMISSION
        }
        Error::Io { .. } => code::OS,
        _ => code::SETTING,
    };
    CliError::new(code, error.to_string())
}
