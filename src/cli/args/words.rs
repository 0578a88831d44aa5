//! Names of subcommands and flags, and values that are neither text nor settings.

/// Subcommands, by name: what `run` of the caller matches on.
pub mod name {
    #![allow(missing_docs, reason = "each is the word it holds")]
    pub const RUN: &str = "run";
    pub const DEMO: &str = "demo";
    pub const MOCK: &str = "mock";
    pub const DOCTOR: &str = "doctor";
    pub const CHECK: &str = "check";
    pub const PLAN: &str = "plan";
    pub const EXPLAIN: &str = "explain";
    pub const SNIPPET: &str = "snippet";
    pub const STATUS: &str = "status";
    pub const WAIT: &str = "wait";
    pub const HEALTHCHECK: &str = "healthcheck";
    pub const ENDPOINT: &str = "endpoint";
    pub const RELOAD: &str = "reload";
    pub const SHUTDOWN: &str = "shutdown";
    pub const GUIDE: &str = "guide";
    pub const COMPLETIONS: &str = "completions";
    pub const VERSION: &str = "version";
}

/// Where online commands look for an instance (id `instance`; a `String`).
pub const INSTANCE: &str = "instance";
/// The control socket that online commands were given (id `control-socket`; a `String`).
pub const CONTROL_SOCKET: &str = "control-socket";
/// `--output` (id `output`; [`Output`]).
pub const OUTPUT: &str = "output";
/// What `run` starts (id `command`; `OsString`s).
pub const COMMAND: &str = "command";

/// The admin address of an instance that has none.
pub const OFF: &str = "off";

/// Where the admin address is looked for when nobody says.
pub const DEFAULT_INSTANCE: &str = "127.0.0.1:8183";

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `wait --for`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// Listeners are bound.
    Startup,
    /// `/readyz` says yes.
    Ready,
    /// So many addresses are healthy.
    Healthy(usize),
}
