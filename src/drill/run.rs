//! One drill, from the first request before the fault to the return of its zone.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::measure::Seen;
use super::report::DrillReport;
use super::{DrillPlan, DrillSubject, DrillView, Error, Interrupt, Tell, Times};
use crate::clock;
use crate::load::{self, LoadPlan, LoadTarget, Pace, Samples, Stop, Workload};

/// Requests before the fault: what is usual.
const BEFORE: Duration = Duration::from_secs(2);

/// Requests after it, at least.
const AFTER: Duration = Duration::from_secs(1);

/// How often the drill says that it is alive.
const ALIVE: Duration = Duration::from_secs(1);

/// The look at a subject while nothing but its return is waited for.
const CALM_LOOK: Duration = Duration::from_millis(50);

/// While the first answer from another zone has not been seen, connections are asked for this often.
const ZONES: Duration = Duration::from_millis(50);

/// A rate that one thread sends without effort.
const ONE_THREAD: f64 = 5_000.0;

/// Longer than any drill.
const ENDLESS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Under way.
struct DrillRun<'a, S> {
    plan: &'a DrillPlan,
    subject: &'a mut S,
    tell: &'a mut dyn Tell,
    began: Instant,
    /// When it was last said that the drill is under way.
    claimed: Instant,
    times: Times,
    seen: Seen,
    samples: Samples,
    looked_for_zones: Option<Instant>,
}

/// Our own requests.
struct DrillLoad {
    stop: Stop,
    ended: oneshot::Receiver<std::io::Result<u64>>,
}

/// Runs it. The fault is taken back whatever happens, an interruption included.
///
/// # Errors
///
/// The subject cannot be drilled, or was lost on the way.
pub async fn run<S: DrillSubject>(
    plan: &DrillPlan,
    subject: &mut S,
    tell: &mut dyn Tell,
    interrupt: Interrupt,
) -> Result<DrillReport, Error> {
    subject.claim().await?;
    let outcome = run_claimed(plan, subject, tell, interrupt).await;
    subject.release().await;
    outcome
}

async fn run_claimed<S: DrillSubject>(
    plan: &DrillPlan,
    subject: &mut S,
    tell: &mut dyn Tell,
    mut interrupt: Interrupt,
) -> Result<DrillReport, Error> {
    let samples = Samples::default();
    let load = match plan.rate > 0.0 {
        true => Some(DrillLoad::start(plan, subject, &samples)?),
        false => None,
    };
    let now = clock::now();
    let mut drill = DrillRun {
        plan,
        subject,
        tell,
        began: Instant::now(),
        claimed: Instant::now(),
        times: Times {
            began: now,
            ..Times::default()
        },
        seen: Seen::default(),
        samples,
        looked_for_zones: None,
    };
    let outcome = tokio::select! {
        biased;
        () = interrupted(&mut interrupt) => Ok(true),
        outcome = drill.play(load.is_some()) => outcome.map(|()| false),
    };
    let was_set = drill.times.set != clock::Moment::default();
    let is_set = was_set && drill.times.cleared == clock::Moment::default();
    if is_set {
        if let Err(error) = drill.subject.clear(plan).await {
            drill.say(&format!("the fault ends by itself within 5 s: {error}"));
        }
        drill.times.cleared = clock::now();
    }
    let interrupted = outcome?;
    if let Some(load) = load {
        drill.seen.skipped = load.end(interrupted).await?;
    }
    drill.times.ended = clock::now();
    let late = drill.samples.take();
    drill.seen.samples.extend(late);
    if let (Some(before), Ok(Some(after))) = (drill.seen.held, drill.subject.held().await) {
        drill.seen.held = Some(after.saturating_sub(before));
    }
    Ok(DrillReport::new(plan, drill.times, drill.seen, interrupted))
}

/// Returns when the drill is to end at once; never when nobody can say so any more.
async fn interrupted(interrupt: &mut Interrupt) {
    if interrupt.wait_for(|asked| *asked).await.is_err() {
        std::future::pending::<()>().await;
    }
}

// === impl DrillRun ===

