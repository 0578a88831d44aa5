//! The real assembly against scripted upstreams: bytes, ends, metrics and the access line, subject by subject.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod harness;

mod at_rest;
mod close_matrix;
mod drain;
mod failover;
mod half_close;
mod relay;
mod reset;
mod timers;
mod waiting_room;
