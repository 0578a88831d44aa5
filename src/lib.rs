//! The modules of entryway, in floor order (skeleton; ARCHITECTURE.md becomes this text).
#![deny(unsafe_code)]

// floor 0
pub mod clock;
pub mod duration;
pub mod event;
pub mod life;
pub mod names;
pub mod recent;
pub mod sys;
// floor 1
pub mod bus;
pub mod meters;
pub mod stream;
// floor 2
pub mod dial;
pub mod pool;
pub mod relay;
// floor 3
pub mod connection;
// floor 4
pub mod listener;
pub mod sweep;
