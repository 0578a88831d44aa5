use std::ffi::OsString;
use std::path::PathBuf;

use super::*;
use crate::cli::args;

/// Loads as `entryway run ARGS` with these variables would.
fn load_with(args: &[&str], env: &[(&str, &str)]) -> Result<Loaded, Report> {
    let line = [&["entryway", "run"], args].concat();
    let matches = args::command().try_get_matches_from(line).unwrap();
    let (_, matches) = matches.subcommand().unwrap();
    let env = env
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load(matches, env, true)
}

/// A folder with one settings file; the path is replaced by `entryway.toml` in what is compared.
struct OneFile {
    folder: tempfile::TempDir,
}

impl OneFile {
    fn new(bytes: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("entryway.toml"), bytes).unwrap();
        Self { folder }
    }

    fn path(&self) -> String {
        self.folder
            .path()
            .join("entryway.toml")
            .display()
            .to_string()
    }

    fn load(&self, args: &[&str], env: &[(&str, &str)]) -> Result<Loaded, Report> {
        load_with(&[args, &["--config", &self.path()]].concat(), env)
    }

    fn report(&self, args: &[&str], env: &[(&str, &str)]) -> String {
        let report = self.load(args, env).unwrap_err();
        assert_eq!(report.exit_code(), 78);
        report.plain().replace(&self.path(), "entryway.toml")
    }
}

fn report(toml: &str) -> String {
    OneFile::new(toml).report(&[], &[])
}

#[test]
fn print_all() {
    for toml in [
        "[[upstream]]\nconect_timeout = \"1s\"\nendpoint = [\"a:1\"]\n",
        "[[upstream]]\nconnect_timeout = 5\nendpoint = [\"a:1\"]\n[upstream.health]\nfall = \"three\"\ninterval=\"5 parsecs\"\n",
        "[[upstream]]\nendpoint = \"a:1\"\n[tls]\ncert = 1\n",
        "[listener]\nwhen_all_down = \"holt\"\n",
        "[listener\nx = 1\ny = \n",
        "a = 1\na = 2\n",
        "[[listener]]\nbind = [\"0.0.0.0:1\"]\n[[listener]]\nbind = [\"127.0.0.1:1\"]\nupstream = \"prd\"\n[[upstream]]\nname = \"prod\"\nvpce = \"vpce-1\"\npeering = true\n",
        "[[upstream]]\n[[upstream.endpoint]]\naddress = \"127.0.0.1:8182\"\nname = \"a\"\n[[upstream.endpoint]]\naddress=\"b.c:8\"\nname = \"a\"\n[[upstream.endpoint]]\nzone = \"a\"",
    ] {
        println!("{}\n=====", report(toml));
    }
}