impl<S: DrillSubject> DrillRun<'_, S> {
    async fn play(&mut self, has_load: bool) -> Result<(), Error> {
        let plan = self.plan;
        if has_load {
            self.say(&format!(
                "{} requests a second to {}",
                plan.rate,
                self.subject.target()
            ));
            sleep(BEFORE).await;
            self.seen.samples.extend(self.samples.take());
            let answered = self.seen.samples.iter().any(|one| one.error.is_none());
            if !answered {
                let mut errors = self.seen.samples.iter().filter_map(|one| one.error.clone());
                let why = errors.next_back().unwrap_or_else(|| "no answer".to_owned());
                return Err(Error::Cannot {
                    what: format!(
                        "no request is answered at {} even without a fault: {why}",
                        self.subject.target()
                    ),
                    next: "entryway doctor",
                });
            }
        }
        self.seen.held = self.subject.held().await?;
        self.times.set = clock::now();
        if let Err(error) = self.subject.set(plan).await {
            self.times.set = clock::Moment::default();
            return Err(error);
        }
        self.say(&match &plan.zone {
            Some(zone) => format!("{} in zone {zone}", plan.kind),
            None => plan.kind.to_string(),
        });
        self.stand().await?;
        self.subject.clear(plan).await?;
        self.times.cleared = clock::now();
        self.say("the fault is over");
        self.wait_for_return().await
    }

    /// While the fault stands.
    async fn stand(&mut self) -> Result<(), Error> {
        let until = Instant::now() + self.plan.length;
        let mut alive = Instant::now();
        while Instant::now() < until {
            self.look().await?;
            if alive.elapsed() >= ALIVE {
                alive = Instant::now();
                self.subject.keep().await?;
            }
            sleep(S::LOOK.min(until.saturating_duration_since(Instant::now()))).await;
        }
        self.look().await.map(drop)
    }

    /// Until new connections go to the zone again, if they have left it.
    async fn wait_for_return(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        let mut said = false;
        loop {
            let view = self.look().await?;
            let is_back = match (&self.plan.zone, self.seen.has_left) {
                (Some(zone), true) => view.in_use.as_ref() == Some(zone),
                _ => true,
            };
            if is_back {
                if self.seen.has_left && self.seen.failback.is_none() {
                    self.seen.failback = Some(clock::now());
                    self.say("new connections go to the zone again");
                }
                if began.elapsed() >= AFTER {
                    return Ok(());
                }
            } else if began.elapsed() >= self.plan.patience {
                self.say("the zone is not used again yet");
                return Ok(());
            } else if !said && began.elapsed() >= AFTER {
                said = true;
                let most = crate::duration::show(self.plan.patience);
                self.say(&format!(
                    "waiting for the return to the zone, {most} at most"
                ));
            }
            sleep(CALM_LOOK).await;
        }
    }

    async fn look(&mut self) -> Result<DrillView, Error> {
        if self.claimed.elapsed() >= ALIVE {
            self.claimed = Instant::now();
            self.subject.claim().await?;
        }
        let asked = clock::now();
        let view = self.subject.look(self.plan).await?;
        let now = clock::now();
        if view.is_down && self.seen.detection.is_none() && self.times.cleared <= self.times.set {
            self.seen.detection = Some(asked);
            self.say("an address of the zone is marked down");
        }
        if let Some(zone) = &self.plan.zone
            && view.in_use.as_ref().is_some_and(|in_use| in_use != zone)
            && !self.seen.has_left
        {
            self.seen.has_left = true;
            let other = view.in_use.clone().unwrap_or_default();
            self.say(&format!("new connections go to zone {other}"));
        }
        self.seen.samples.extend(self.samples.take());
        self.find_first_answer(now).await?;
        Ok(view)
    }

    /// The first answer from another zone.
    async fn find_first_answer(&mut self, now: clock::Moment) -> Result<(), Error> {
        if self.seen.failover.is_some() || self.plan.zone.is_none() {
            return Ok(());
        }
        if self.subject.others_answer(self.plan).await? {
            self.seen.failover = Some(now);
            return Ok(());
        }
        // One who has been answered since, over a connection that we do not know yet.
        let is_unknown = self.seen.has_unknown_connection(self.times.set);
        let may_ask = self.looked_for_zones.is_none_or(|at| at.elapsed() >= ZONES);
        if is_unknown && may_ask {
            self.looked_for_zones = Some(Instant::now());
            let zones: HashMap<u16, String> = self.subject.zones_of().await?;
            self.seen.zones.extend(zones);
        }
        self.seen.failover = self.seen.first_other_answer(self.times.set, self.plan);
        Ok(())
    }

    fn say(&mut self, what: &str) {
        self.tell.tell(self.began.elapsed(), what);
    }
}

// === impl DrillLoad ===

impl DrillLoad {
    fn start<S: DrillSubject>(
        plan: &DrillPlan,
        subject: &S,
        samples: &Samples,
    ) -> Result<Self, Error> {
        let address = subject.target();
        let target = LoadTarget {
            authority: address.to_string(),
            addresses: vec![address],
            path: "/".to_owned(),
        };
        let plan = LoadPlan {
            workload: Workload::http(&target.authority, "/", Some(S::METHOD), 0, true),
            target,
            pace: Pace::Rate {
                per_second: plan.rate,
                poisson: false,
            },
            ramp: None,
            duration: ENDLESS,
            warmup: Duration::ZERO,
            threads: match plan.rate > ONE_THREAD {
                true => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                false => 1,
            },
            repeats_lost: true,
        };
        let (stop, samples) = (Stop::default(), samples.clone());
        let stopping = stop.clone();
        let (done, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("drill-load".to_owned())
            .spawn(move || {
                // Whoever has gone does not want to know.
                let _ = done.send(load::run_sampled(&plan, &stopping, &samples));
            })
            .map_err(cannot_send)?;
        Ok(Self { stop, ended })
    }

    /// Ends it when what is under way has ended, or at once; how many were skipped.
    async fn end(self, at_once: bool) -> Result<u64, Error> {
        let mut ended = self.ended;
        self.stop.finish();
        if !at_once {
            let longest = load::REQUEST_TIMEOUT + Duration::from_secs(1);
            if let Ok(Ok(skipped)) = timeout(longest, &mut ended).await {
                return skipped.map_err(cannot_send);
            }
        }
        self.stop.ask();
        match ended.await {
            Ok(skipped) => skipped.map_err(cannot_send),
            Err(_) => Err(Error::Lost("the load generator ended early".to_owned())),
        }
    }
}

fn cannot_send(error: std::io::Error) -> Error {
    Error::Lost(format!("start the load generator: {error}"))
}
