//! `entryway snippet KIND`: one document on standard output, made from the settings.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use clap::ArgMatches;

use crate::admin::Bind;
use crate::edn::{self, EdnError, LoadError};
use crate::settings::{Loaded, UpstreamSettings};
use crate::snippet::{self, Kind, SnippetInput};
use crate::target::{self, TargetError};

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--patch` with another kind than edn.
    #[error("--patch changes a client map; it goes with `snippet edn`, not with `snippet {0}`")]
    Patch(Kind),
    /// The target is wrong.
    #[error("{}", list(.0))]
    Target(Vec<TargetError>),
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] LoadError),
    /// A file is no client map.
    #[error("{0}:{1}")]
    Edn(String, #[source] EdnError),
    /// Standard output is gone.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Prints the document. `matches` are the subcommand's; `loaded` needs no target.
pub fn print(matches: &ArgMatches, loaded: &Loaded, to: &mut dyn Write) -> Result<(), Error> {
    // The parser allows known kinds only.
    let kind: Kind = matches
        .get_one::<String>("kind")
        .and_then(|kind| kind.parse().ok())
        .unwrap_or(Kind::Edn);
    let patch = matches.get_one::<String>("patch");
    if patch.is_some() && kind != Kind::Edn {
        return Err(Error::Patch(kind));
    }
    let input = input(loaded)?;
    let text = match patch {
        None => snippet::render(kind, &input),
        Some(path) => {
            let text = edn::load(Path::new(path))?;
            snippet::patch(&text, &input).map_err(|error| Error::Edn(path.clone(), error))?
        }
    };
    to.write_all(text.as_bytes())?;
    Ok(to.flush()?)
}

/// The first listener, its upstream, and what goes with them.
fn input(loaded: &Loaded) -> Result<SnippetInput, Error> {
    let default = SnippetInput::default();
    let settings = &loaded.settings;
    let listener = settings.listeners.first();
    let upstream = settings
        .upstreams
        .iter()
        .find(|upstream| {
            listener.is_some_and(|listener| listener.upstream == upstream.name.as_str())
        })
        .or(settings.upstreams.first());
    let mut input = SnippetInput {
        max_drain: settings.shutdown.max_delay,
        config: loaded.file().map(absolute),
        ..default.clone()
    };
    if let Some(upstream) = upstream {
        take_upstream(upstream, &mut input)?;
    }
    // Port 0 is for tests; what is printed is for other machines, where the default port is as good.
    let bound = |address: &SocketAddr| address.port() != 0;
    let listen = listener.and_then(|listener| listener.bind.first()?.parse().ok());
    input.listen = listen.filter(bound).unwrap_or(default.listen);
    if let Bind::At(admin) = settings.admin.bind {
        input.admin = Some(admin).filter(bound).unwrap_or(default.admin);
    }
    Ok(input)
}

fn take_upstream(upstream: &UpstreamSettings, input: &mut SnippetInput) -> Result<(), Error> {
    let client = match &upstream.from_client {
        None => None,
        Some(path) => {
            let text = edn::load(Path::new(path))?;
            let map =
                edn::read_client_map(&text).map_err(|error| Error::Edn(path.clone(), error))?;
            Some(map)
        }
    };
    let none = upstream.endpoints.is_empty()
        && upstream.vpce.is_none()
        && !upstream.peering
        && client.is_none();
    if none {
        input.system.clone_from(&upstream.system);
        input.region.clone_from(&upstream.region);
        return Ok(());
    }
    let recipe = target::of(upstream, client.as_ref()).map_err(Error::Target)?;
    input.endpoints = recipe.endpoints;
    input.system = recipe.system;
    input.region = recipe.region;
    input.query_group = recipe.query_group;
    Ok(())
}

fn absolute(path: &str) -> String {
    // A unit's command line has no working directory to be relative to.
    std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

fn list(problems: &[TargetError]) -> String {
    let lines: Vec<&str> = problems
        .iter()
        .map(|problem| problem.what.as_str())
        .collect();
    lines.join("\n")
}

// === impl Error ===

impl Error {
    /// As contract section 4 has it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Patch(_) => 2,
            Error::Io(_) => 71,
            Error::Target(_) | Error::File(_) | Error::Edn(..) => 78,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::args;
    use crate::settings;

    fn printed(line: &[&str]) -> Result<String, Error> {
        let matches = args::command().get_matches_from([&["entryway", "snippet"], line].concat());
        let (_, matches) = matches.subcommand().unwrap();
        let loaded =
            settings::load(matches, std::iter::empty::<(OsString, OsString)>(), false).unwrap();
        let mut out = Vec::new();
        print(matches, &loaded, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_kind_prints_with_and_without_a_target() {
        for kind in Kind::ALL {
            for target in [
                &[][..],
                &["--peering", "--system=prod", "--region=us-east-1"],
                &["--endpoint=db:8182?zone=a"],
            ] {
                let text = printed(&[&[kind.as_str()], target].concat()).unwrap();
                assert!(text.ends_with('\n'), "{kind}");
            }
        }
        let edn = printed(&[
            "edn",
            "--peering",
            "--system=prod",
            "--region=us-east-1",
            "--listen=127.0.0.1:9000",
        ])
        .unwrap();
        assert!(
            edn.contains("\"http://localhost:9000\"") && edn.contains("\"prod\""),
            "{edn}"
        );
    }

    #[test]
    fn a_client_map_is_read_and_patched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.edn");
        let path = path.to_str().unwrap();
        let text = "{:system \"prod\" :region \"us-east-1\"\n :endpoint \"http://entry.prod.us-east-1.datomic.net:8182\"} ; end";
        std::fs::write(path, text).unwrap();
        let patched = printed(&["edn", "--patch", path]).unwrap();
        assert_eq!(
            patched,
            text.replace(
                "http://entry.prod.us-east-1.datomic.net:8182",
                "http://localhost:8182"
            )
        );
        let unit = printed(&["systemd", "--from-client", path]).unwrap();
        assert!(
            unit.contains("run --peering --system=prod --region=us-east-1\n"),
            "{unit}"
        );
        let wrong = printed(&["k8s", "--patch", path]).unwrap_err();
        assert_eq!(wrong.exit_code(), 2);
        std::fs::write(path, b"{:a \xff}").unwrap();
        let wrong = printed(&["edn", "--patch", path]).unwrap_err();
        assert_eq!(
            (
                wrong.exit_code(),
                wrong.to_string().ends_with("not UTF-8 text")
            ),
            (78, true)
        );
        std::fs::write(path, "{:a").unwrap();
        let wrong = printed(&["edn", "--patch", path]).unwrap_err();
        assert!(wrong.to_string().contains("client.edn"), "{wrong}");
        assert!(printed(&["edn", "--patch", "/does/not/exist"]).is_err());
    }
}
