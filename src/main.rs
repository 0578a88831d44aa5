//! The binary of entryway.
fn main() {}
