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
pub mod dial;
pub mod pool;
pub mod relay;
pub mod resolve;
// floor 3
pub mod connection;
pub mod probe;
// floor 4
pub mod listener;
// floor 5
pub mod settings;
// wings
pub mod admin;
pub mod edn;
pub mod mock;
pub mod recipe;
pub mod snippet;
pub mod wake;
pub mod zone;
// floor 6
pub mod cli;
