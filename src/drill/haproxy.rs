//! HAProxy before the same mock zones, as the subject of the same drill.
//!
//! What an entryway plays inside itself the mocks and their DNS server do here. HAProxy gets the check times that the
//! entryway beside it has, HTTP checks, passive checks, sessions that end with their server, and the same names; how long
//! it keeps an address that it is not told any more is its own default.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::embedded::{Mocks, NameAnswers, OWN, host};
use super::{DrillPlan, DrillSubject, DrillView, Error};
use crate::faults::{DrillKind, FLAP, SLOW_BY};
use crate::mock::ZoneMode;
use crate::sys::private_folder::PrivateFolder;
use crate::sys::process::lead_group_and_die_with_parent;

/// Looked for on PATH.
const PROGRAM: &str = "haproxy";

/// It is there within this time, or does not start.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// A running HAProxy; it ends when this is dropped.
#[derive(Debug)]
pub struct HaProxy<'a> {
    mocks: &'a Mocks,
    address: SocketAddr,
    version: String,
    /// Requests of each other zone when the fault was set.
    before: HashMap<String, u64>,
    flap: Option<Instant>,
    is_down: bool,
    process: Child,
    folder: PrivateFolder,
}

/// Why this kind cannot be played to HAProxy, where it cannot.
pub const fn not_played(kind: DrillKind) -> Option<&'static str> {
    match kind {
        DrillKind::Sleep => Some(
            "HAProxy is not drilled beside it: only the clock of this entryway jumps, and another program's cannot be \
             moved from here; stopping HAProxy for as long would hold up its requests, which the drill does not do to \
             entryway",
        ),
        _ => None,
    }
}

// === impl HaProxy ===

impl<'a> HaProxy<'a> {
    /// Starts one before the zones; returns once it has found them healthy.
    pub async fn start(mocks: &'a Mocks) -> Result<Self, Error> {
        let cannot = |what: String| Error::Cannot {
            what,
            next: "apt-get install haproxy, or leave out --compare",
        };
        let version = version()
            .await
            .map_err(|error| cannot(format!("haproxy cannot be run: {error}")))?;
        let failed = |error: std::io::Error| cannot(format!("start haproxy: {error}"));
        let folder = PrivateFolder::new("drill").map_err(failed)?;
        // The port is taken here and handed over, so that nobody else can have it.
        let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(
            &file,
            configuration(mocks, &folder.path().join("stats.sock")),
        )
        .map_err(failed)?;
        let log = std::fs::File::create(folder.path().join("log")).map_err(failed)?;
        let mut command = Command::new(PROGRAM);
        command
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        lead_group_and_die_with_parent(command.as_std_mut());
        let process = command.spawn().map_err(failed)?;
        let mut proxy = Self {
            mocks,
            address,
            version,
            before: HashMap::new(),
            flap: None,
            is_down: false,
            process,
            folder,
        };
        proxy.wait_until_healthy().await?;
        Ok(proxy)
    }

    /// As it calls itself: `HAProxy 2.6.12`.
    pub fn name(&self) -> String {
        self.version.clone()
    }

