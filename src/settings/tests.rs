//! Shared by the tests below: settings as `entryway run` would load them.

use std::ffi::OsString;

use super::*;
use crate::cli::args;

mod layering;
mod ranges;
mod reference;
mod reports;
mod samples;

/// Loads as `entryway run ARGS` with these variables would.
fn load_with(args: &[&str], env: &[(&str, &str)]) -> Result<Loaded, Diagnostics> {
    let line = [&["entryway", "run"], args].concat();
    let matches = args::command().try_get_matches_from(line).unwrap();
    let (_, matches) = matches.subcommand().unwrap();
    let env = env
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load(matches, env, true)
}

/// A folder with one settings file; its path is shown as `entryway.toml` in what is compared.
struct OneFile {
    folder: tempfile::TempDir,
}

impl OneFile {
    fn new(bytes: impl AsRef<[u8]>) -> Self {
        let file = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        file.write(bytes);
        file
    }

    fn write(&self, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(), bytes).unwrap();
    }

    fn path(&self) -> String {
        self.folder
            .path()
            .join("entryway.toml")
            .display()
            .to_string()
    }

    fn load(&self, args: &[&str], env: &[(&str, &str)]) -> Result<Loaded, Diagnostics> {
        load_with(&[args, &["--config", &self.path()]].concat(), env)
    }

    fn report(&self, args: &[&str], env: &[(&str, &str)]) -> String {
        let report = self.load(args, env).unwrap_err();
        assert_eq!(report.exit_code(), 78);
        report.plain().replace(&self.path(), "entryway.toml")
    }

    fn source(&self, loaded: &Loaded, key: &str) -> String {
        loaded.source(key).replace(&self.path(), "entryway.toml")
    }
}
