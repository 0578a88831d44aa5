//! The settings: the sum of what the modules below want to know, and where each value was written.
//!
//! Owns the layers (flag > environment > file > profile > default), the errors that point at a line, and the settings
//! that belong to no single module below. A key stands in one struct and in one line of `config/reference.toml`; how
//! to add one: give it to the struct of the module that uses it, and to that file. Resolves nothing, connects nowhere.

pub use effective::Changes;
pub use effective::REFERENCE;
pub use layers::{Loaded, load};
pub use model::*;
pub use report::{Problem, Report};
pub use size::Size;
pub use source::Source;
pub use tree::Place;

pub mod flags;

mod effective;
mod endpoint;
mod explain;
mod file;
mod given;
mod layers;
mod model;
mod profile;
mod read;
mod report;
mod size;
mod source;
mod tree;
mod validate;

#[cfg(test)]
mod tests;
