//! The demo: mock entry points in three zones, the real proxy in front of them, clients, and two outages to watch.
//!
//! This module holds the script and its output. Everything else is what `run` uses: the same wiring and the same
//! sockets; only some times are shorter, and the output says so. An interruption ends the script at once, and the last
//! line tells what was done until then.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::app::{App, Handles, StopRequest};
use crate::events::Event;
use crate::mock::{Mock, ZoneMode};
use crate::settings::Settings;
use clients::{ClientStats, Clients};

mod clients;
#[cfg(feature = "gateway")]
pub mod laptop;

/// How long clients run before, during and after an outage.
const STEADY: Duration = Duration::from_secs(3);
const OUTAGE: Duration = Duration::from_secs(4);
/// How long to wait for the failback after an outage.
const FAILBACK: Duration = Duration::from_secs(6);
/// The zones are healthy within milliseconds, or never.
const HEALTHY_WITHIN: Duration = Duration::from_secs(5);

/// Limit for one request, repetition included. The Datomic client's is 60 s, too long for a demo.
const GIVE_UP: Duration = Duration::from_secs(5);

/// The zone that is taken down: the one the demo calls its own.
const OWN: &str = "a";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DemoSummary {
    pub answered: u64,
    /// Requests that failed for a client, repetition included.
    pub failed: u64,
    /// Requests that were answered when they were sent a second time.
    pub repeated: u64,
    /// Whether the script was ended by a signal.
    pub interrupted: bool,
}

/// Why the demo did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    #[error("switch a mock zone: {0}")]
    Mock(String),
    #[error("the mock zones are not healthy after {} s: is the loopback interface up (`ip link show lo`)?", HEALTHY_WITHIN.as_secs())]
    Unhealthy,
    /// A process of the laptop demo.
    #[error("{0}")]
    Process(String),
}

/// Makes times short enough to watch.
pub fn shorten(settings: &mut Settings) {
    for upstream in &mut settings.upstreams {
        upstream.health.interval = Duration::from_millis(500);
        upstream.health.down_interval = Duration::from_millis(500);
        upstream.health.timeout = Duration::from_millis(250);
        upstream.health.fall = 2;
        upstream.failback.after = Duration::from_secs(1);
        upstream.failback.dwell = Duration::from_secs(1);
        upstream.failback.ramp = Duration::from_secs(1);
    }
}

/// Plays the script. With `forever` it goes on serving until `interrupt` turns true, which ends the script as well.
pub async fn run(
    mock: &Mock,
    app: App,
    forever: bool,
    mut interrupt: watch::Receiver<bool>,
) -> Result<DemoSummary, Error> {
    let handles = app.handles().clone();
    let admin = app.admin();
    let address = handles
        .listeners
        .iter()
        .flat_map(|listener| &listener.addresses)
        .next()
        .copied();
    let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8182)));
    let serving = tokio::spawn(app.run());
    let mut script = Script::new(&handles, address);
    let played = tokio::select! {
        biased;
        () = interrupted(&mut interrupt) => None,
        played = script.play(mock, address) => Some(played),
    };
    let total = script.clients.stop().await;
    let summary = DemoSummary {
        answered: total.answered(),
        failed: total.failed,
        repeated: total.repeated,
        interrupted: played.is_none(),
    };
    let outcome = match played {
        Some(played) => played.and_then(|()| {
            script.say(&summary.to_string())?;
            if forever {
                script.say_how_to_go_on(mock, address, admin)?;
            }
            Ok(())
        }),
        None => Ok(()),
    };
    if forever && outcome.is_ok() && !summary.interrupted {
        interrupted(&mut interrupt).await;
    }
    // Clients have ended, so there is nothing to wait for.
    handles.stop(StopRequest::Now);
    // A panic of the control task has been printed by the runtime.
    let _ = serving.await;
    if *interrupt.borrow() {
        let before = if summary.interrupted {
            "stopped before the end: "
        } else {
            "stopped: "
        };
        script.say(&format!("{before}{summary}"))?;
    }
    outcome.map(|()| summary)
}

/// Returns when a signal has come; never when nobody can send one any more.
async fn interrupted(interrupt: &mut watch::Receiver<bool>) {
    if interrupt
        .wait_for(|interrupted| *interrupted)
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

fn at(admin: Option<SocketAddr>) -> String {
    match admin {
        Some(admin) if admin.port() != 8183 => format!(" --admin {admin}"),
        _ => String::new(),
    }
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// The running script: clients, the proxy's events, and the screen.
struct Script {
    handles: Handles,
    clients: Clients,
    events: Receiver<Arc<Event>>,
    began: Instant,
    live: bool,
}

/// One line with the time since the beginning. With `live` it replaces a line that is redrawn.
fn say(began: Instant, live: bool, text: &str) -> io::Result<()> {
    let mut out = anstream::stdout();
    let clear = if live { "\r\x1b[2K" } else { "" };
    match text {
        "" => writeln!(out, "{clear}"),
        _ => writeln!(
            out,
            "{clear}{:5.1} s  {text}",
            began.elapsed().as_secs_f64()
        ),
    }
}

// === impl Summary ===

impl std::fmt::Display for DemoSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            answered,
            failed,
            repeated,
            ..
        } = self;
        write!(
            f,
            "{answered} requests answered, {failed} failed, {repeated} repeated"
        )
    }
}

// === impl Script ===

impl Script {
    fn new(handles: &Handles, address: SocketAddr) -> Self {
        Self {
            clients: Clients::start(address, GIVE_UP),
            events: handles.events.subscribe(),
            handles: handles.clone(),
            began: Instant::now(),
            live: io::stdout().is_terminal(),
        }
    }

