//! The race of attempts: one at first, one more on each failure and after each stagger; the first to finish wins.

use std::future::poll_fn;
use std::task::Poll;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::attempt::{Attempt, Dialed, Error, Opener, Opening, Outcome, poll_connected};
use crate::clock::{self, Moment};
use crate::sys::connect::Standing;
use crate::upstream::endpoint::Candidate;

/// One call of `Dialer::dial`.
pub(super) struct Race<'a> {
    opener: &'a Opener,
    candidates: &'a [Candidate],
    opening: Opening,
    report: &'a mut dyn FnMut(Attempt),
    began: Moment,
    /// Index of the next candidate to start.
    next: usize,
    /// Started and not finished. Holds more than one only while hedging.
    flying: Vec<Flying>,
    /// When the next candidate starts though one is under way.
    stagger: Option<Instant>,
    hedged: bool,
    /// The last failure that is not our own fault, or the first that is.
    failed: Option<(usize, Outcome)>,
}

struct Flying {
    place: usize,
    hedge: bool,
    started: Moment,
    deadline: Instant,
    stream: TcpStream,
}

enum Happened {
    Connected(usize),
    Failed(usize, Outcome),
    /// The stagger is over.
    Due,
}

// === impl Race ===

impl<'a> Race<'a> {
    pub(super) fn new(
        opener: &'a Opener,
        candidates: &'a [Candidate],
        opening: Opening,
        report: &'a mut dyn FnMut(Attempt),
    ) -> Self {
        Self {
            opener,
            candidates,
            opening,
            report,
            began: clock::now(),
            next: 0,
            flying: Vec::new(),
            stagger: None,
            hedged: false,
            failed: None,
        }
    }

    pub(super) async fn run(mut self) -> Result<Dialed, Error> {
        loop {
            let due = self.stagger.is_some_and(|at| at <= Instant::now());
            if self.flying.is_empty() || due {
                if let Some(won) = self.start_next() {
                    return Ok(won);
                }
                if self.flying.is_empty() && self.next == self.candidates.len() {
                    return Err(self.error());
                }
                continue;
            }
            match self.happens().await {
                Happened::Connected(index) => return Ok(self.win(index)),
                Happened::Failed(index, outcome) => {
                    let flying = self.flying.swap_remove(index);
                    drop(flying.stream);
                    self.fail(flying.place, flying.hedge, flying.started, outcome);
                    self.stagger = (self.next < self.candidates.len()).then(Instant::now);
                }
                Happened::Due => {}
            }
        }
    }

    /// Starts the next candidate, if there is one. `Some` when it is connected at once.
    fn start_next(&mut self) -> Option<Dialed> {
        self.stagger = None;
        let place = self.next;
        let candidate = self.candidates.get(place)?;
        let hedge = !self.flying.is_empty();
        self.next += 1;
        self.hedged |= hedge;
        let started = clock::now();
        match self.opener.start(candidate.address.socket, self.opening) {
            Ok((stream, Standing::Connected)) => Some(self.won(place, hedge, started, stream)),
            Ok((stream, Standing::Waiting)) => {
                self.flying.push(Flying {
                    place,
                    hedge,
                    started,
                    deadline: Instant::now() + self.opener.settings.connect_timeout,
                    stream,
                });
                if self.next < self.candidates.len() {
                    let stagger = self.opener.stagger(candidate);
                    self.stagger = stagger.map(|stagger| Instant::now() + stagger);
                }
                None
            }
            Err(outcome) => {
                self.fail(place, hedge, started, outcome);
                if self.next < self.candidates.len() {
                    self.stagger = Some(Instant::now());
                }
                None
            }
        }
    }

    /// Waits for the first thing to happen.
    async fn happens(&mut self) -> Happened {
        let deadlines = self.flying.iter().map(|flying| flying.deadline);
        let wake = deadlines.chain(self.stagger).min();
        let poll_all = poll_fn(|cx| {
            for (index, flying) in self.flying.iter().enumerate() {
                let to = self.candidates[flying.place].address.socket;
                if let Poll::Ready(ended) = poll_connected(&flying.stream, to, cx) {
                    return Poll::Ready(match ended {
                        Ok(()) => Happened::Connected(index),
                        Err(outcome) => Happened::Failed(index, outcome),
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
                let late = self.flying.iter().position(|flying| flying.deadline <= now);
                late.map(|index| Happened::Failed(index, Outcome::Timeout))
            })
            .unwrap_or(Happened::Due)
    }

    fn win(&mut self, index: usize) -> Dialed {
        let winner = self.flying.swap_remove(index);
        self.won(winner.place, winner.hedge, winner.started, winner.stream)
    }

    /// Closes the losers, then reports the winner.
    fn won(&mut self, place: usize, hedge: bool, started: Moment, stream: TcpStream) -> Dialed {
        for loser in std::mem::take(&mut self.flying) {
            let later = loser.place < place;
            drop(loser.stream);
            self.tell(
                loser.place,
                loser.hedge,
                loser.started,
                Outcome::LostRace { later },
            );
        }
        self.tell(place, hedge, started, Outcome::Ok);
        Dialed {
            stream,
            candidate: self.candidates[place].clone(),
            attempts: self.next as u32,
            hedged: self.hedged,
            took: clock::now().since(self.began),
            warm: false,
        }
    }

    fn fail(&mut self, place: usize, hedge: bool, started: Moment, outcome: Outcome) {
        let ours = matches!(outcome, Outcome::Local(_));
        if self.failed.is_none() || !ours {
            self.failed = Some((place, outcome.clone()));
        }
        self.tell(place, hedge, started, outcome);
    }

    fn tell(&mut self, place: usize, hedge: bool, started: Moment, outcome: Outcome) {
        (self.report)(Attempt {
            candidate: self.candidates[place].clone(),
            started,
            took: clock::now().since(started),
            hedge,
            outcome,
        });
    }

    fn error(&mut self) -> Error {
        let Some((place, outcome)) = self.failed.take() else {
            return Error::NoCandidate;
        };
        let candidate = &self.candidates[place];
        Error::Failed {
            endpoint: candidate.endpoint.name().clone(),
            socket: candidate.address.socket,
            outcome,
        }
    }
}
