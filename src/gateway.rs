//! `entryway gateway`: lets clients outside of the VPC reach upstreams over TLS with client certificates.
//!
//! A client proves who it is, sends `CONNECT AUTHORITY`, and is connected to one of our upstreams, with that upstream's
//! own failover. The authority only chooses an upstream; no address that a client names is ever dialled, so the gateway
//! cannot be used as an open relay. The rest of the connection is the same relay as that of a listener.
//!
//! Handshakes are bounded in number and time, because they cost memory and CPU before a client is known. Certificates,
//! authorities and revocations are read again when their files change; a client that they no longer accept is reset.

#[cfg(feature = "gateway")]
pub use server::{Gateway, GatewayConfig, start};
pub use settings::{Allow, GatewaySettings};

#[cfg(feature = "gateway")]
pub mod authority;
/// Part of the settings of every build, so that a build without the feature can say that it lacks it.
pub mod settings;

#[cfg(feature = "gateway")]
mod handshake;
#[cfg(feature = "gateway")]
mod metrics;
#[cfg(feature = "gateway")]
mod peers;
#[cfg(feature = "gateway")]
mod request;
#[cfg(feature = "gateway")]
mod server;
#[cfg(feature = "gateway")]
mod shared;
