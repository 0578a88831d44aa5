//! Processes of the topology: entryway, its control, and what they say about themselves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::client::{eventually, request};
use crate::topology::{PORT, ZONES, address};

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

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        crate::topology::sh(&format!("kill -{signal} {}", self.child.id()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An entryway (or its control) in front of the three zones.
#[derive(Debug)]
pub struct Proxy {
    /// Ends with the handle.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
    admin: Option<SocketAddr>,
}

impl Proxy {
    /// `entryway run` with zone a as its own, once all three zones are well.
    pub fn entryway(flags: &[&str]) -> Self {
        let proxy = Self::at_port(PORT, flags);
        eventually(Duration::from_secs(10), || {
            (proxy.healthy() == 3).then_some(())
        });
        proxy
    }

    /// `entryway run` with zone a as its own and the zones' entry points on another port; not waited for.
    pub fn at_port(port: u16, flags: &[&str]) -> Self {
        let endpoints: Vec<String> = ZONES
            .iter()
            .flat_map(|zone| {
                let endpoint = format!("{}:{port}?zone={zone}", address(zone));
                ["--endpoint".to_owned(), endpoint]
            })
            .collect();
        let mut all: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        all.extend(["--zone", "a"]);
        all.extend(flags);
        Self::run(&all)
    }

    /// `entryway run` with nothing but where it listens, unless the flags say that too.
    pub fn run(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_entryway"));
        command.args(["run", "--admin", "127.0.0.1:0", "--control", "off"]);
        command.args(["--log-format", "json"]);
        if !flags.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
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
            let value: Value = serde_json::from_str(line).ok()?;
            value["address"].as_str()?.parse().ok()
        });
        Self {
            process,
            address: address.expect("an address to paste"),
            admin: Some(admin),
        }
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
        let found = Command::new("haproxy")
            .arg("-v")
            .stdout(Stdio::null())
            .status();
        found.ok()?;
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", "/run/haproxy.cfg"]);
        let proxy = Self {
            process: Process::start(&mut command),
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

    /// An admin path's JSON.
    pub fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.admin(path)).expect("JSON")
    }

    /// A zone's only address, as `/v1/endpoints` has it.
    pub fn zone(&self, zone: &str) -> Value {
        let value = self.json("/v1/endpoints");
        let all = value["endpoints"].as_array().expect("endpoints");
        let endpoint = all
            .iter()
            .find(|endpoint| endpoint["zone"] == zone)
            .expect("the zone");
        endpoint["addresses"][0].clone()
    }

    /// The state of a zone's only address.
    pub fn state(&self, zone: &str) -> String {
        self.zone(zone)["state"]
            .as_str()
            .expect("a state")
            .to_owned()
    }

    /// Healthy addresses.
    pub fn healthy(&self) -> u64 {
        self.json("/v1/status")["upstreams"][0]["healthy"]
            .as_u64()
            .unwrap_or(0)
    }

    /// The sum of a metric's series whose line contains all of `with`.
    pub fn metric(&self, name: &str, with: &[&str]) -> f64 {
        let text = self.admin("/metrics");
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && with.iter().all(|part| line.contains(part))
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .fold(0.0, |sum, value| sum + value)
    }

    /// Changes of state so far, of all addresses.
    pub fn transitions(&self) -> f64 {
        self.metric("entryway_endpoint_transitions_total", &[])
    }

    /// Resident memory, in bytes.
    pub fn rss(&self) -> f64 {
        self.metric("process_resident_memory_bytes", &[])
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.child.id()))
            .expect("the proxy lives")
            .count()
    }
}
