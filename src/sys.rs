//! All system calls live below here; the only place that looks at the target.

pub mod accept;
pub mod congestion;
pub mod connect;
pub mod holder;
pub mod limits;
pub mod socket;
