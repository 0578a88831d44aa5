//! What the doctor says of troubles that only a network, or the lack of a capability, can make.

use std::process::Command;

use serde_json::Value;

use crate::Table;
use crate::topology::{Fault, PORT, Topology, address};

/// A router that says "unreachable", and a listen port that may not be bound.
pub fn doctor(topology: &Topology, table: &mut Table) {
    let doctor = env!("CARGO_BIN_EXE_entryway");
    Fault::Unreachable.begin(topology, "a");
    let route = rules(Command::new(doctor).args(target("a")));
    Fault::Unreachable.end(topology, "a");
    table.row(
        "doctor: an unreachable address",
        "ROUTE_UNREACHABLE, exit 1",
        format!("{route:?}"),
        route == (vec!["ROUTE_UNREACHABLE".to_owned()], Some(1)),
    );

    // Root without the right to low ports, as in a container that has dropped it.
    let without = [
        "--bounding-set=-net_bind_service",
        "--inh-caps=-net_bind_service",
    ];
    let mut low = Command::new("setpriv");
    low.args(without).arg(doctor).args(target("b"));
    let port = rules(low.args(["--listen", "127.0.0.1:80"]));
    table.row(
        "doctor: a port that may not be bound",
        "PORT_FORBIDDEN, exit 1",
        format!("{port:?}"),
        port == (vec!["PORT_FORBIDDEN".to_owned()], Some(1)),
    );
}

fn target(zone: &str) -> [String; 3] {
    let endpoint = format!("{}:{PORT}?zone={zone}", address(zone));
    ["doctor".to_owned(), "--endpoint".to_owned(), endpoint]
}

/// The rules that failed, and the exit code.
fn rules(command: &mut Command) -> (Vec<String>, Option<i32>) {
    let output = command
        .args(["--output", "json"])
        .output()
        .expect("it starts");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let checks = report["checks"].as_array().into_iter().flatten();
    let failed = checks.filter(|check| check["verdict"] == "FAIL");
    let rules = failed.filter_map(|check| check["rule"].as_str().map(str::to_owned));
    (rules.collect(), output.status.code())
}
