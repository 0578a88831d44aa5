//! `entryway drill`: sets a fault on purpose, drives requests through it, and says what became of them.
//!
//! One run has three parts: some seconds before the fault, the fault, and the time until its zone is used again. What
//! is drilled ([`DrillSubject`]) is a running instance, one of the drill's own before mock zones, or a HAProxy before the
//! same mocks. Every number is taken here, from outside: requests are the drill's own, states are asked for every few
//! milliseconds. A fault of an instance ends with its ttl, or when the drill is not heard of for five seconds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Moment;
use crate::faults::DrillKind;
use crate::load::slo::Term;

pub use instance::Instance;
pub use output::{DrillOutput as OutputKind, write as write_output};
pub use report::{ASSERT_NAMES, DrillReport, DrillSummary};
pub use run::run;

pub mod embedded;
pub mod haproxy;
mod html;
mod instance;
mod measure;
mod output;
mod report;
mod run;

/// What a drill does.
#[derive(Clone, Debug)]
pub struct DrillPlan {
    pub kind: DrillKind,
    /// Where it happens; `None` for kinds that do not happen to one zone.
    pub zone: Option<String>,
    /// How long the fault stands.
    pub length: Duration,
    /// Requests a second of our own; 0: none.
    pub rate: f64,
    pub asserts: Vec<Term>,
    /// How long the zone's return is waited for.
    pub patience: Duration,
}

/// Why a drill did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers where the instance should be.
    #[error("{0}")]
    NoInstance(String),
    /// The zone does not exist.
    #[error("{0}")]
    UnknownZone(String),
    /// Somebody has said no.
    #[error("{0}")]
    NotAllowed(String),
    /// It cannot be run as things are.
    #[error("{what}")]
    Cannot { what: String, next: &'static str },
    /// It was under way.
    #[error("{0}")]
    Lost(String),
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrillView {
    /// An address that the fault acts on is marked down.
    pub is_down: bool,
    /// The zone that new connections go to.
    pub in_use: Option<String>,
}

/// What is drilled.
pub trait DrillSubject {
    /// Pause between two looks at it.
    const LOOK: Duration;

    /// The method of our requests.
    const METHOD: &'static str = "GET";

    /// Where requests go.
    fn target(&self) -> SocketAddr;

    /// Says that a drill of it is under way, for some seconds: others are refused. Ours alone cannot meet another.
    fn claim(&mut self) -> impl Future<Output = Result<(), Error>> {
        std::future::ready(Ok(()))
    }

    /// The drill is over.
    fn release(&mut self) -> impl Future<Output = ()> {
        std::future::ready(())
    }

    /// Sets the fault.
    fn set(&mut self, plan: &DrillPlan) -> impl Future<Output = Result<(), Error>>;

    /// Says that the drill is alive: about once a second while the fault stands.
    fn keep(&mut self) -> impl Future<Output = Result<(), Error>>;

    /// Takes the fault back.
    fn clear(&mut self, plan: &DrillPlan) -> impl Future<Output = Result<(), Error>>;

    /// Looks at it.
    fn look(&mut self, plan: &DrillPlan) -> impl Future<Output = Result<DrillView, Error>>;

    /// Which zone our connections lead to, by the port on our side; of those that are open.
    fn zones_of(&mut self) -> impl Future<Output = Result<HashMap<u16, String>, Error>>;

    /// Whether a zone other than the drilled one has answered anybody since the fault was set, where this can be said
    /// without asking for connections.
    fn others_answer(&mut self, plan: &DrillPlan) -> impl Future<Output = Result<bool, Error>>;

    /// Connections that were held so far, where there is such a thing.
    fn held(&mut self) -> impl Future<Output = Result<Option<u64>, Error>>;
}

/// Turns true when the drill is to end at once.
pub type Interrupt = watch::Receiver<bool>;

/// What happens while it runs, in sentences, with the time since its beginning.
pub trait Tell {
    fn tell(&mut self, at: Duration, what: &str);
}

/// When the parts began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    pub began: Moment,
    pub set: Moment,
    pub cleared: Moment,
    pub ended: Moment,
}
