//! The race of attempts: one at first, one more on each failure and after each stagger; the first to finish wins.

use std::future::poll_fn;
use std::task::Poll;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::attempt::{
    Attempt, ClientData, ConnectOutcome, Connector, Dialed, Error, poll_connected,
};
use crate::clock::{self, Moment};
use crate::sys::connect::ConnectStatus;
use crate::upstream::endpoint::Candidate;

/// One call of `Dialer::dial`.
pub(super) struct Race<'a> {
    connector: &'a Connector,
    candidates: &'a [Candidate],
    client_data: ClientData,
    report: &'a mut dyn FnMut(Attempt),
    began: Moment,
    /// Index of the next candidate to start.
    next: usize,
    /// Started and not finished. Holds more than one only while hedging.
    in_flight: Vec<InFlight>,
    /// When the next candidate starts though one is under way.
    stagger: Option<Instant>,
    hedged: bool,
    /// The last failure that is not a local one, or the first local one.
    failed: Option<(usize, ConnectOutcome)>,
}

struct InFlight {
    index: usize,
    hedge: bool,
    started: Moment,
    deadline: Instant,
    stream: TcpStream,
}

enum RaceEvent {
    Connected(usize),
    Failed(usize, ConnectOutcome),
    /// The stagger has passed.
    StaggerOver,
}

// === impl Race ===

impl<'a> Race<'a> {
    pub(super) fn new(
        connector: &'a Connector,
        candidates: &'a [Candidate],
        client_data: ClientData,
        report: &'a mut dyn FnMut(Attempt),
    ) -> Self {
        Self {
            connector,
            candidates,
            client_data,
            report,
            began: clock::now(),
            next: 0,
            in_flight: Vec::new(),
            stagger: None,
            hedged: false,
            failed: None,
        }
    }

    pub(super) async fn run(mut self) -> Result<Dialed, Error> {
        loop {
            let due = self.stagger.is_some_and(|at| at <= Instant::now());
            if self.in_flight.is_empty() || due {
                if let Some(won) = self.start_next() {
                    return Ok(won);
                }
                if self.in_flight.is_empty() && self.next == self.candidates.len() {
                    return Err(self.error());
                }
                continue;
            }
            match self.next_event().await {
                RaceEvent::Connected(index) => return Ok(self.win(index)),
                RaceEvent::Failed(index, outcome) => {
                    let in_flight = self.in_flight.swap_remove(index);
                    drop(in_flight.stream);
                    self.fail(in_flight.index, in_flight.hedge, in_flight.started, outcome);
                    self.stagger = (self.next < self.candidates.len()).then(Instant::now);
                }
                RaceEvent::StaggerOver => {}
            }
        }
    }

    /// Starts the next candidate, if there is one. `Some` when it is connected at once.
    fn start_next(&mut self) -> Option<Dialed> {
        self.stagger = None;
        let index = self.next;
        let candidate = self.candidates.get(index)?;
        let hedge = !self.in_flight.is_empty();
        self.next += 1;
        self.hedged |= hedge;
        let started = clock::now();
        match self
            .connector
            .start(candidate.address.socket, self.client_data)
        {
            Ok((stream, ConnectStatus::Connected)) => Some(self.won(index, hedge, started, stream)),
            Ok((stream, ConnectStatus::Waiting)) => {
                self.in_flight.push(InFlight {
                    index,
                    hedge,
                    started,
                    deadline: Instant::now() + self.connector.settings.connect_timeout,
                    stream,
                });
                if self.next < self.candidates.len() {
                    let stagger = self.connector.stagger(candidate);
                    self.stagger = stagger.map(|stagger| Instant::now() + stagger);
                }
                None
            }
            Err(outcome) => {
                self.fail(index, hedge, started, outcome);
                if self.next < self.candidates.len() {
                    self.stagger = Some(Instant::now());
                }
                None
            }
        }
    }

    async fn next_event(&mut self) -> RaceEvent {
        let deadlines = self.in_flight.iter().map(|in_flight| in_flight.deadline);
        let wake = deadlines.chain(self.stagger).min();
        let poll_all = poll_fn(|cx| {
            for (index, in_flight) in self.in_flight.iter().enumerate() {
                let to = self.candidates[in_flight.index].address.socket;
                if let Poll::Ready(ended) = poll_connected(&in_flight.stream, to, cx) {
                    return Poll::Ready(match ended {
                        Ok(()) => RaceEvent::Connected(index),
                        Err(outcome) => RaceEvent::Failed(index, outcome),
                    });
                }
            }
            Poll::Pending
        });
        let happened = match wake {
            Some(wake) => tokio::time::timeout_at(wake, poll_all).await.ok(),
            None => Some(poll_all.await),
        };
        let now = Instant::now();
        happened
            .or_else(|| {
                let late = self
                    .in_flight
                    .iter()
                    .position(|in_flight| in_flight.deadline <= now);
                late.map(|index| RaceEvent::Failed(index, ConnectOutcome::Timeout))
            })
            .unwrap_or(RaceEvent::StaggerOver)
    }

    fn win(&mut self, index: usize) -> Dialed {
        let winner = self.in_flight.swap_remove(index);
        self.won(winner.index, winner.hedge, winner.started, winner.stream)
    }

    /// Closes the losers, then reports the winner.
    fn won(&mut self, index: usize, hedge: bool, started: Moment, stream: TcpStream) -> Dialed {
        for loser in std::mem::take(&mut self.in_flight) {
            let later = loser.index < index;
            drop(loser.stream);
            self.report(
                loser.index,
                loser.hedge,
                loser.started,
                ConnectOutcome::LostRace { later },
            );
        }
        self.report(index, hedge, started, ConnectOutcome::Ok);
        Dialed {
            stream,
            candidate: self.candidates[index].clone(),
            attempts: self.next as u32,
            hedged: self.hedged,
            took: clock::now().since(self.began),
            warm: false,
        }
    }

    fn fail(&mut self, index: usize, hedge: bool, started: Moment, outcome: ConnectOutcome) {
        let ours = matches!(outcome, ConnectOutcome::Local(_));
        if self.failed.is_none() || !ours {
            self.failed = Some((index, outcome.clone()));
        }
        self.report(index, hedge, started, outcome);
    }

    fn report(&mut self, index: usize, hedge: bool, started: Moment, outcome: ConnectOutcome) {
        (self.report)(Attempt {
            candidate: self.candidates[index].clone(),
            started,
            took: clock::now().since(started),
            hedge,
            outcome,
        });
    }

    fn error(&mut self) -> Error {
        let Some((index, outcome)) = self.failed.take() else {
            return Error::NoCandidate;
        };
        let candidate = &self.candidates[index];
        Error::Failed {
            endpoint: candidate.endpoint.name().clone(),
            socket: candidate.address.socket,
            outcome,
        }
    }
}
