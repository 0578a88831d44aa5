//! The topology: one network namespace per zone, one for a remote client, a router between, faults on its routes.
//! Everything lives in the private network, mount and process namespaces of this run and goes with it.

use std::fs::File;
use std::process::Command;

use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::Process;

/// Zones of the topology; each is one host.
pub const ZONES: [&str; 3] = ["a", "b", "c"];

/// The namespace of a client that is not on the proxy's machine.
pub const REMOTE: &str = "remote";

/// Where the proxy is reached from there.
pub const PROXY_HOST: &str = "10.77.0.2";

/// The port of every entry point, as in the real thing.
pub const PORT: u16 = 8182;

/// The address of a zone's entry point.
pub fn address(zone: &str) -> String {
    let place = ZONES
        .iter()
        .position(|known| *known == zone)
        .expect("a zone of the topology")
        + 1;
    format!("10.77.{place}.2")
}

/// Runs a command to its end; the topology is useless when one fails, so that is a failure of the run.
pub fn sh(line: &str) {
    try_sh(line).unwrap_or_else(|error| panic!("{line}: {error}"));
}

/// Runs a command to its end.
pub fn try_sh(line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Runs `work` on a thread inside a namespace; sockets made there stay there.
pub fn inside<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let path = format!("/run/netns/{namespace}");
    std::thread::spawn(move || {
        let namespace = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        work()
    })
}

/// Builds namespaces, links and routes.
pub fn build() {
    sh("mount -t tmpfs tmpfs /run");
    std::fs::create_dir_all("/run/netns").expect("a writable /run");
    sh("ip link set lo up");
    sh("ip netns add r");
    sh("ip netns exec r sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0");
    sh("ip -n r link set lo up");
    link("", "10.77.0");
    sh("ip route add default via 10.77.0.1");
    let hosts = ZONES.iter().chain([&REMOTE]);
    for (place, host) in hosts.enumerate() {
        let net = format!("10.77.{}", place + 1);
        sh(&format!("ip netns add {host}"));
        sh(&format!("ip -n {host} link set lo up"));
        link(host, &net);
        sh(&format!("ip -n {host} route add default via {net}.1"));
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
    /// The router drops everything, both ways.
    BlackHole,
    /// The router drops what the zone sends; the zone hears everything.
    OneWay,
    /// The router drops packets of more than 1000 bytes, both ways, and says nothing: a path MTU black hole.
    LargePackets,
    /// The process is stopped: the kernel accepts, nobody answers.
    Freeze,
}

impl Fault {
    /// Does it.
    pub fn begin(self, topology: &Topology, zone: &str) {
        match self {
            Fault::Refuse => topology.mode(zone, "refuse"),
            Fault::Freeze => topology.signal(zone, "STOP"),
            Fault::LargePackets => {
                qdisc("add", zone);
                for way in ["ingress", "egress"] {
                    // Load the length; up to 1000 goes on (-1), the rest is dropped (2).
                    filter(
                        zone,
                        way,
                        "4,128 0 0 0,37 0 1 1000,6 0 0 2,6 0 0 4294967295",
                    );
                }
            }
            Fault::Unreachable | Fault::BlackHole | Fault::OneWay => {
                self.to_route("add", zone);
            }
        }
    }

    /// Undoes it.
    pub fn end(self, topology: &Topology, zone: &str) {
        match self {
            Fault::Refuse => topology.mode(zone, "ok"),
            Fault::Freeze => topology.signal(zone, "CONT"),
            Fault::LargePackets => qdisc("del", zone),
            Fault::Unreachable | Fault::BlackHole | Fault::OneWay => {
                self.to_route("del", zone);
            }
        }
    }

    fn to_route(self, verb: &str, zone: &str) {
        let address = address(zone);
        match self {
            Fault::Unreachable => sh(&format!("ip -n r route {verb} unreachable {address}/32")),
            Fault::BlackHole => silence(verb, zone, &address),
            _ => drop_from(verb, zone),
        }
    }
}

/// How often the router has answered "unreachable".
pub fn unreachables() -> u64 {
    let output = Command::new("ip")
        .args(["netns", "exec", "r", "cat", "/proc/net/snmp"])
        .output()
        .expect("ip");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let mut both = names.split(' ').zip(values.split(' '));
    both.find(|(name, _)| *name == "OutDestUnreachs")
        .and_then(|(_, value)| value.parse().ok())
        .expect("a counter")
}

/// Drops everything to and from a host.
pub fn silence(verb: &str, host: &str, address: &str) {
    sh(&format!("ip -n r route {verb} blackhole {address}/32"));
    drop_from(verb, host);
}

/// Drops what a host sends. A route alone would let it through.
fn drop_from(verb: &str, host: &str) {
    qdisc(verb, host);
    if verb == "add" {
        // One instruction: return 2, which is "drop".
        filter(host, "ingress", "1,6 0 0 2,");
    }
}

/// Where filters on the router's side of a host's link hang.
fn qdisc(verb: &str, host: &str) {
    sh(&format!("tc -n r qdisc {verb} dev r-{host} clsact"));
}

/// A filter in classic BPF, seen from the router: `ingress` is what the host sends.
fn filter(host: &str, way: &str, bytecode: &str) {
    let device = format!("r-{host}");
    let output = Command::new("tc")
        .args(["-n", "r", "filter", "add", "dev", &device, way])
        .args(["bpf", "da", "bytecode", bytecode])
        .output()
        .expect("tc");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The running entry points.
#[derive(Debug)]
pub struct Topology {
    mocks: Vec<Process>,
}

impl Topology {
    /// Starts one entry point per zone.
    pub fn start() -> Self {
        let mocks = ZONES
            .iter()
            .map(|zone| {
                let listen = format!("{}:{PORT}", address(zone));
                let mut command = Command::new("ip");
                command.args(["netns", "exec", zone, env!("CARGO_BIN_EXE_entryway")]);
                command.args(["mock", "--zones", zone, "--listen", &listen]);
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

    /// Switches all zones.
    pub fn mode_of_all(&self, mode: &str) {
        ZONES.iter().for_each(|zone| self.mode(zone, mode));
    }

    fn signal(&self, zone: &str, signal: &str) {
        let place = ZONES
            .iter()
            .position(|known| *known == zone)
            .expect("a zone of the topology");
        self.mocks[place].signal(signal);
    }
}
