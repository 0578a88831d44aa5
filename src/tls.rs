//! TLS, in one place: certificates and keys read from files, configurations for both roles, and the stream they give.
//!
//! rustls with the aws-lc-rs provider, which is always passed explicitly: a process-wide default would depend on which
//! other crates are linked. Key material is read only from files that no other user can read. Used by the `https` hop
//! (as a client) and by the gateway (as a server).

#[cfg(feature = "tls")]
pub use config::{Error, client_config, read_certificates, server_config};
pub use files::{ClientFiles, ServerFiles};
#[cfg(feature = "tls")]
pub use socket::TlsSocket;
#[cfg(feature = "tls")]
pub use stream::TlsStream;

#[cfg(feature = "tls")]
pub mod config;
mod files;
#[cfg(feature = "gateway")]
pub mod identity;
#[cfg(feature = "gateway")]
pub mod reload;
#[cfg(feature = "tls")]
mod socket;
#[cfg(feature = "tls")]
mod stream;
