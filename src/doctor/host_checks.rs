//! Stages `port` and `limits`: what on this machine is in the way, now or later.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::input::{DoctorInput, RunningInstance};
use super::report::Check;
use super::rules;
use super::types::{Facts, Stage, shown};
use crate::duration;
use crate::sys::limits::{DescriptorBudget, FEW_CONNECTIONS};
use crate::sys::port_owner::port_owner;

/// The idle limit of network load balancers, VPC endpoints and NAT gateways.
const IDLE_LIMIT: Duration = Duration::from_secs(350);
/// What Kubernetes and ECS wait after TERM unless told otherwise.
const GRACE: Duration = Duration::from_secs(30);
/// The Datomic client's own limit.
const CLIENT_LIMIT: Duration = Duration::from_secs(60);
/// Our command's name, as the kernel tells it of other processes.
const OWN_COMMAND: &str = "entryway";

/// Stage `port`; also finds an entryway whose admin port did not answer.
pub(super) fn check_ports(input: &DoctorInput) -> (Vec<Check>, Vec<SocketAddr>) {
    let mut ours = Vec::new();
    let checks = input
        .listen
        .iter()
        .map(|address| check_port(input, *address, &mut ours));
    let mut checks: Vec<Check> = checks.collect();
    if checks.is_empty() {
        checks.push(Check::skip(
            Stage::Port,
            "listen",
            "no listen address is known",
        ));
    }
    (checks, ours)
}

fn check_port(input: &DoctorInput, address: SocketAddr, ours: &mut Vec<SocketAddr>) -> Check {
    let label = address.to_string();
    if address.port() == 0 {
        return Check::skip(Stage::Port, label, "any free port will be taken");
    }
    if let Some(instance) = input
        .instance
        .as_ref()
        .filter(|instance| instance.addresses.contains(&address))
    {
        ours.push(address);
        return Check::pass(
            Stage::Port,
            label,
            format!("entryway (pid {}) listens", instance.pid),
        );
    }
    match port_state(address) {
        PortState::Free => Check::pass(Stage::Port, label, "free"),
        PortState::Taken => match port_owner(address) {
            Some(holder) if holder.command == OWN_COMMAND => {
                ours.push(address);
                Check::pass(
                    Stage::Port,
                    label,
                    format!("{holder} listens; its admin port was not asked"),
                )
            }
            Some(holder) => {
                let who = shown(&holder.to_string());
                let facts = Facts::default()
                    .with("holder", who.as_str())
                    .with("pid", holder.pid.to_string());
                Check::ruled(&rules::PORT_HELD, label, &who, &facts)
            }
            None => {
                let who = "a process of another user or container";
                let facts = Facts::default().with("holder", who);
                Check::ruled(&rules::PORT_HELD, label, who, &facts)
            }
        },
        PortState::NoSuchAddress(_)
            if address.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST) && !input.listen_asked =>
        {
            let evidence = "this machine has no ::1; 127.0.0.1 serves";
            Check::skip(Stage::Port, label, evidence)
        }
        PortState::NoSuchAddress(error) => {
            let seen = shown(&error.to_string());
            Check::ruled(&rules::PORT_NO_ADDRESS, label, &seen, &Facts::default())
        }
        PortState::Forbidden => {
            let facts = Facts::default();
            Check::ruled(&rules::PORT_FORBIDDEN, label, "not permitted", &facts)
        }
    }
}

/// Whether a listener could bind an address.
#[derive(Debug)]
enum PortState {
    Free,
    Taken,
    NoSuchAddress(io::Error),
    Forbidden,
}

/// Found out without binding the TCP port: even a moment of that could make a starting entryway fail.
fn port_state(address: SocketAddr) -> PortState {
    if tcp_tables().lines().any(|row| is_listening(row, address)) {
        return PortState::Taken;
    }
    // The ports of UDP are others, but its addresses are the same.
    if let Err(error) = UdpSocket::bind((address.ip(), 0)) {
        return PortState::NoSuchAddress(error);
    }
    match u32::from(address.port()) < first_unprivileged_port() && !may_bind_privileged() {
        true => PortState::Forbidden,
        false => PortState::Free,
    }
}

/// The kernel's tables of TCP sockets in this network namespace; empty off Linux.
fn tcp_tables() -> String {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect()
}

/// Whether a row of the tables is a listening socket that would be in the way of this address.
fn is_listening(row: &str, address: SocketAddr) -> bool {
    const LISTEN: &str = "0A";
    let mut fields = row.split_ascii_whitespace();
    let (local, state) = (fields.nth(1), fields.nth(1));
    let Some((ip, port)) = local.and_then(|local| local.split_once(':')) else {
        return false;
    };
    let is_wildcard = ip.bytes().all(|digit| digit == b'0');
    let same_family = (ip.len() == 8) == address.is_ipv4();
    state == Some(LISTEN)
        && u16::from_str_radix(port, 16) == Ok(address.port())
        && (ip == table_ip(address.ip())
            || is_wildcard && (same_family || ip.len() == 32)
            || address.ip().is_unspecified() && (same_family || address.is_ipv6()))
}

fn first_unprivileged_port() -> u32 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

/// Whether this process has CAP_NET_BIND_SERVICE.
fn may_bind_privileged() -> bool {
    const NET_BIND_SERVICE: u32 = 10;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits >> NET_BIND_SERVICE & 1 == 1)
}

/// Stage `limits`; `towards` are the addresses that connections go to.
pub(super) fn check_limits(input: &DoctorInput, towards: &[SocketAddr]) -> Vec<Check> {
    let mut checks = vec![check_files(input, &input.budget)];
    checks.extend(input.instance.as_ref().and_then(check_files_used));
    checks.extend(check_local_ports(towards, local_ports()));
    checks.extend(check_timers(input));
    checks
}

