//! The lab: one network namespace per zone, a router between, faults on its routes. Everything lives in the private
//! network and mount namespaces of this process and goes with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

/// Zones of the lab; each is one host.
pub const ZONES: [&str; 3] = ["a", "b", "c"];

/// The port of every entry point, as in the real thing.
pub const PORT: u16 = 8182;

/// The address of a zone's entry point.
pub fn address(zone: &str) -> String {
    let place = ZONES
        .iter()
        .position(|known| *known == zone)
        .expect("a zone of the lab")
        + 1;
    format!("10.77.{place}.2")
}

/// Runs a command to its end; the lab is useless when one fails, so that is a failure of the run.
pub fn sh(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Builds namespaces, links and routes.
pub fn build() {
    sh("mount -t tmpfs tmpfs /run");
    std::fs::create_dir_all("/run/netns").expect("a writable /run");
    sh("ip link set lo up");
    sh("ip netns add r");
    sh("ip netns exec r sysctl -qw net.ipv4.ip_forward=1");
    sh("ip -n r link set lo up");
    link("", "10.77.0");
    sh("ip route add default via 10.77.0.1");
    for (place, zone) in ZONES.iter().enumerate() {
        sh(&format!("ip netns add {zone}"));
        sh(&format!("ip -n {zone} link set lo up"));
        link(zone, &format!("10.77.{}", place + 1));
        sh(&format!(
            "ip -n {zone} route add default via 10.77.{}.1",
            place + 1
        ));
    }
}

/// A veth pair from the router (.1) to a host (.2); the empty name is this process's own namespace.
fn link(host: &str, net: &str) {
    let (near, far) = (format!("r-{host}"), format!("h-{host}"));
    sh(&format!("ip link add {near} type veth peer name {far}"));
    sh(&format!("ip link set {near} netns r"));
    let at = if host.is_empty() {
        String::new()
    } else {
        format!("-n {host} ")
    };
    if !host.is_empty() {
        sh(&format!("ip link set {far} netns {host}"));
    }
    sh(&format!("ip -n r addr add {net}.1/24 dev {near}"));
    sh(&format!("ip -n r link set {near} up"));
    sh(&format!("ip {at}addr add {net}.2/24 dev {far}"));
    sh(&format!("ip {at}link set {far} up"));
}

/// What can be done to a zone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The entry point's listening socket is gone.
    Refuse,
    /// The router answers "unreachable".
    Unreachable,
    /// The router drops everything.
    BlackHole,
    /// The process is stopped: the kernel accepts, nobody answers.
    Freeze,
}

impl Fault {
    /// Does it.
    pub fn begin(self, lab: &Lab, zone: &str) {
        match self {
            Fault::Refuse => lab.mode(zone, "refuse"),
            Fault::Unreachable => sh(&format!(
                "ip -n r route add unreachable {}/32",
                address(zone)
            )),
            Fault::BlackHole => sh(&format!("ip -n r route add blackhole {}/32", address(zone))),
            Fault::Freeze => lab.signal(zone, "STOP"),
        }
    }

    /// Undoes it.
    pub fn end(self, lab: &Lab, zone: &str) {
        match self {
            Fault::Refuse => lab.mode(zone, "ok"),
            Fault::Unreachable => sh(&format!(
                "ip -n r route del unreachable {}/32",
                address(zone)
            )),
            Fault::BlackHole => sh(&format!("ip -n r route del blackhole {}/32", address(zone))),
            Fault::Freeze => lab.signal(zone, "CONT"),
        }
    }
}

/// The running entry points.
#[derive(Debug)]
pub struct Lab {
    mocks: Vec<Process>,
}

impl Lab {
    /// Starts one entry point per zone.
    pub fn start() -> Self {
        let mocks = ZONES
            .iter()
            .map(|zone| {
                let address = address(zone);
                let mut command = Command::new("ip");
                command.args([
                    "netns",
                    "exec",
                    zone,
                    env!("CARGO_BIN_EXE_entryway"),
                    "mock",
                    "--zones",
                    zone,
                ]);
                command.args([
                    "--base-ip",
                    &address,
                    "--listen",
                    &format!("{address}:{PORT}"),
                ]);
                command.args(["--slow-by", "20s", "--admin", "127.0.0.1:9000"]);
                let process = Process::start(&mut command);
                process.wait_for_line("--endpoint");
                process
            })
            .collect();
        Self { mocks }
    }

    /// Switches a zone's mode, from inside its namespace: no fault of the network is in the way.
    pub fn mode(&self, zone: &str, mode: &str) {
        sh(&format!(
            "ip netns exec {zone} curl -sf -o /dev/null -X POST http://127.0.0.1:9000/zones/{zone}?mode={mode}"
        ));
    }

    fn signal(&self, zone: &str, signal: &str) {
        let place = ZONES
            .iter()
            .position(|known| *known == zone)
            .expect("a zone of the lab");
        sh(&format!("kill -{signal} {}", self.mocks[place].child.id()));
    }
}

