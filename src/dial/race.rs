//! The race of attempts: one at first, one more on each failure and after each stagger; the first to finish wins.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::attempt::{
    Attempt, ClientData, ConnectOutcome, Connector, Dialed, Error, poll_connected,
};
use super::hop::Reached;
use crate::clock::{self, Moment};
use crate::interference::ConnectFault;
use crate::sys::connect::ConnectStatus;
use crate::upstream::constants;
use crate::upstream::endpoint::Candidate;

/// One call of `Dialer::dial`.
pub(super) struct Race<'a> {
    connector: &'a Connector,
    candidates: &'a [Candidate],
    client_data: ClientData,
    report: &'a mut dyn FnMut(Attempt),
    began: Moment,
    /// Candidates that have not been started, by index, best first.
    waiting: VecDeque<usize>,
    started: u32,
    /// Started and not finished. Holds more than one only while hedging.
    in_flight: Vec<InFlight<'a>>,
    /// When the next candidate starts though one is under way.
    stagger: Option<Instant>,
    hedged: bool,
    /// The last failure that is not a local one, or the first local one.
    failed: Option<(usize, ConnectOutcome)>,
}

struct InFlight<'a> {
    index: usize,
    hedge: bool,
    started: Moment,
    deadline: Instant,
    /// Through a hop: when it has taken too long, which is said once.
    overdue: Option<Instant>,
    connecting: Connecting<'a>,
}

enum Connecting<'a> {
    Direct(TcpStream),
    /// Through a hop, or one that is held up.
    Opening(Pin<Box<dyn Future<Output = Result<Reached, ConnectOutcome>> + Send + 'a>>),
    /// It has ended.
    Done,
}