    async fn play(&mut self, mock: &Mock, address: SocketAddr) -> Result<(), Error> {
        self.say(&format!(
            "three mock entry points, zones a b c; entryway on http://{address}, own zone {OWN}"
        ))?;
        self.say("times are shortened for watching: probes every 0.5 s, failback after 1 s (default 60 s)")?;
        timeout(HEALTHY_WITHIN, self.all_healthy())
            .await
            .map_err(|_| Error::Unhealthy)?;
        let calm = self.phase("all zones are healthy", STEADY).await?;
        let dead = self
            .outage(
                mock,
                ZoneMode::Dead,
                "zone a dies: open connections are reset, new ones refused",
            )
            .await?;
        let silent = self
            .outage(
                mock,
                ZoneMode::Silent,
                "zone a goes silent: SYNs unanswered",
            )
            .await?;
        self.say("")?;
        self.say(&format!("before the outages: {}", calm.line()))?;
        for (name, outage) in [("zone a dead:   ", dead), ("zone a silent: ", silent)] {
            let added = outage.max().saturating_sub(calm.median());
            self.say(&format!(
                "{name} {}; worst request +{}",
                outage.line(),
                millis(added)
            ))?;
        }
        Ok(())
    }

    fn say_how_to_go_on(
        &self,
        mock: &Mock,
        address: SocketAddr,
        admin: Option<SocketAddr>,
    ) -> io::Result<()> {
        self.say(&format!(
            "still serving on http://{address}; `entryway status{}` shows it",
            at(admin)
        ))?;
        if let Some(switch) = mock.admin() {
            self.say(&format!(
                "take a zone down: curl -X POST 'http://{switch}/zones/a?mode=silent' (ok brings it back)"
            ))?;
        }
        Ok(())
    }

    async fn all_healthy(&self) {
        let upstreams = &self.handles.upstreams;
        while !upstreams
            .iter()
            .all(|upstream| upstream.view.load().healthy == 3)
        {
            sleep(Duration::from_millis(10)).await;
        }
        self.clients.begin_phase();
    }

    fn say(&self, text: &str) -> io::Result<()> {
        say(self.began, self.live, text)
    }

    /// Lets clients run for this long.
    async fn phase(&mut self, what: &str, time: Duration) -> Result<ClientStats, Error> {
        self.say(what)?;
        self.watch(Instant::now() + time, "").await?;
        let seen = self.clients.end_phase();
        self.say(&format!("  clients: {}", seen.line()))?;
        Ok(seen)
    }

    /// Takes the own zone down, brings it back, and waits for the failback.
    async fn outage(
        &mut self,
        mock: &Mock,
        mode: ZoneMode,
        what: &str,
    ) -> Result<ClientStats, Error> {
        let switched = |error: &dyn std::fmt::Display| Error::Mock(error.to_string());
        mock.set_mode(OWN, mode)
            .await
            .map_err(|error| switched(&error))?;
        let seen = self.phase(what, OUTAGE).await?;
        mock.set_mode(OWN, ZoneMode::Ok)
            .await
            .map_err(|error| switched(&error))?;
        self.say("zone a is back; it must answer for 1 s before it is used again")?;
        self.watch(Instant::now() + FAILBACK, "upstream.failback")
            .await?;
        self.phase(
            "failback: new connections shift over 1 s",
            Duration::from_millis(1500),
        )
        .await?;
        Ok(seen)
    }

    /// Shows what happens until the time is over, or an event of this name was seen.
    async fn watch(&mut self, until: Instant, wanted: &str) -> Result<(), Error> {
        let mut shown = Instant::now();
        loop {
            let tick = (Instant::now() + Duration::from_millis(200)).min(until);
            match timeout_at(tick, self.events.recv()).await {
                Ok(Ok(event)) => {
                    if let Some(line) = describe(&event) {
                        self.say(&line)?;
                    }
                    if event.name == wanted {
                        return Ok(());
                    }
                }
                // Lagging behind loses lines, not the outage.
                Ok(Err(_)) => {}
                Err(_) if Instant::now() >= until => return Ok(()),
                Err(_) => {}
            }
            if self.live && shown.elapsed() >= Duration::from_millis(200) {
                shown = Instant::now();
                self.show_live()?;
            }
        }
    }

    fn show_live(&self) -> io::Result<()> {
        let seen = self.clients.current();
        let zone = self
            .handles
            .upstreams
            .first()
            .and_then(|upstream| upstream.view.load().active_zone.clone());
        let mut out = anstream::stdout();
        let zone = zone.unwrap_or_default();
        write!(
            out,
            "\r\x1b[2K{:5.1} s  → zone {zone}  {}",
            self.began.elapsed().as_secs_f64(),
            seen.line()
        )?;
        out.flush()
    }
}

/// The line for an event; `None` for events that are not shown.
fn describe(event: &Event) -> Option<String> {
    let text = |key| event.text(key).unwrap_or_default().to_owned();
    match event.name {
        "endpoint.state" => Some(format!(
            "  entryway: zone {} is {} ({})",
            text("zone"),
            text("to"),
            text("reason")
        )),
        "upstream.failover" => Some(format!(
            "  entryway: failover {} → {}",
            text("from"),
            text("to")
        )),
        "upstream.failback" => Some(format!(
            "  entryway: failback {} → {}",
            text("from"),
            text("to")
        )),
        _ => None,
    }
}
