#![doc = include_str!("ARCHITECTURE.md")]
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
pub mod web;
// floor 2
pub mod pool;
pub mod relay;
pub mod resolve;
// floor 3
pub mod probe;
// wings
pub mod admin;
