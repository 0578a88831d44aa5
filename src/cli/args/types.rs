//! Names of subcommands and arguments, and the types of values that are not settings.

/// Names of the subcommands.
pub mod name {
    pub const RUN: &str = "run";
    pub const DEMO: &str = "demo";
    pub const MOCK: &str = "mock";
    pub const DOCTOR: &str = "doctor";
    pub const CHECK: &str = "check";
    pub const PLAN: &str = "plan";
    pub const EXPLAIN: &str = "explain";
    pub const SNIPPET: &str = "snippet";
    pub const INIT: &str = "init";
    pub const STATUS: &str = "status";
    #[cfg(feature = "top")]
    pub const TOP: &str = "top";
    pub const SLO: &str = "slo";
    pub const INCIDENT: &str = "incident";
    pub const WAIT: &str = "wait";
    pub const HEALTHCHECK: &str = "healthcheck";
    pub const ENDPOINT: &str = "endpoint";
    pub const RELOAD: &str = "reload";
    pub const UPGRADE: &str = "upgrade";
    pub const SHUTDOWN: &str = "shutdown";
    pub const GATEWAY: &str = "gateway";
    pub const CERT: &str = "cert";
    pub const GUIDE: &str = "guide";
    pub const COMPLETIONS: &str = "completions";
    pub const LOAD: &str = "load";
    #[cfg(all(feature = "faults", feature = "load"))]
    pub const DRILL: &str = "drill";
    pub const MAN: &str = "man";
    pub const VERSION: &str = "version";
}

/// Id of `--admin` of commands that ask an instance.
pub const INSTANCE: &str = "instance";
/// Id of `--control` of commands that ask an instance.
pub const CONTROL_SOCKET: &str = "control-socket";
pub const OUTPUT: &str = "output";
/// Id of the command behind `--`.
pub const COMMAND: &str = "command";

/// `--admin` of an instance without an admin server.
pub const OFF: &str = "off";

/// Admin address of an instance where none is given.
pub const DEFAULT_INSTANCE: &str = "127.0.0.1:8183";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputFormat {
    #[default]
    Text,
    Json,
}

/// `wait --for`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    Startup,
    Ready,
    /// This many addresses are healthy.
    Healthy(usize),
}
