//! Stages `port` and `limits`: what on this machine is in the way, now or later.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::report::Check;
use super::rules;
use super::subject::{Instance, Subject};
use super::words::{Facts, Stage, shown};
use crate::duration;
use crate::sys::limits::{DescriptorBudget, FEW_CONNECTIONS};
use crate::sys::port_owner::port_owner;
use crate::sys::socket::{ListenOptions, listen};

/// The idle limit of network load balancers, VPC endpoints and NAT gateways.
const IDLE_LIMIT: Duration = Duration::from_secs(350);
/// What Kubernetes and ECS wait after TERM unless told otherwise.
const GRACE: Duration = Duration::from_secs(30);
/// The Datomic client's own limit.
const CLIENT_LIMIT: Duration = Duration::from_secs(60);
/// Our command's name, as the kernel tells it of other processes.
const OWN_COMMAND: &str = "entryway";

/// Stage `port`; also finds an entryway whose admin port did not answer.
pub(super) fn judge_ports(subject: &Subject) -> (Vec<Check>, Vec<SocketAddr>) {
    let mut ours = Vec::new();
    let checks = subject
        .listen
        .iter()
        .map(|address| judge_port(subject, *address, &mut ours));
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

fn judge_port(subject: &Subject, address: SocketAddr, ours: &mut Vec<SocketAddr>) -> Check {
    let label = address.to_string();
    if address.port() == 0 {
        return Check::skip(Stage::Port, label, "any free port will be taken");
    }
    if let Some(instance) = subject
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
    let options = ListenOptions {
        tcp: None,
        congestion: None,
    };
    let error = match listen(address, 1, &options) {
        Ok(_) => return Check::pass(Stage::Port, label, "free"),
        Err(error) => error,
    };
    let seen = shown(&error.to_string());
    match error.kind() {
        ErrorKind::AddrInUse => match port_owner(address) {
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
                Check::ruled(
                    &rules::PORT_HELD,
                    label,
                    who,
                    &Facts::default().with("holder", who),
                )
            }
        },
        ErrorKind::AddrNotAvailable
            if address.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST) && !subject.listen_asked =>
        {
            Check::skip(
                Stage::Port,
                label,
                "this machine has no ::1; 127.0.0.1 serves",
            )
        }
        ErrorKind::PermissionDenied => {
            Check::ruled(&rules::PORT_FORBIDDEN, label, &seen, &Facts::default())
        }
        _ => Check::ruled(&rules::PORT_NO_ADDRESS, label, &seen, &Facts::default()),
    }
}

/// Stage `limits`; `towards` are the addresses that connections go to.
pub(super) fn judge_limits(subject: &Subject, towards: &[SocketAddr]) -> Vec<Check> {
    let mut checks = vec![judge_files(
        subject,
        &DescriptorBudget::planned(workers(), 0),
    )];
    checks.extend(subject.instance.as_ref().and_then(judge_files_used));
    checks.extend(judge_local_ports(towards, local_ports()));
    checks.extend(judge_timers(subject));
    checks
}

/// Data threads that `run` would start.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn judge_files(subject: &Subject, budget: &DescriptorBudget) -> Check {
    let wanted = subject.timers.max_connections.unwrap_or(FEW_CONNECTIONS);
    let seen = format!(
        "{} open files allow {} connections",
        budget.descriptors, budget.max_connections
    );
    if budget.max_connections < wanted {
        let asked = subject
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
fn judge_files_used(instance: &Instance) -> Option<Check> {
    let folder = format!("/proc/{}", instance.pid);
    let used = fs::read_dir(format!("{folder}/fd")).ok()?.count();
    let limits = fs::read_to_string(format!("{folder}/limits")).ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    let limit: usize = line.split_ascii_whitespace().nth(3)?.parse().ok()?;
    let evidence = format!("{used} of {limit} open files");
    let label = format!("pid {}", instance.pid);
    Some(match used * 5 > limit * 4 {
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
pub(super) fn judge_local_ports(towards: &[SocketAddr], allowed: Option<usize>) -> Option<Check> {
    let allowed = allowed?;
    let tables: String = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
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
    let word = |bytes: &[u8]| {
        bytes.chunks(4).fold(String::new(), |text, four| {
            let four = [four[0], four[1], four[2], four[3]];
            text + &format!("{:08X}", u32::from_ne_bytes(four))
        })
    };
    let ip = match socket.ip() {
        IpAddr::V4(ip) => word(&ip.octets()),
        IpAddr::V6(ip) => word(&ip.octets()),
    };
    let wanted = format!("{ip}:{:04X}", socket.port());
    tables
        .lines()
        .filter(|line| line.split_ascii_whitespace().nth(2) == Some(wanted.as_str()))
        .count()
}

fn judge_timers(subject: &Subject) -> Vec<Check> {
    let timers = &subject.timers;
    let none = Facts::default();
    let mut checks = Vec::new();
    for way in subject.ways.iter().filter(|way| way.wrong.is_empty()) {
        let evidence = match way.keepalive.is_zero() {
            true => "keepalive is off".to_owned(),
            false => format!("keepalive after {}", duration::show(way.keepalive)),
        };
        checks.push(
            match way.keepalive.is_zero() || way.keepalive >= IDLE_LIMIT {
                true => Check::ruled(&rules::LIMIT_KEEPALIVE, &way.name, &evidence, &none),
                false => Check::pass(Stage::Limits, &way.name, evidence),
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