enum RaceEvent {
    Connected(usize, Reached),
    Failed(usize, ConnectOutcome),
    /// The stagger has passed, or an attempt is overdue.
    TimePassed,
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
            waiting: (0..candidates.len()).collect(),
            started: 0,
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
                if self.in_flight.is_empty() && self.waiting.is_empty() {
                    return Err(self.error());
                }
                continue;
            }
            match self.next_event().await {
                RaceEvent::Connected(index, reached) => return Ok(self.win(index, reached)),
                RaceEvent::Failed(index, outcome) => {
                    let in_flight = self.in_flight.swap_remove(index);
                    drop(in_flight.connecting);
                    self.fail(in_flight.index, in_flight.hedge, in_flight.started, outcome);
                    self.stagger = (!self.waiting.is_empty()).then(Instant::now);
                }
                RaceEvent::TimePassed => self.doubt_hops(),
            }
        }
    }

    /// Starts the next candidate, if there is one. `Some` when it is connected at once.
    fn start_next(&mut self) -> Option<Dialed> {
        self.stagger = None;
        let index = self.next()?;
        let candidates: &'a [Candidate] = self.candidates;
        let candidate = &candidates[index];
        let hedge = !self.in_flight.is_empty();
        self.started += 1;
        self.hedged |= hedge;
        // The first starts as the race does: one reading of the clock less for nearly every connection.
        let started = match self.started {
            1 => self.began,
            _ => clock::now(),
        };
        let socket = candidate.address.socket;
        let limit = match &candidate.address.target {
            Some(target) => self.connector.hops.limit(target),
            None => self.connector.settings.connect_timeout,
        };
        let begun = match (
            self.connector.interference.on_connect(socket),
            &candidate.address.target,
        ) {
            (Some(ConnectFault::Refused), _) => Err(ConnectOutcome::Refused),
            (Some(ConnectFault::Silent | ConnectFault::Late(_)), _) => {
                let connector = self.connector;
                Ok(Connecting::Opening(Box::pin(async move {
                    connector.connect(&candidate.address, limit).await
                })))
            }
            (None, Some(target)) => {
                let (hops, target) = (self.connector.hops.clone(), target.clone());
                Ok(Connecting::Opening(Box::pin(async move {
                    hops.open_unless_silent(&target).await
                })))
            }
            (None, None) => match self.connector.start(socket, self.client_data) {
                Ok((stream, ConnectStatus::Connected)) => {
                    return Some(self.won(index, hedge, started, Reached::directly(stream)));
                }
                Ok((stream, ConnectStatus::Waiting)) => Ok(Connecting::Direct(stream)),
                Err(outcome) => Err(outcome),
            },
        };
        let connecting = match begun {
            Ok(connecting) => connecting,
            Err(outcome) => {
                self.fail(index, hedge, started, outcome);
                if !self.waiting.is_empty() {
                    self.stagger = Some(Instant::now());
                }
                return None;
            }
        };
        self.in_flight.push(InFlight {
            index,
            hedge,
            started,
            deadline: Instant::now() + limit,
            overdue: candidate
                .address
                .target
                .as_ref()
                .map(|_| Instant::now() + overdue_after(candidate)),
            connecting,
        });
        if !self.waiting.is_empty() {
            let stagger = self.connector.stagger(candidate);
            self.stagger = stagger.map(|stagger| Instant::now() + stagger);
        }
        None
    }

    /// The next candidate: one that has answered a probe since the race began, else the best.
    fn next(&mut self) -> Option<usize> {
        let has_answered = |index: &usize| {
            let address = &self.candidates[*index].address;
            address.answered_since(self.began)
        };
        let position = self.waiting.iter().position(has_answered).unwrap_or(0);
        self.waiting.remove(position)
    }

    async fn next_event(&mut self) -> RaceEvent {
        let attempts = self.in_flight.iter();
        let times = attempts.flat_map(|attempt| [Some(attempt.deadline), attempt.overdue]);
        let wake = times.flatten().chain(self.stagger).min();
        let (in_flight, candidates) = (&mut self.in_flight, self.candidates);
        let poll_all = poll_fn(|cx| {
            for (index, attempt) in in_flight.iter_mut().enumerate() {
                let to = candidates[attempt.index].address.socket;
                if let Poll::Ready(ended) = attempt.connecting.poll(to, cx) {
                    return Poll::Ready(match ended {
                        Ok(reached) => RaceEvent::Connected(index, reached),
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
            .unwrap_or(RaceEvent::TimePassed)
    }

    /// A dead tunnel takes connections and never answers: whoever waits for it says so long before its limit.
    fn doubt_hops(&mut self) {
        let now = Instant::now();
        for attempt in &mut self.in_flight {
            if attempt.overdue.is_some_and(|at| at <= now) {
                attempt.overdue = None;
                if let Some(target) = &self.candidates[attempt.index].address.target {
                    self.connector.hops.doubt(target);
                }
            }
        }
    }

    fn win(&mut self, index: usize, reached: Reached) -> Dialed {
        let winner = self.in_flight.swap_remove(index);
        self.won(winner.index, winner.hedge, winner.started, reached)
    }

    /// Closes the losers, then reports the winner.
    fn won(&mut self, index: usize, hedge: bool, started: Moment, reached: Reached) -> Dialed {
        for loser in std::mem::take(&mut self.in_flight) {
            let later = loser.index < index;
            drop(loser.connecting);
            self.report(
                loser.index,
                loser.hedge,
                loser.started,
                clock::now(),
                ConnectOutcome::LostRace { later },
            );
        }
        let now = clock::now();
        self.report(index, hedge, started, now, ConnectOutcome::Ok);
        Dialed {
            stream: reached.stream,
            lease: reached.lease,
            candidate: self.candidates[index].clone(),
            attempts: self.started,
            hedged: self.hedged,
            took: now.since(self.began),
            at: now,
            warm: false,
        }
    }

    fn fail(&mut self, index: usize, hedge: bool, started: Moment, outcome: ConnectOutcome) {
        let ours = matches!(outcome, ConnectOutcome::Local(_) | ConnectOutcome::Hop(_));
        if self.failed.is_none() || !ours {
            self.failed = Some((index, outcome.clone()));
        }
        self.report(index, hedge, started, clock::now(), outcome);
    }

    fn report(
        &mut self,
        index: usize,
        hedge: bool,
        started: Moment,
        ended: Moment,
        outcome: ConnectOutcome,
    ) {
        (self.report)(Attempt {
            candidate: self.candidates[index].clone(),
            started,
            took: ended.since(started),
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
            address: candidate.address.to_string(),
            outcome,
        }
    }
}

/// How long an attempt through a hop may take before something seems wrong.
fn overdue_after(candidate: &Candidate) -> Duration {
    let usual = candidate.address.connects.quantile(0.99);
    constants::SILENCE_FLOOR.max(constants::ROUND_TRIPS * usual.unwrap_or_default())
}

// === impl Connecting ===

impl Connecting<'_> {
    fn poll(
        &mut self,
        to: SocketAddr,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Reached, ConnectOutcome>> {
        let ended = match self {
            Connecting::Direct(stream) => ready!(poll_connected(stream, to, cx)),
            Connecting::Opening(opening) => return opening.as_mut().poll(cx),
            Connecting::Done => return Poll::Pending,
        };
        let Connecting::Direct(stream) = std::mem::replace(self, Connecting::Done) else {
            return Poll::Pending;
        };
        Poll::Ready(ended.map(|()| Reached::directly(stream)))
    }
}
