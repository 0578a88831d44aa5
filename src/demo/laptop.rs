//! The laptop tunnel: an entryway on a "laptop", a gateway with client certificates and a tunnel command between it and
//! the mock zones, and four things that go wrong on such a path.
//!
//! Laptop, gateway and tunnel are this program, started as users start it, so that each can be killed or stopped like
//! theirs. Nothing is simulated but the zones, and SIGSTOP stands in for the lid of the laptop.

use std::io::{self, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::clients::{ClientStats, Clients};
use super::{DemoSummary, Error, interrupted};
use crate::mock::{Mock, ZoneMode};
use crate::sys::process::lead_group_and_die_with_parent;

/// Every process has started, and both hops are up, within this time or never.
const START_WITHIN: Duration = Duration::from_secs(15);
const STEADY: Duration = Duration::from_secs(1);
const OUTAGE: Duration = Duration::from_secs(2);
/// More than the 5 s from which on a late tick is no slow machine.
const SLEEP: Duration = Duration::from_secs(6);
/// What a path has to come back after its cause is gone.
const BACK_WITHIN: Duration = Duration::from_secs(8);
/// As long as a client waits. The laptop's clients sleep along with it.
const GIVE_UP: Duration = Duration::from_secs(10);
/// What a gateway that is told to end has for its connections.
const DRAIN: Duration = Duration::from_secs(1);

/// Probes and failback quick enough to watch.
const HEALTH: &str = "\
health.interval = \"500ms\"
health.down_interval = \"500ms\"
health.timeout = \"1s\"
failback.after = \"1s\"
failback.dwell = \"1s\"
failback.ramp = \"1s\"
zone = \"none\"
";

struct LaptopScript {
    began: Instant,
    live: bool,
    program: PathBuf,
    folder: PathBuf,
    gateway: SocketAddr,
    laptop: Option<Child>,
    gateway_process: Option<Child>,
    lines: mpsc::UnboundedReceiver<OutputLine>,
    out: mpsc::UnboundedSender<OutputLine>,
    clients: Option<Clients>,
}

/// A line of a process's output.
enum OutputLine {
    /// Of standard output.
    Said(String),
    /// Of the log.
    Logged(Json),
}

/// Plays the script in `folder`; an interruption ends it at once.
pub async fn run(
    mock: &Mock,
    folder: &Path,
    mut interrupt: watch::Receiver<bool>,
) -> Result<DemoSummary, Error> {
    let mut script = LaptopScript::new(folder)?;
    let played = tokio::select! {
        biased;
        () = interrupted(&mut interrupt) => None,
        played = script.play(mock) => Some(played),
    };
    let total = match &mut script.clients {
        Some(clients) => clients.stop().await,
        None => ClientStats::default(),
    };
    let summary = DemoSummary {
        answered: total.answered(),
        failed: total.failed,
        repeated: total.repeated,
        interrupted: played.is_none(),
    };
    match played {
        None => script.say(&format!("stopped before the end: {summary}"))?,
        Some(Ok(())) => script.say(&summary.to_string())?,
        Some(Err(error)) => return Err(error),
    }
    Ok(summary)
}

fn failed(what: &str, error: impl std::fmt::Display) -> Error {
    Error::Process(format!("{what}: {error}"))
}

// === impl Script ===

impl LaptopScript {
    fn new(folder: &Path) -> Result<Self, Error> {
        let (out, lines) = mpsc::unbounded_channel();
        Ok(Self {
            began: Instant::now(),
            live: io::stdout().is_terminal(),
            program: std::env::current_exe().map_err(|error| failed("find this program", error))?,
            folder: folder.to_owned(),
            gateway: free_address()?,
            laptop: None,
            gateway_process: None,
            lines,
            out,
            clients: None,
        })
    }

    async fn play(&mut self, mock: &Mock) -> Result<(), Error> {
        self.say("laptop (entryway run) → gateway (entryway gateway, TLS with client certificates) → zones a b c;")?;
        self.say(
            "beside the gateway a tunnel command, kept alive by the laptop, that speaks SOCKS5",
        )?;
        self.write_files(mock).await?;
        self.start_gateway()?;
        let address = self.start_laptop().await?;
        self.say(&format!(
            "the laptop listens on http://{address}; its path is up"
        ))?;
        self.clients = Some(Clients::start(address, GIVE_UP));

        let calm = self.phase("all is well", STEADY).await?;

        mock.set_mode("a", ZoneMode::Dead)
            .await
            .map_err(|error| failed("zone a", error))?;
        let zone = self
            .phase("zone a is lost: the gateway goes to another one", OUTAGE)
            .await?;
        mock.set_mode("a", ZoneMode::Ok)
            .await
            .map_err(|error| failed("zone a", error))?;

        self.stop_gateway().await?;
        let gateway = self
            .phase(
                "the gateway ends: the laptop goes through the tunnel",
                OUTAGE,
            )
            .await?;

        self.kill_tunnel()?;
        let tunnel = self
            .phase(
                "the tunnel command is killed as well (SIGKILL): requests wait until there is a new one",
                OUTAGE,
            )
            .await?;

        self.start_gateway()?;
        self.say("the gateway is started again")?;
        self.until("hop.up", "https://").await?;
        let back = self.phase("both ways are up", STEADY).await?;

        let sleep = self.sleep().await?;

        self.say("")?;
        for (name, seen) in [
            ("before:         ", &calm),
            ("zone lost:      ", &zone),
            ("gateway ended:  ", &gateway),
            ("tunnel killed:  ", &tunnel),
            ("both back:      ", &back),
            ("slept 6 s:      ", &sleep),
        ] {
            self.say(&format!("{name}{}", seen.line()))?;
        }
        Ok(())
    }

    /// Certificates, and the settings of both sides.
    async fn write_files(&self, mock: &Mock) -> Result<(), Error> {
        let folder = self.folder.display().to_string();
        for words in [
            &["cert", "ca", "--out", &folder][..],
            &["cert", "server", "--ca", &folder, "--dns", "gateway.demo"],
            &[
                "cert",
                "client",
                "--ca",
                &folder,
                "--identity",
                "laptop.demo",
            ],
        ] {
            let ended = self.command(words).output().await;
            let ended = ended.map_err(|error| failed("entryway cert", error))?;
            if !ended.status.success() {
                let said = String::from_utf8_lossy(&ended.stderr);
                return Err(failed("entryway cert", said.trim()));
            }
        }
        let zones: String = mock
            .zones()
            .iter()
            .map(|zone| {
                let (name, address) = (zone.name(), zone.address());
                format!("[[upstream.endpoint]]\nname = \"{name}\"\naddress = \"{address}\"\n")
            })
            .collect();
        let common = "admin.bind = \"off\"\nadmin.control = \"off\"\nlog.format = \"json\"\n";
        let file = |name: &str| format!("{folder}/{name}");
        let gateway = format!(
            "{common}shutdown.max_delay = \"{}s\"\n[gateway]\nbind = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n\
             client_ca = \"{}\"\n[[upstream]]\n{HEALTH}{zones}",
            DRAIN.as_secs(),
            self.gateway,
            file("gateway.demo.pem"),
            file("gateway.demo.key"),
            file("ca.pem"),
        );
        let zone_flags: Vec<String> = mock
            .zones()
            .iter()
            .map(|zone| format!("--endpoint={}?name={}", zone.address(), zone.name()))
            .collect();
        let mut tunnel = vec![
            "sh".to_owned(),
            "-c".to_owned(),
            "echo $$ > \"$0\"; exec \"$@\"".to_owned(),
            file("tunnel.pid"),
            self.program.display().to_string(),
        ];
        tunnel.extend(
            [
                "run",
                "--listen",
                "127.0.0.1:%l",
                "--front",
                "socks",
                "--admin",
                "off",
                "--control",
                "off",
            ]
            .map(str::to_owned),
        );
        tunnel.extend(zone_flags);
        let laptop = format!(
            "profile = \"laptop\"\n{common}[[listener]]\nbind = [\"127.0.0.1:0\"]\nfront = \"tcp\"\n[[upstream]]\n{HEALTH}\
             [[upstream.endpoint]]\nname = \"gateway\"\naddress = \"a:8182\"\n\
             via = {{ url = \"https://{}\", ca = \"{}\", cert = \"{}\", key = \"{}\", server_name = \"gateway.demo\" }}\n\
             [[upstream.endpoint]]\nname = \"tunnel\"\naddress = \"b:8182\"\nvia = {{ supervise = {} }}\n",
            self.gateway,
            file("ca.pem"),
            file("laptop.demo.pem"),
            file("laptop.demo.key"),
            Json::from(tunnel),
        );
        for (name, text) in [("gateway.toml", gateway), ("laptop.toml", laptop)] {
            std::fs::write(file(name), text).map_err(|error| failed(name, error))?;
        }
        Ok(())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ENTRYWAY_") {
                command.env_remove(name);
            }
        }
        lead_group_and_die_with_parent(command.as_std_mut());
        command
    }

    fn start_gateway(&mut self) -> Result<(), Error> {
        let file = self.folder.join("gateway.toml").display().to_string();
        // What the gateway says of itself is not shown.
        let child = self
            .command(&["gateway", "--config", &file])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.gateway_process = Some(child.map_err(|error| failed("the gateway", error))?);
        Ok(())
    }

    async fn start_laptop(&mut self) -> Result<SocketAddr, Error> {
        let file = self.folder.join("laptop.toml").display().to_string();
        let child = self.command(&["run", "--config", &file]).spawn();
        let mut child = child.map_err(|error| failed("the laptop", error))?;
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(read(stdout, self.out.clone(), false));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(read(stderr, self.out.clone(), true));
        }
        self.laptop = Some(child);
        let mut address = None;
        let mut up = Vec::new();
        let until = Instant::now() + START_WITHIN;
        while address.is_none() || up.len() < 2 {
            let line = timeout_at(until, self.lines.recv()).await;
            let line = line.map_err(|_late| {
                Error::Process(format!(
                    "the laptop's path is not up after {} s (hops up: {up:?})",
                    START_WITHIN.as_secs()
                ))
            })?;
            match line {
                Some(OutputLine::Said(line)) => address = listening(&line).or(address),
                Some(OutputLine::Logged(event)) => {
                    if event["event"] == "hop.up" {
                        up.push(event["hop"].as_str().unwrap_or_default().to_owned());
                    }
                    self.tell(&event)?;
                }
                None => return Err(Error::Process("the laptop has ended".to_owned())),
            }
        }
        address.ok_or_else(|| Error::Process("the laptop does not listen".to_owned()))
    }

    async fn stop_gateway(&mut self) -> Result<(), Error> {
        let Some(mut child) = self.gateway_process.take() else {
            return Ok(());
        };
        self.say("the gateway is told to end (SIGTERM)")?;
        signal(child.id(), Signal::TERM);
        let ended = timeout(DRAIN + Duration::from_secs(3), child.wait()).await;
        ended
            .map_err(|_late| Error::Process("the gateway does not end".to_owned()))?
            .map_err(|error| failed("the gateway", error))?;
        Ok(())
    }

    fn kill_tunnel(&self) -> Result<(), Error> {
        let text = std::fs::read_to_string(self.folder.join("tunnel.pid"))
            .map_err(|error| failed("the tunnel command", error))?;
        signal(text.trim().parse().ok(), Signal::KILL);
        Ok(())
    }

    /// Stops the laptop for a while, as its lid does.
    async fn sleep(&mut self) -> Result<ClientStats, Error> {
        let laptop = self.laptop.as_ref().and_then(Child::id);
        signal(laptop, Signal::STOP);
        self.say("the laptop sleeps for 6 s (SIGSTOP)")?;
        sleep(SLEEP).await;
        signal(laptop, Signal::CONT);
        self.until("wake", ": ").await?;
        self.phase("it is awake", STEADY).await
    }

    /// Lets the clients run for this long.
    async fn phase(&mut self, what: &str, time: Duration) -> Result<ClientStats, Error> {
        self.say(what)?;
        self.watch(Instant::now() + time, None).await?;
        let seen = self.clients.as_ref().map(Clients::end_phase);
        let seen = seen.unwrap_or_default();
        self.say(&format!("  clients: {}", seen.line()))?;
        Ok(seen)
    }

    /// Waits for an event whose hop or message has this text.
    async fn until(&mut self, event: &str, text: &str) -> Result<(), Error> {
        let until = Instant::now() + BACK_WITHIN;
        match self.watch(until, Some((event, text))).await? {
            true => Ok(()),
            false => Err(Error::Process(format!(
                "no {event} of the laptop within {} s",
                BACK_WITHIN.as_secs()
            ))),
        }
    }

    /// Shows what happens until the time is over or the event was seen.
    async fn watch(&mut self, until: Instant, wanted: Option<(&str, &str)>) -> Result<bool, Error> {
        loop {
            let line = tokio::select! {
                line = self.lines.recv() => line,
                () = sleep_until(until) => return Ok(false),
            };
            match line {
                Some(OutputLine::Logged(event)) => {
                    self.tell(&event)?;
                    let is_wanted = |(name, text): (&str, &str)| {
                        let has = |key: &str| {
                            event[key]
                                .as_str()
                                .is_some_and(|value| value.contains(text))
                        };
                        event["event"] == name && (has("hop") || has("message"))
                    };
                    if wanted.is_some_and(is_wanted) {
                        return Ok(true);
                    }
                }
                Some(OutputLine::Said(_)) => {}
                None => return Err(Error::Process("the laptop has ended".to_owned())),
            }
        }
    }

    fn tell(&self, event: &Json) -> io::Result<()> {
        match describe(event) {
            Some(line) => self.say(&line),
            None => Ok(()),
        }
    }

    fn say(&self, text: &str) -> io::Result<()> {
        super::say(self.began, self.live, text)
    }
}

