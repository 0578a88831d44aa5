//! `entryway man`: the manual pages, made from the same table as the help.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

use super::args;
use super::error::{CliError, code};

/// Without a folder prints `entryway.1`; else makes the folder and writes `entryway.1` and `entryway-SUB.1` into it.
pub fn run(folder: Option<&Path>, to: &mut dyn Write) -> Result<u8, CliError> {
    let mut command = args::command();
    command.build();
    match folder {
        None => to.write_all(&page(&command)?)?,
        Some(folder) => {
            let failed = |path: &Path, error: io::Error| {
                CliError::new(code::OS, format!("write {}: {error}", path.display()))
            };
            fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
            for page_of in std::iter::once(&command).chain(command.get_subcommands()) {
                if page_of.is_hide_set() || page_of.get_name() == "help" {
                    continue;
                }
                let name = match page_of.get_name() {
                    "entryway" => "entryway.1".to_owned(),
                    name => format!("entryway-{name}.1"),
                };
                let path = folder.join(name);
                fs::write(&path, page(page_of)?).map_err(|error| failed(&path, error))?;
            }
        }
    }
    Ok(0)
}

fn page(command: &Command) -> Result<Vec<u8>, CliError> {
    let mut page = Vec::new();
    let name = match command.get_name() {
        "entryway" => "entryway".to_owned(),
        name => format!("entryway-{name}"),
    };
    Man::new(command.clone())
        .title(name)
        .section("1")
        .render(&mut page)
        .map_err(|error| CliError::new(code::INTERNAL, format!("manual page: {error}")))?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_for_every_subcommand() {
        let folder = tempfile::tempdir().unwrap();
        let pages = folder.path().join("man");
        assert_eq!(run(Some(&pages), &mut Vec::new()), Ok(0));
        for subcommand in args::command().get_subcommands() {
            let page =
                fs::read_to_string(pages.join(format!("entryway-{}.1", subcommand.get_name())));
            assert!(page.unwrap().contains(".TH"), "{}", subcommand.get_name());
        }
        let mut out = Vec::new();
        assert_eq!(run(None, &mut out), Ok(0));
        assert_eq!(out, fs::read(pages.join("entryway.1")).unwrap());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_of_the_system() {
        let failed = run(Some(Path::new("/dev/null/man")), &mut Vec::new());
        assert_eq!(failed.unwrap_err().code, code::OS);
    }
}
