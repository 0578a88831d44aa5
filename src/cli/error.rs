//! [`CliError`]: how a subcommand fails. It says what happened, the likely reason and what to do next, and has an exit
//! code.

use std::fmt;
use std::io;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// The exit code.
    pub code: u8,
    /// What happened.
    pub what: String,
    /// What is likely behind it; empty where nobody knows.
    pub likely: String,
    /// What to do or run next; empty where there is nothing.
    pub next: String,
}

/// The exit codes; see the reference page of the command line.
pub mod code {
    /// Not ok (`healthcheck`).
    pub const NOT_OK: u8 = 1;
    /// The command line was not understood.
    pub const NOT_UNDERSTOOD: u8 = 2;
    /// `--strict-exit`, and connections were cut.
    pub const CUT: u8 = 3;
    /// No instance answers, no such endpoint.
    pub const NOT_THERE: u8 = 69;
    /// A bug.
    pub const INTERNAL: u8 = 70;
    /// The operating system said no.
    pub const OS: u8 = 71;
    /// A port cannot be bound.
    pub const CANNOT_BIND: u8 = 73;
    /// Time is up.
    pub const TIMED_OUT: u8 = 75;
    /// Permission.
    pub const PERMISSION: u8 = 77;
    /// A setting is wrong.
    pub const SETTING: u8 = 78;
}

// === impl CliError ===

impl CliError {
    /// A failure of this code.
    pub fn new(code: u8, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            likely: String::new(),
            next: String::new(),
        }
    }

    /// With what is likely behind it.
    #[must_use]
    pub fn likely(mut self, why: impl Into<String>) -> Self {
        self.likely = why.into();
        self
    }

    /// With what to do next.
    #[must_use]
    pub fn next(mut self, what: impl Into<String>) -> Self {
        self.next = what.into();
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.likely.is_empty() {
            write!(f, "\n  likely: {}", self.likely)?;
        }
        if !self.next.is_empty() {
            write!(f, "\n  next:   {}", self.next)?;
        }
        Ok(())
    }
}

impl std::error::Error for CliError {}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        CliError::new(code::OS, format!("write to standard output: {error}"))
    }
}
