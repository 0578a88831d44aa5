//! TLS, in one place: certificates and keys read from files, configurations for both roles, and the stream they give.
//!
//! rustls with the aws-lc-rs provider, which is always passed explicitly: a process-wide default would depend on which
//! other crates are linked. Key material is read only from files that no other user can read. Used by the `https` hop
//! (as a client) and by the gateway (as a server).

pub use config::{
    ClientFiles, Error, ServerFiles, client_config, read_certificates, server_config,
};
pub use stream::TlsStream;

pub mod config;
#[cfg(feature = "gateway")]
pub mod identity;
#[cfg(feature = "gateway")]
pub mod reload;
mod stream;