    async fn wait_until_healthy(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            let states = self.states().unwrap_or_default();
            if states.len() == self.mocks.mock.zones().len() && states.values().all(|up| *up) {
                return Ok(());
            }
            let has_ended = self.process.try_wait().is_ok_and(|ended| ended.is_some());
            if has_ended || began.elapsed() > STARTS_WITHIN {
                let said = std::fs::read_to_string(self.folder.path().join("log"));
                let said = said.unwrap_or_default();
                let last = said.lines().find(|line| line.contains("ALERT"));
                return Err(Error::Cannot {
                    what: format!("haproxy does not start: {}", last.unwrap_or("no answer")),
                    next: "haproxy -vv",
                });
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether each zone is up, as its statistics say.
    fn states(&self) -> std::io::Result<HashMap<String, bool>> {
        const NAME: usize = 1;
        const STATUS: usize = 17;
        let mut socket = UnixStream::connect(self.folder.path().join("stats.sock"))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        // Servers only.
        socket.write_all(b"show stat -1 4 -1\n")?;
        let mut table = String::new();
        socket.read_to_string(&mut table)?;
        let rows = table.lines().filter(|line| !line.starts_with('#'));
        Ok(rows
            .filter_map(|row| {
                let fields: Vec<&str> = row.split(',').collect();
                Some((
                    (*fields.get(NAME)?).to_owned(),
                    fields.get(STATUS)?.starts_with("UP"),
                ))
            })
            .collect())
    }

    async fn play(&self, plan: &DrillPlan, well: bool) -> Result<(), Error> {
        let names = match plan.kind {
            DrillKind::DnsFail => Some(NameAnswers::Fail),
            DrillKind::DnsEmpty => Some(NameAnswers::Empty),
            _ => None,
        };
        if let Some(answers) = names {
            let wanted = if well {
                NameAnswers::Addresses
            } else {
                answers
            };
            self.mocks.names.set(wanted);
            return Ok(());
        }
        if plan.kind == DrillKind::IdleCut {
            let zones = self.mocks.mock.zones().iter();
            let drilled = zones.filter(|zone| !well && !is_beside(plan, zone.name()));
            drilled.for_each(|zone| zone.forget_idle());
            return Ok(());
        }
        let mode = match plan.kind {
            _ if well => ZoneMode::Ok,
            DrillKind::ZoneSilent => ZoneMode::DeadSilent,
            DrillKind::ZoneSlow => ZoneMode::Slow,
            _ => ZoneMode::Dead,
        };
        for zone in self.mocks.mock.zones() {
            if is_beside(plan, zone.name()) {
                continue;
            }
            let mut behaviour = zone.behaviour();
            behaviour.slow_by = SLOW_BY;
            zone.set_behaviour(behaviour);
            zone.set_mode(mode)
                .await
                .map_err(|error| Error::Lost(format!("switch a mock zone: {error}")))?;
        }
        Ok(())
    }

    /// Requests of clients that each zone other than the drilled one has seen: the checks are GETs.
    fn others(&self, plan: &DrillPlan) -> HashMap<String, u64> {
        let zones = self.mocks.mock.zones().iter();
        zones
            .filter(|zone| is_beside(plan, zone.name()))
            .map(|zone| (zone.name().to_owned(), zone.counts().posts))
            .collect()
    }
}

impl DrillSubject for HaProxy<'_> {
    const LOOK: Duration = Duration::from_millis(5);
    const METHOD: &'static str = "POST";

    fn target(&self) -> SocketAddr {
        self.address
    }

    async fn set(&mut self, plan: &DrillPlan) -> Result<(), Error> {
        self.before = self.others(plan);
        self.is_down = true;
        self.flap = (plan.kind == DrillKind::Flap).then(Instant::now);
        self.play(plan, false).await
    }

    async fn keep(&mut self) -> Result<(), Error> {
        Ok(())
    }

    async fn clear(&mut self, plan: &DrillPlan) -> Result<(), Error> {
        self.flap = None;
        self.play(plan, true).await
    }

    async fn look(&mut self, plan: &DrillPlan) -> Result<DrillView, Error> {
        if let Some(began) = self.flap {
            let is_down = (began.elapsed().as_millis() / FLAP.as_millis()).is_multiple_of(2);
            if is_down != self.is_down {
                self.is_down = is_down;
                self.play(plan, !is_down).await?;
            }
        }
        let states = self
            .states()
            .map_err(|error| Error::Lost(format!("haproxy: {error}")))?;
        let is_down = |zone: &str| states.get(zone) == Some(&false);
        let mut zones = self.mocks.mock.zones().iter().map(|zone| zone.name());
        Ok(DrillView {
            is_down: is_down(plan.zone.as_deref().unwrap_or(OWN)),
            // The first is used, then the first of the others, in this order.
            in_use: zones.find(|zone| !is_down(zone)).map(str::to_owned),
        })
    }

    async fn zones_of(&mut self) -> Result<HashMap<u16, String>, Error> {
        Ok(HashMap::new())
    }

    async fn others_answer(&mut self, plan: &DrillPlan) -> Result<bool, Error> {
        let now = self.others(plan);
        Ok(now
            .iter()
            .any(|(zone, posts)| self.before.get(zone).is_some_and(|before| posts > before)))
    }

    async fn held(&mut self) -> Result<Option<u64>, Error> {
        Ok(None)
    }
}

/// Whether another zone than this one is drilled.
fn is_beside(plan: &DrillPlan, zone: &str) -> bool {
    plan.zone.as_deref().is_some_and(|drilled| drilled != zone)
}

async fn version() -> Result<String, String> {
    let mut command = Command::new(PROGRAM);
    let asked = command
        .arg("-v")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let answer = asked.await.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let words = text
        .split_whitespace()
        .skip_while(|word| *word != "version");
    let number = words.skip(1).flat_map(|word| word.split('-')).next();
    number
        .map(|number| format!("HAProxy {number}"))
        .ok_or_else(|| "`haproxy -v` says nothing that is understood".to_owned())
}

fn configuration(mocks: &Mocks, socket: &Path) -> String {
    let servers: String = mocks
        .mock
        .zones()
        .iter()
        .map(|zone| {
            let backup = if zone.name() == OWN { "" } else { " backup" };
            let (name, port) = (zone.name(), zone.address().port());
            format!("  server {name} {}:{port}{backup}\n", host(name))
        })
        .collect();
    format!(
        "resolvers names
  nameserver own {}
global
  stats socket {} mode 600 level operator
  maxconn 4000
defaults
  mode tcp
  timeout connect 1500ms
  timeout client 1h
  timeout server 1h
  retries 3
  option redispatch
frontend drill
  bind fd@0
  default_backend zones
backend zones
  option httpchk GET /
  http-check expect status 200
  timeout check 1s
  default-server init-addr none resolvers names resolve-prefer ipv4
  default-server check inter 5s fastinter 200ms downinter 1s fall 3 rise 2 observe layer4 error-limit 1 on-error fastinter on-marked-down shutdown-sessions
{servers}",
        mocks.names.address,
        socket.display()
    )
}
