//! The demo: mock entry points in three zones, the real proxy in front of them, clients, and two outages to watch.
//!
//! Owns the script and what is shown. Everything else is what `run` uses: the same wiring, the same sockets; only
//! some times are shorter, and it says so.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::time::{Instant, sleep, timeout_at};

use crate::app::{App, Handles, Stop};
use crate::events::Event;
use crate::mock::{Mock, Mode};
use crate::settings::Settings;
use clients::{Clients, Seen};

mod clients;

/// How long clients run before, during and after an outage.
const STEADY: Duration = Duration::from_secs(3);
const OUTAGE: Duration = Duration::from_secs(4);
/// The way back may take this long.
const FAILBACK: Duration = Duration::from_secs(6);

/// The zone that is taken down: the one the demo calls its own.
const OWN: &str = "a";

/// What went through, and what did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Requests answered.
    pub answered: u64,
    /// Requests that failed for a client.
    pub failed: u64,
}

/// Why the demo did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard output is gone.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    /// A mode could not be switched.
    #[error("switch a mock zone: {0}")]
    Mock(String),
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

/// Plays the script. With `forever` it goes on serving until a signal ends it.
pub async fn run(mock: &Mock, app: App, forever: bool) -> Result<Summary, Error> {
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
    let mut stage = Stage::new(&handles, address);
    stage.say(&format!(
        "three mock entry points, zones a b c; entryway on http://{address}, own zone {OWN}"
    ))?;
    stage.say("times are shortened for watching: probes every 0.5 s, failback after 1 s (60 s in earnest)")?;
    stage.settle().await;
    let calm = stage.act("all is well", STEADY).await?;
    let refused = stage
        .outage(mock, Mode::Refuse, "zone a refuses connections")
        .await?;
    let silent = stage
        .outage(mock, Mode::Silent, "zone a goes silent: SYNs unanswered")
        .await?;
    let seen = stage.clients.stop().await;
    let added = |outage: &Seen| outage.max().saturating_sub(calm.median());
    stage.say("")?;
    stage.say(&format!("before the outages: {}", calm.line()))?;
    stage.say(&format!(
        "zone a refused:     {}; worst request +{}",
        refused.line(),
        millis(added(&refused))
    ))?;
    stage.say(&format!(
        "zone a silent:      {}; worst request +{}",
        silent.line(),
        millis(added(&silent))
    ))?;
    let summary = Summary {
        answered: seen.answered(),
        failed: seen.failed,
    };
    stage.say(&format!(
        "{} requests answered, {} failed",
        summary.answered, summary.failed
    ))?;
    if forever {
        stage.say(&format!(
            "still serving on http://{address}; `entryway status{}` shows it",
            at(admin)
        ))?;
        if let Some(switch) = mock.admin() {
            stage.say(&format!("take a zone down: curl -X POST 'http://{switch}/zones/a?mode=silent' (ok brings it back)"))?;
        }
    } else {
        handles.stop(Stop::Request);
    }
    // A panic of the control task has been told by the runtime.
    let _ = serving.await;
    Ok(summary)
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

/// Where the script is played: clients, what is heard of the proxy, and the screen.
struct Stage {
    handles: Handles,
    clients: Clients,
    events: Receiver<Arc<Event>>,
    began: Instant,
    live: bool,
}

// === impl Stage ===

impl Stage {
    fn new(handles: &Handles, address: SocketAddr) -> Self {
        Self {
            clients: Clients::start(address),
            events: handles.events.subscribe(),
            handles: handles.clone(),
            began: Instant::now(),
            live: io::stdout().is_terminal(),
        }
    }

    /// Waits until all zones are known to be well.
    async fn settle(&self) {
        while !self
            .handles
            .upstreams
            .iter()
            .all(|upstream| upstream.view.load().healthy == 3)
        {
            sleep(Duration::from_millis(10)).await;
        }
        self.clients.begin_phase();
    }

    fn say(&self, text: &str) -> io::Result<()> {
        let mut out = anstream::stdout();
        let clear = if self.live { "\r\x1b[2K" } else { "" };
        match text {
            "" => writeln!(out, "{clear}"),
            _ => writeln!(
                out,
                "{clear}{:5.1} s  {text}",
                self.began.elapsed().as_secs_f64()
            ),
        }
    }

    /// Lets clients run for this long; what they saw.
    async fn act(&mut self, what: &str, time: Duration) -> Result<Seen, Error> {
        self.say(what)?;
        self.watch(Instant::now() + time, "").await?;
        let seen = self.clients.end_phase();
        self.say(&format!("  clients: {}", seen.line()))?;
        Ok(seen)
    }

    /// Takes the own zone down, brings it back, and waits for the failback.
    async fn outage(&mut self, mock: &Mock, mode: Mode, what: &str) -> Result<Seen, Error> {
        let switched = |error: &dyn std::fmt::Display| Error::Mock(error.to_string());
        mock.set_mode(OWN, mode)
            .await
            .map_err(|error| switched(&error))?;
        let seen = self.act(what, OUTAGE).await?;
        mock.set_mode(OWN, Mode::Ok)
            .await
            .map_err(|error| switched(&error))?;
        self.say("zone a is back; it must prove itself before it is used again")?;
        self.watch(Instant::now() + FAILBACK, "upstream.failback")
            .await?;
        self.act(
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
        let seen = self.clients.look();
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

/// What an event means to somebody who watches; `None`: nothing worth a line.
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
