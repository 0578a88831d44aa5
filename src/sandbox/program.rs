//! The programs that are started, as they are wanted: commands of the settings, and successors of this process.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::sys::process;

/// Set for a process that takes over from another one.
pub(crate) const HANDOVER: &str = "ENTRYWAY_HANDOVER";

/// What a service manager has told this process about itself, and a successor has to find out anew.
const NOT_FOR_SUCCESSORS: [&str; 4] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// What stands for the placeholders of a command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Placeholders<'a> {
    /// Host and port, `%h` and `%p`.
    pub target: Option<(&'a str, u16)>,
    /// `%l`.
    pub local_port: Option<u16>,
}

/// The same in a message.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct OwnedPlaces {
    pub(super) target: Option<(String, u16)>,
    pub(super) local_port: Option<u16>,
}

pub(super) fn command_of(words: &[String], places: Placeholders<'_>) -> Command {
    let mut words = words.iter().map(|word| places.fill(word));
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    process::lead_group_and_die_with_parent(&mut command);
    command
}

pub(super) fn successor_of(
    binary: &Path,
    own: impl Iterator<Item = OsString>,
    config: Option<&Path>,
    stdin: Stdio,
) -> Command {
    let mut command = Command::new(binary);
    command
        .args(arguments(own, config))
        .env(HANDOVER, "1")
        .stdin(stdin);
    for name in NOT_FOR_SUCCESSORS {
        command.env_remove(name);
    }
    command
}

/// The arguments of a successor: ours without a command behind `--`, and with another settings file where wanted.
fn arguments(own: impl Iterator<Item = OsString>, config: Option<&Path>) -> Vec<OsString> {
    let mut own = own.take_while(|word| word != "--");
    let mut words = Vec::new();
    while let Some(word) = own.next() {
        let bytes = word.as_encoded_bytes();
        let is_joined =
            bytes.starts_with(b"--config=") || bytes.starts_with(b"-c") && bytes != b"-c";
        match config {
            Some(_) if word == "--config" || word == "-c" => drop(own.next()),
            Some(_) if is_joined => {}
            _ => words.push(word),
        }
    }
    if let Some(config) = config {
        words.push("--config".into());
        words.push(config.into());
    }
    words
}

// === impl Placeholders ===

impl Placeholders<'_> {
    /// Replaces `%h`, `%p`, `%l` and `%%`.
    fn fill(self, word: &str) -> String {
        let mut text = String::with_capacity(word.len());
        let mut chars = word.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            match (chars.next(), self.target, self.local_port) {
                (Some('h'), Some((host, _)), _) => text.push_str(host),
                (Some('p'), Some((_, port)), _) => text.push_str(&port.to_string()),
                (Some('l'), _, Some(port)) => text.push_str(&port.to_string()),
                (Some('%'), ..) => text.push('%'),
                (Some(other), ..) => text.extend(['%', other]),
                (None, ..) => text.push('%'),
            }
        }
        text
    }
}

// === impl OwnedPlaces ===

impl From<Placeholders<'_>> for OwnedPlaces {
    fn from(places: Placeholders<'_>) -> Self {
        Self {
            target: places.target.map(|(host, port)| (host.to_owned(), port)),
            local_port: places.local_port,
        }
    }
}

impl OwnedPlaces {
    pub(super) fn borrowed(&self) -> Placeholders<'_> {
        Placeholders {
            target: self.target.as_ref().map(|(host, port)| (&**host, *port)),
            local_port: self.local_port,
        }
    }

    /// Whether the host is one, and nothing that a program could take for an option or a shell for more than a word.
    pub(super) fn are_harmless(&self) -> bool {
        self.target.as_ref().is_none_or(|(host, _)| {
            let fine = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
            !host.is_empty() && !host.starts_with('-') && host.chars().all(fine)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_gets_our_arguments() {
        let of = |words: &str, config: Option<&str>| {
            let words: Vec<OsString> = words.split(' ').map(Into::into).collect();
            let all = arguments(words.into_iter(), config.map(Path::new));
            let all: Vec<String> = all
                .into_iter()
                .map(|word| word.into_string().unwrap())
                .collect();
            all.join(" ")
        };
        assert_eq!(
            of("run --config a -- cmd --config b", None),
            "run --config a"
        );
        assert_eq!(
            of("run --config a --warm 2", Some("/n")),
            "run --warm 2 --config /n"
        );
        assert_eq!(of("run --config=a", Some("/n")), "run --config /n");
        assert_eq!(of("run -c a -e h:1", Some("/n")), "run -e h:1 --config /n");
        assert_eq!(of("run -ca", Some("/n")), "run --config /n");
    }

    #[test]
    fn placeholders_are_filled() {
        let places = Placeholders {
            target: Some(("db.internal", 8182)),
            local_port: Some(4711),
        };
        assert_eq!(
            places.fill("%h:%p via %l, 100%% %x %"),
            "db.internal:8182 via 4711, 100% %x %"
        );
        assert_eq!(Placeholders::default().fill("%h %l"), "%h %l");
    }
}