fn check_files(input: &DoctorInput, budget: &DescriptorBudget) -> Check {
    let wanted = input.timers.max_connections.unwrap_or(FEW_CONNECTIONS);
    let seen = format!(
        "{} open files allow {} connections",
        budget.descriptors, budget.max_connections
    );
    if budget.max_connections < wanted {
        let asked = input
            .timers
            .max_connections
            .map(|n| format!(", --max-connections asks for {n}"));
        let evidence = seen + &asked.unwrap_or_default();
        return Check::ruled(
            &rules::LIMIT_FILES,
            "open files",
            &evidence,
            &Facts::default(),
        );
    }
    Check::pass(Stage::Limits, "open files", seen)
}

/// What the running instance uses of its own limit, where `/proc` lets us see it.
fn check_files_used(instance: &RunningInstance) -> Option<Check> {
    let folder = format!("/proc/{}", instance.pid);
    let used = fs::read_dir(format!("{folder}/fd")).ok()?.count();
    let limits = fs::read_to_string(format!("{folder}/limits")).ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    let limit: usize = line.split_ascii_whitespace().nth(3)?.parse().ok()?;
    let evidence = format!("{used} of {limit} open files");
    let label = format!("pid {}", instance.pid);
    Some(match used * 10 > limit * 7 {
        true => Check::ruled(
            &rules::LIMIT_FILES_USED,
            label,
            &evidence,
            &Facts::default(),
        ),
        false => Check::pass(Stage::Limits, label, evidence),
    })
}

/// How many ports a connection may start from.
fn local_ports() -> Option<usize> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = range.split_ascii_whitespace().map(str::parse::<usize>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

/// The address towards which most ports are in use.
pub(super) fn check_local_ports(towards: &[SocketAddr], allowed: Option<usize>) -> Option<Check> {
    let allowed = allowed?;
    let tables = tcp_tables();
    let (used, socket) = towards
        .iter()
        .map(|socket| (ports_towards(&tables, *socket), *socket))
        .max()?;
    let evidence = format!("{used} of {allowed} local ports");
    let label = format!("ports to {socket}");
    Some(match used * 5 > allowed * 4 {
        true => Check::ruled(&rules::LIMIT_PORTS, label, &evidence, &Facts::default()),
        false => Check::pass(Stage::Limits, label, evidence),
    })
}

/// Connections of the kernel's tables that go to this address, in whatever state.
fn ports_towards(tables: &str, socket: SocketAddr) -> usize {
    let ip = table_ip(socket.ip());
    let wanted = format!("{ip}:{:04X}", socket.port());
    tables
        .lines()
        .filter(|line| line.split_ascii_whitespace().nth(2) == Some(wanted.as_str()))
        .count()
}

/// An IP as the tables write it: words of the machine's own byte order.
fn table_ip(ip: IpAddr) -> String {
    let word = |bytes: &[u8]| {
        bytes.chunks(4).fold(String::new(), |text, four| {
            let four = [four[0], four[1], four[2], four[3]];
            text + &format!("{:08X}", u32::from_ne_bytes(four))
        })
    };
    match ip {
        IpAddr::V4(ip) => word(&ip.octets()),
        IpAddr::V6(ip) => word(&ip.octets()),
    }
}

fn check_timers(input: &DoctorInput) -> Vec<Check> {
    let timers = &input.timers;
    let none = Facts::default();
    let mut checks = Vec::new();
    for target in &input.targets {
        let evidence = match target.keepalive.is_zero() {
            true => "keepalive is off".to_owned(),
            false => format!("keepalive after {}", duration::show(target.keepalive)),
        };
        checks.push(
            match target.keepalive.is_zero() || target.keepalive >= IDLE_LIMIT {
                true => Check::ruled(&rules::LIMIT_KEEPALIVE, &target.name, &evidence, &none),
                false => Check::pass(Stage::Limits, &target.name, evidence),
            },
        );
    }
    if timers.max_drain > GRACE {
        let evidence = duration::show(timers.max_drain);
        checks.push(Check::ruled(
            &rules::LIMIT_DRAIN,
            "shutdown",
            &evidence,
            &none,
        ));
    }
    if timers.hold >= CLIENT_LIMIT {
        let evidence = duration::show(timers.hold);
        checks.push(Check::ruled(&rules::LIMIT_HOLD, "hold", &evidence, &none));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_is_seen_without_binding_the_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        assert!(matches!(port_state(taken), PortState::Taken));
        let everywhere = SocketAddr::from(([0, 0, 0, 0], taken.port()));
        assert!(matches!(port_state(everywhere), PortState::Taken));
        let beside = SocketAddr::from(([127, 0, 0, 9], taken.port()));
        assert!(matches!(port_state(beside), PortState::Free));
        drop(listener);
        assert!(matches!(port_state(taken), PortState::Free));
        let elsewhere = "203.0.113.1:8182".parse().unwrap();
        assert!(matches!(port_state(elsewhere), PortState::NoSuchAddress(_)));
    }

    #[test]
    fn wildcard_listeners_are_in_the_way_of_every_address() {
        let row = "  0: 00000000:1FF6 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        let six =
            "  0: 00000000000000000000000000000000:1FF6 00000000000000000000000000000000:0000 0A 0";
        let open = "  0: 00000000:1FF6 00000000:0000 01 00000000:00000000 00:00000000 00000000";
        let address: SocketAddr = "127.0.0.1:8182".parse().unwrap();
        assert!(is_listening(row, address) && is_listening(six, address));
        assert!(!is_listening(open, address));
        assert!(!is_listening(row, "127.0.0.1:8183".parse().unwrap()));
        assert!(!is_listening(row, "[::1]:8182".parse().unwrap()));
    }
}
