//! The door: what each subcommand speaks and prints.

pub mod args;
pub mod check;
pub mod mock;
pub mod snippet;
