//! The real assembly against scripted upstreams: bytes, ends, metrics and the access line, subject by subject.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod harness;

mod admin;
mod at_rest;
#[cfg(target_os = "linux")]
mod clock;
mod close_matrix;
mod commands;
mod demo;
mod doctor;
mod drain;
#[cfg(all(feature = "faults", feature = "load"))]
mod drill;
mod edges;
mod failover;
#[cfg(feature = "faults")]
mod faults;
mod framing;
mod fronts;
mod fuzz_seeds;
#[cfg(feature = "gateway")]
mod gateway;
mod guide;
mod half_close;
mod holding;
mod hop_faults;
mod hops;
mod identity;
mod idle;
mod integrity;
mod limits;
#[cfg(feature = "load")]
mod load;
mod loops;
mod metrics;
mod output;
mod probe;
mod relay;
mod reload;
mod reset;
mod resolve;
#[cfg(target_os = "linux")]
mod sandbox;
mod security;
mod settings;
mod signals;
mod spares;
mod systemd;
mod timers;
mod unhealthy;
mod upgrade;
mod wrapper;
