//! All syscalls live below here; the only place that knows errnos and the only `cfg(target_os)`.
//!
//! Above it one reads [`pipe::Moved`], [`socket::Fault`], [`info::unsent`]. Off Linux there are no pipes and nothing
//! is known about send queues; what is above copes without knowing why.

pub mod accept;
pub mod congestion;
pub mod connect;
pub mod holder;
pub mod info;
pub mod limits;
pub mod pipe;
pub mod socket;
