//! The modules of entryway, in floor order (skeleton; ARCHITECTURE.md becomes this text).
#![deny(unsafe_code)]

// floor 0
pub mod clock;
pub mod duration;
pub mod event;
pub mod life;
pub mod names;
pub mod recent;
// floor 1
pub mod bus;
pub mod meters;
pub mod web;
// floor 2
pub mod pool;
// wings
pub mod edn;
pub mod mock;
pub mod recipe;
pub mod snippet;
pub mod wake;
pub mod zone;
