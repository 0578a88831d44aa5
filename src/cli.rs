//! The door: what each subcommand speaks and prints.

pub mod args;
pub mod check;
pub mod doctor;
pub mod endpoint;
pub mod explain;
pub mod failure;
pub mod healthcheck;
pub mod mock;
pub mod online;
pub mod reload;
pub mod shutdown;
pub mod snippet;
pub mod status;
pub mod wait;
