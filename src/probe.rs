//! Probes: is this address well, and which system is it?
//!
//! Owns one probe from connect to judgement ([`once`], which `doctor` uses too) and the loop that sends them when the
//! pool's snapshot says so ([`Prober`]). Every probe is a new connection (reuse would hide trouble below HTTP) and ends
//! by its deadline. Decides nothing about health: outcomes go to the pool as facts.

pub use run::{ProbeReport, host_header, once};
pub use scheduler::{Prober, ProberHandle};

mod datomic;
mod failure;
mod http;
mod run;
mod scheduler;
mod tcp;
#[cfg(test)]
mod tests;