/// A child that ends with its handle, and what it printed.
#[derive(Debug)]
pub struct Process {
    /// The child.
    pub child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts it; standard output is read line by line, standard error goes to a file of the private /run.
    pub fn start(command: &mut Command) -> Self {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let log = PathBuf::from(format!("/run/log-{number}"));
        let stderr = std::fs::File::create(&log).expect("a writable /run");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = child.stdout.take().expect("a pipe");
        let (tell, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Self { child, lines, log }
    }

    /// The next line that contains `text`.
    pub fn wait_for_line(&self, text: &str) -> String {
        let until = Instant::now() + Duration::from_secs(10);
        while let Ok(line) = self
            .lines
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            if line.contains(text) {
                return line;
            }
        }
        panic!("no line with {text:?}; standard error: {}", self.log());
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .arg("-CONT")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An entryway (or its control) in front of the three zones.
#[derive(Debug)]
pub struct Proxy {
    /// Ends with the handle.
    _process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
    admin: Option<SocketAddr>,
}

impl Proxy {
    /// `entryway run` with zone a as its own.
    pub fn entryway(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_entryway"));
        command.args([
            "run",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--control",
            "off",
            "--log-format",
            "json",
        ]);
        command.args(["--zone", "a"]);
        for zone in ZONES {
            command.args([
                "--endpoint",
                &format!("{}:{PORT}?zone={zone}", address(zone)),
            ]);
        }
        command.args(flags);
        let process = Process::start(&mut command);
        let line = process.wait_for_line("listening http://");
        let address = line
            .split("http://")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        let admin = eventually(Duration::from_secs(5), || {
            let log = process.log();
            let line = log
                .lines()
                .find(|line| line.contains("\"name\":\"admin\""))?;
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            value["address"].as_str()?.parse().ok()
        });
        let proxy = Self {
            _process: process,
            address: address.expect("an address to paste"),
            admin: Some(admin),
        };
        eventually(Duration::from_secs(10), || {
            (proxy.healthy() == 3).then_some(())
        });
        proxy
    }

    /// HAProxy with its default checks and the zones as a, then b, then c.
    pub fn haproxy() -> Option<Self> {
        let servers: String = ZONES
            .iter()
            .map(|zone| {
                let backup = if *zone == "a" { "" } else { "backup" };
                format!(" server {zone} {}:{PORT} check {backup}\n", address(zone))
            })
            .collect();
        let text = format!(
            "defaults\n mode tcp\n retries 3\n option redispatch\n timeout connect 5s\n timeout client 1h\n timeout server 1h\nlisten l\n bind 127.0.0.1:9182\n{servers}"
        );
        std::fs::write("/run/haproxy.cfg", text).ok()?;
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", "/run/haproxy.cfg"]);
        if Command::new("haproxy")
            .arg("-v")
            .stdout(Stdio::null())
            .status()
            .is_err()
        {
            return None;
        }
        let proxy = Self {
            _process: Process::start(&mut command),
            address: SocketAddr::from(([127, 0, 0, 1], 9182)),
            admin: None,
        };
        eventually(Duration::from_secs(5), || {
            request(proxy.address, Duration::from_secs(1)).ok()
        });
        Some(proxy)
    }

    /// The body of an admin path.
    pub fn admin(&self, path: &str) -> String {
        let mut stream =
            TcpStream::connect(self.admin.expect("an admin port")).expect("admin answers");
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("admin reads");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("admin answers");
        reply
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default()
    }

    /// The state of a zone's only address.
    pub fn state(&self, zone: &str) -> String {
        let value: serde_json::Value =
            serde_json::from_str(&self.admin("/v1/endpoints")).expect("JSON");
        let all = value["endpoints"].as_array().expect("endpoints");
        let endpoint = all
            .iter()
            .find(|endpoint| endpoint["zone"] == zone)
            .expect("the zone");
        endpoint["addresses"][0]["state"]
            .as_str()
            .expect("a state")
            .to_owned()
    }

    /// Healthy addresses.
    pub fn healthy(&self) -> u64 {
        let value: serde_json::Value =
            serde_json::from_str(&self.admin("/v1/status")).expect("JSON");
        value["upstreams"][0]["healthy"].as_u64().unwrap_or(0)
    }

    /// The sum of a metric's series whose line contains all of `with`.
    pub fn metric(&self, name: &str, with: &[&str]) -> f64 {
        let text = self.admin("/metrics");
        let lines = text
            .lines()
            .filter(|line| line.starts_with(name) && with.iter().all(|part| line.contains(part)));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

/// Waits until `look` gives something; panics after `limit`.
pub fn eventually<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "not within {limit:?}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// One HTTP request on a connection of its own; how long it took.
pub fn request(to: SocketAddr, limit: Duration) -> std::io::Result<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    ask(&mut stream, "Connection: close\r\n")?;
    Ok(began.elapsed())
}

/// Asks and reads one answer on an open connection.
pub fn ask(stream: &mut TcpStream, header: &str) -> std::io::Result<()> {
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: x\r\n{header}\r\n").as_bytes())?;
    let mut reply = Vec::new();
    let mut buffer = [0; 1024];
    while !reply.windows(2).any(|pair| pair == b"\"}") {
        let got = stream.read(&mut buffer)?;
        if got == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        reply.extend_from_slice(&buffer[..got]);
    }
    Ok(())
}
