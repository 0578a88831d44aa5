//! A listener as the handles show it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::connection::Route;
use crate::listener::Shortage;

/// One listener: its addresses and the way behind it.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where clients connect.
    pub addresses: Vec<SocketAddr>,
    /// What its connections share.
    pub route: Arc<Route>,
    /// Whether it lacks what it needs to accept.
    pub shortage: Shortage,
}
