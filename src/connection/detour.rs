//! What carries a connection in place of the relay: faults.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::registry::Entry;
use crate::activity::Activity;
use crate::clock::Moment;
use crate::relay::{Diverted, Limits, Outcome};
use crate::stream::Stream;

/// Carries connections in place of the relay, for as long as it wants to.
pub trait Detour: fmt::Debug + Send + Sync {
    /// A connection has reached its upstream: whether it is to be diverted is set on its command channel.
    fn connected(&self, entry: &Entry);

    /// Carries a connection until it ends, or until the relay is to go on.
    fn carry<'a>(
        &'a self,
        down: &'a mut Stream,
        up: &'a mut Stream,
        diversion: Diversion<'a>,
    ) -> Pin<Box<dyn Future<Output = DiversionEnd> + 'a>>;
}

/// What the relay hands over.
#[derive(Debug)]
pub struct Diversion<'a> {
    pub entry: &'a Entry,
    pub limits: &'a Limits,
    pub state: Box<Diverted>,
    /// When the upstream was reached.
    pub connected: Moment,
    /// Hears of every byte that moves.
    pub activity: &'a Activity,
}

/// How a detour ended.
#[derive(Debug)]
pub enum DiversionEnd {
    /// The relay goes on from here.
    Resume(Box<Diverted>),
    Ended(Outcome),
}
