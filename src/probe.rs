//! Health probes: is this address healthy, and which system is it?
//!
//! [`once`] runs one probe from connect to verdict (`doctor` uses it too); [`Prober`] sends probes when the upstream's
//! snapshot says that they are due. Every probe is a new connection, because reuse would hide trouble below HTTP, and ends
//! by its deadline. What a result means for health is decided in `upstream`.

pub use run::{ProbeReport, host_header, once, through};
pub use scheduler::{Prober, ProberHandle};

mod datomic;
mod failure;
mod http;
mod run;
mod scheduler;
mod tcp;
#[cfg(test)]
mod tests;
