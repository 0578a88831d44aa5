//! The command line of `entryway cert`.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};

use super::shared::output;
use super::types::name;

pub(super) fn command() -> Command {
    let ca = || {
        file(
            "ca",
            "DIR",
            "Folder of the authority, as created by `cert ca`",
        )
        .required(true)
    };
    let out = || {
        file(
            "out",
            "DIR",
            "Folder for the new files [default: the authority's]",
        )
    };
    let days = |default: &'static str| {
        Arg::new("days")
            .long("days")
            .value_name("N")
            .default_value(default)
            .value_parser(RangedU64ValueParser::<u32>::new().range(1..=3650))
            .help("Days until it expires")
    };
    let force = || {
        Arg::new("force")
            .long("force")
            .action(ArgAction::SetTrue)
            .help("Replace existing files")
    };
    Command::new(name::CERT)
        .about("Issue, show and revoke certificates for `entryway gateway` and its clients")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("ca")
                .about("Create an authority: ca.pem, ca.key, ca.crl")
                .arg(file("out", "DIR", "Folder for the new files").required(true))
                .arg(text("name", "N", "Common name of the authority").default_value("entryway CA"))
                .arg(days("365"))
                .arg(force()),
        )
        .subcommand(
            Command::new("server")
                .about("Issue a certificate for a gateway")
                .arg(ca())
                .arg(
                    text("dns", "NAME[,NAME]", "DNS names of the gateway")
                        .required(true)
                        .value_delimiter(','),
                )
                .arg(out())
                .arg(days("30"))
                .arg(force()),
        )
        .subcommand(
            Command::new("client")
                .about("Issue a certificate for a client of a gateway")
                .arg(ca())
                .arg(text("identity", "URI-or-DNS", "Identity of the client").required(true))
                .arg(out())
                .arg(days("7"))
                .arg(force()),
        )
        .subcommand(
            Command::new("show")
                .about("Show the certificates of a file")
                .arg(path("file").required(true).help("Certificate file (PEM)"))
                .arg(output()),
        )
        .subcommand(
            Command::new("crl")
                .about("Revoke a certificate: add it to the authority's ca.crl")
                .arg(ca())
                .arg(file("revoke", "FILE", "Certificate to revoke").required(true)),
        )
}

fn path(id: &'static str) -> Arg {
    Arg::new(id)
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .value_hint(ValueHint::AnyPath)
}

fn file(long: &'static str, value: &'static str, help: &'static str) -> Arg {
    path(long).long(long).value_name(value).help(help)
}

fn text(long: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(long).long(long).value_name(value).help(help)
}
