#![doc = include_str!("ARCHITECTURE.md")]
#![deny(unsafe_code)]

// The layers, from the lowest up; the block in ARCHITECTURE.md is the rule.
pub mod addr;
pub mod clock;
pub mod drain;
pub mod duration;
pub mod duration_window;
pub mod readiness;
pub mod sandbox;
pub mod sys;
pub mod types;

pub mod activity;
pub mod events;
pub mod guide;
pub mod http;
pub mod interference;
pub mod metrics;
pub mod stream;
pub mod tls;

pub mod dial;
pub mod dns;
pub mod relay;
pub mod upstream;

pub mod connection;
pub mod probe;

pub mod listener;
pub mod supervisor;
pub mod workers;

pub mod settings;

// Optional modules.
pub mod admin;
#[cfg(feature = "gateway")]
pub mod cert;
pub mod demo;
pub mod doctor;
#[cfg(all(feature = "faults", feature = "load"))]
pub mod drill;
pub mod edn;
#[cfg(feature = "faults")]
pub mod faults;
pub mod gateway;
#[cfg(feature = "load")]
pub mod load;
pub mod mock;
pub mod network;
pub mod snippet;
pub mod suspend;
pub mod target;
#[cfg(feature = "top")]
pub mod top;
pub mod zone;

pub mod app;
pub mod cli;
