//! Every system call, error number and `cfg(target_os)` is below this module.
//!
//! Callers see results such as [`pipe::Moved`], [`socket::Fault`] and [`tcp_info::unsent`]. Off Linux there are no pipes
//! and no TCP_INFO; callers cope with both without knowing the reason.

pub mod accept;
pub mod congestion;
pub mod connect;
pub mod descriptors;
pub mod file_stamp;
pub mod limits;
pub mod local_address;
pub mod pipe;
pub mod port_owner;
pub mod priority;
pub mod private_folder;
pub mod process;
pub mod route_changes;
pub mod socket;
pub mod tcp_info;
