//! Faults on the running proxy, driven through Toxiproxy's HTTP API: latency, limits, resets, and listeners that refuse.
//!
//! Optional, and off unless `faults.bind` is set. With no toxic set the relay is the same code on the same buffers; a
//! live connection that a toxic applies to leaves the relay, is carried through its toxics, and comes back when the last one is gone. Probes and dials never pass a toxic.

pub use api::Api;
pub use drill::{DEADMAN, DrillKind, FLAP, SLEPT, SLOW_BY, Zones};
pub use engine::Engine;
pub use proxy::{EngineError, Listeners, Opened, ProxyView};
pub use toxic::Invalid;

mod api;
mod carry;
mod drill;
mod engine;
mod pipeline;
mod proxy;
mod toxic;
