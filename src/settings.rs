//! The settings of the process: the settings structs of all modules, and where each value came from.
//!
//! Implements the layers (flag > environment > file > profile > default), errors that point at a line, and the settings
//! that no other module owns. To add a key: add a field to the struct of the module that uses it, a line to
//! `config/reference.toml`, a range in `ranges` where it is a number, and a row in `flags` if it gets a flag; tests fail
//! where one of them is missing. Loading settings resolves no name and opens no connection.

pub use byte_size::{ByteSize, parse as parse_size};
pub use diagnostics::{Diagnostic, Diagnostics};
pub use effective::REFERENCE;
pub use effective::{Changes, Reload, differences};
pub use hops::assign_hops;
pub use layers::{Loaded, load, load_gateway};
pub use model::*;
pub use node::Origin;
pub use source_file::SourceFile;

pub mod flags;

mod annotate;
pub(crate) mod byte_size;
mod deserialize;
mod diagnostics;
mod effective;
mod endpoint;
mod file;
mod hops;
mod layers;
mod model;
mod needs;
mod node;
mod overrides;
mod profile;
mod ranges;
mod source_file;
mod validate;

#[cfg(test)]
mod tests;
