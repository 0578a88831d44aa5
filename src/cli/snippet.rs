//! `entryway snippet KIND`: one document on standard output, made from the settings.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use clap::ArgMatches;

use super::client;
use crate::admin::Bind;
use crate::edn::{self, EdnError, EndpointChange, LoadError};
use crate::settings::Loaded;
use crate::snippet::{self, SnippetInput, SnippetKind};
use crate::target;

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--patch` with another kind than edn.
    #[error("--patch changes a client map; it goes with `snippet edn`, not with `snippet {0}`")]
    Patch(SnippetKind),
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] LoadError),
    /// A file is no client map.
    #[error("{0}:{1}")]
    Edn(String, #[source] EdnError),
    /// A client map that patching cannot help.
    #[error("{0}: {1}")]
    Refused(String, String),
    /// Standard output is gone.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Prints the document. `matches` are the subcommand's; `loaded` needs no target.
pub fn print(matches: &ArgMatches, loaded: &Loaded, to: &mut dyn Write) -> Result<(), Error> {
    // The parser allows known kinds only.
    let kind: SnippetKind = matches
        .get_one::<String>("kind")
        .and_then(|kind| kind.parse().ok())
        .unwrap_or(SnippetKind::Edn);
    let patch = matches.get_one::<String>("patch");
    if patch.is_some() && kind != SnippetKind::Edn {
        return Err(Error::Patch(kind));
    }
    let input = input(loaded);
    let text = match patch {
        None => snippet::render(kind, &input),
        Some(spec) => {
            let (text, notes) = patched(spec, &input)?;
            for note in notes {
                // A closed standard error does not stop the result.
                let _ = writeln!(anstream::stderr(), "{note}");
            }
            text
        }
    };
    to.write_all(text.as_bytes())?;
    to.flush()?;
    if let Some(missing) = snippet::missing(kind, &input) {
        let _ = writeln!(anstream::stderr(), "note: {missing}");
    }
    Ok(())
}

/// The text of the file that `FILE[#KEY/KEY…]` names, its client map patched; and what was done, in a line each.
fn patched(spec: &str, input: &SnippetInput) -> Result<(String, Vec<String>), Error> {
    let (file, path) = edn::split_spec(spec);
    let text = edn::load(Path::new(file))?;
    let wrong = |error| Error::Edn(file.to_owned(), error);
    let map = edn::read_client_map(&text, path).map_err(wrong)?;
    target::check_server_type(&map).map_err(|what| Error::Refused(file.to_owned(), what))?;
    let patched = edn::patch(&text, path, &input.url()).map_err(wrong)?;
    let at = match patched.path.as_str() {
        "" => file.to_owned(),
        path => format!("{file}#{path}"),
    };
    let mut said = match &patched.endpoint {
        EndpointChange::Replaced(old) => format!(":endpoint was {}", client::clean(old)),
        EndpointChange::Inserted => ":endpoint is new".to_owned(),
        EndpointChange::Unchanged => ":endpoint leads to entryway already".to_owned(),
    };
    for key in &patched.removed {
        said.push_str(&format!(", {key} is removed"));
    }
    let mut notes = vec![format!("{at}: {said}")];
    if let Some(Ok(endpoint)) = &map.endpoint
        && endpoint.contains(".execute-api.")
    {
        notes.push(format!(
            "warning: {at}: the old :endpoint is an API Gateway, which entryway does not lead to; give `run` a private \
             way to the system (entryway guide choose)"
        ));
    }
    Ok((patched.text, notes))
}

/// The first listener, its upstream, and what goes with them.
fn input(loaded: &Loaded) -> SnippetInput {
    let default = SnippetInput::default();
    let settings = &loaded.settings;
    let listener = settings.listeners.first();
    let upstreams = settings.upstreams.iter().zip(&loaded.targets);
    let led_to = upstreams.clone().find(|(upstream, _)| {
        listener.is_some_and(|listener| listener.upstream == upstream.name.as_str())
    });
    let target = led_to
        .or(upstreams.clone().next())
        .map(|(_, target)| target);
    let mut input = SnippetInput {
        target: target.cloned().unwrap_or_default(),
        max_drain: settings.shutdown.max_delay,
        config: loaded.file().map(absolute),
        ..default.clone()
    };
    // Port 0 is for tests; what is printed is for other machines, where the default port is as good.
    let bound = |address: &SocketAddr| address.port() != 0;
    let listen = listener.and_then(|listener| listener.bind.first()?.parse().ok());
    input.listen = listen.filter(bound).unwrap_or(default.listen);
    if let Bind::At(admin) = settings.admin.bind {
        input.admin = Some(admin).filter(bound).unwrap_or(default.admin);
    }
    input
}

fn absolute(path: &str) -> String {
    // A unit's command line has no working directory to be relative to.
    std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

// === impl Error ===

impl Error {
    /// See the exit codes in `guide reference cli`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Patch(_) => 2,
            Error::Io(_) => 71,
            Error::File(_) | Error::Refused(..) | Error::Edn(..) => 78,
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
        for kind in SnippetKind::ALL {
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

    /// Entryway does not lead there: a map that was patched so would go somewhere else than before.
    #[test]
    fn a_map_of_an_api_gateway_is_warned_about() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.edn");
        let spec = path.to_str().unwrap();
        let said = |endpoint: &str| {
            let map = format!("{{:system \"prod\" :endpoint \"{endpoint}\"}}");
            std::fs::write(&path, map).unwrap();
            patched(spec, &SnippetInput::default()).unwrap().1
        };
        let notes = said("https://abc123.execute-api.us-east-1.amazonaws.com");
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].contains("https://abc123"), "{notes:?}");
        assert!(notes[1].contains("API Gateway"), "{notes:?}");
        let notes = said("http://entry.prod.us-east-1.datomic.net:8182");
        assert_eq!(notes.len(), 1, "{notes:?}");
    }

    #[test]
    fn a_client_map_is_read_and_patched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.edn");
        let path = path.to_str().unwrap();
        let text = "{:system \"prod\" :region \"us-east-1\"\n :endpoint \"http://entry.prod.us-east-1.datomic.net:8182\" :proxy-port 8182} ; end";
        std::fs::write(path, text).unwrap();
        let patched = printed(&["edn", "--patch", path]).unwrap();
        assert_eq!(
            patched,
            text.replace(
                "http://entry.prod.us-east-1.datomic.net:8182\" :proxy-port 8182",
                "http://localhost:8182\""
            )
        );
        // What is generated from a query group's map leads to the query group.
        let group = "{:system \"prod\" :region \"us-east-1\" :query-group \"reports\"}";
        std::fs::write(path, format!("{{:app {{:db {group}}}}}")).unwrap();
        for spec in [path.to_owned(), format!("{path}#app/db")] {
            for kind in ["systemd", "k8s", "ecs", "compose"] {
                let text = printed(&[kind, "--from-client", &spec]).unwrap();
                assert!(text.contains("--query-group=reports"), "{text}");
            }
            let patched = printed(&["edn", "--patch", &spec]).unwrap();
            assert!(patched.starts_with("{:app {:db {:system"), "{patched}");
            assert!(
                patched.contains(":endpoint \"http://localhost:8182\"}}}"),
                "{patched}"
            );
        }
        std::fs::write(path, text).unwrap();
        let unit = printed(&["systemd", "--from-client", path]).unwrap();
        assert!(
            unit.contains(
                "run --peering --system=prod --region=us-east-1 --admin=127.0.0.1:8183\n"
            ),
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
        std::fs::write(path, "{:server-type :datomic-local :system \"dev\"}").unwrap();
        let local = printed(&["edn", "--patch", path]).unwrap_err();
        assert_eq!(local.exit_code(), 78);
        assert!(local.to_string().contains("divert-system"), "{local}");
    }
}