/// An event of the laptop, for people; `None` for those that are not shown.
fn describe(event: &Json) -> Option<String> {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    // A command is named by its program.
    let hop = match text("hop") {
        hop if hop.starts_with("https") => "the gateway",
        _ => "the tunnel command",
    };
    match text("event") {
        "hop.up" => Some(format!("  laptop: {hop} is up")),
        "hop.down" => Some(format!("  laptop: {hop} is down ({})", text("error"))),
        "hop.restart" => Some(format!(
            "  laptop: {hop} is started again ({})",
            text("reason")
        )),
        "upstream.failover" | "upstream.failback" => Some(format!(
            "  laptop: new connections go through {}",
            text("to")
        )),
        "wake" if text("why").is_empty() => Some(format!("  laptop: {}", text("message"))),
        _ => None,
    }
}

/// The address of a line `listening http://ADDRESS → …`.
fn listening(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening http://")?;
    rest.split(' ').next()?.parse().ok()
}

/// Hands on every line until the end.
async fn read(from: impl AsyncRead + Unpin, out: mpsc::UnboundedSender<OutputLine>, is_log: bool) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line = match is_log {
            true => serde_json::from_str(&line).map(OutputLine::Logged).ok(),
            false => Some(OutputLine::Said(line)),
        };
        if let Some(line) = line
            && out.send(line).is_err()
        {
            return;
        }
    }
}

/// A process that has ended meanwhile needs no signal.
fn signal(pid: Option<u32>, signal: Signal) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// A port of our own for the gateway, which must get the same one after its restart.
fn free_address() -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address.map_err(|error| failed("a port for the gateway", error))
}
