//! Listeners: where clients connect.
//!
//! Owns binding ([`bind`], apart from running, so that clients are accepted before anything else is known), the accept
//! loop, the connection limits, and the data threads that connections are spread over. What a connection does is
//! `connection`'s business.

pub use bind::{BindError, Bound, ListenerSettings, SocketSettings, bind};
pub use door::Door;
pub use threads::{Spread, Threads};

mod bind;
mod door;
mod threads;

#[cfg(test)]
mod tests;
