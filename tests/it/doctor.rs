//! `entryway doctor` as users run it: exit codes, shapes, and the symptoms that need a process or a network of its own.

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use entryway::mock::{self, Mock, MockConfig, ZoneMode};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_entryway");
/// Nobody is asked for an instance.
const NO_ADMIN: &str = "127.0.0.1:1";

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ENTRYWAY_"))
    {
        command.env_remove(name);
    }
    command
}

/// Runs `entryway doctor`, which must end within its 15 s.
fn doctor(args: &[&str]) -> Output {
    let started = SystemTime::now();
    let output = command(BINARY).arg("doctor").args(args).output().unwrap();
    assert!(started.elapsed().unwrap() < Duration::from_secs(15));
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

fn zones(base: [u8; 4]) -> (Mock, Vec<String>) {
    let mock = mock::start(MockConfig {
        base_ip: base.into(),
        ..MockConfig::default()
    })
    .unwrap();
    let endpoint = |zone: &std::sync::Arc<mock::Zone>| {
        format!("--endpoint={}?zone={}", zone.address(), zone.name())
    };
    let flags = mock.zones().iter().map(endpoint).collect();
    (mock, flags)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

#[test]
fn all_is_well_and_every_stage_has_a_line() {
    let (_mock, flags) = zones([127, 0, 96, 1]);
    let listen = format!("--listen=127.0.0.1:{}", free_port());
    let mut args: Vec<&str> = flags.iter().map(String::as_str).collect();
    args.extend([listen.as_str(), "--admin", NO_ADMIN]);
    let output = doctor(&args);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for stage in
        "settings port resolver names route hop tcp bytes http identity through limits".split(' ')
    {
        assert!(
            text.lines()
                .any(|line| line.split_whitespace().nth(1) == Some(stage)),
            "{stage}:\n{text}"
        );
    }
    assert!(text.ends_with("verdict: PASS  all is well\n"), "{text}");
    assert!(output.stderr.is_empty(), "progress is for terminals");
    args.extend(["--output", "json"]);
    let json = json(&doctor(&args));
    assert_eq!(
        (&json["schema_version"], &json["verdict"]),
        (&1.into(), &"PASS".into())
    );
    for check in json["checks"].as_array().unwrap() {
        for key in ["stage", "subject", "verdict", "evidence", "causes", "steps"] {
            assert!(!check[key].is_null(), "{key}: {check}");
        }
    }
}

#[tokio::test]
async fn warnings_are_exit_code_0_and_failures_1() {
    let (mock, flags) = zones([127, 0, 97, 1]);
    let mut args: Vec<&str> = flags.iter().map(String::as_str).collect();
    args.extend(["--listen=127.0.0.1:0", "--admin", NO_ADMIN]);
    mock.set_mode("a", ZoneMode::Status503).await.unwrap();
    let output = doctor(&args);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains("WARN  http"), "{}", text(&output));
    for zone in ["b", "c"] {
        mock.set_mode(zone, ZoneMode::Refuse).await.unwrap();
    }
    let output = doctor(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("FAIL  http"), "{}", text(&output));
}

/// A real instance: its own target, asked through its admin address; its port is ours; a stranger's is not.
#[test]
fn a_running_instance_is_examined_and_gone_through() {
    let (mock, flags) = zones([127, 0, 98, 1]);
    let (listen, admin) = (free_port(), free_port());
    let mut run = command(BINARY);
    run.arg("run")
        .args(&flags)
        .arg(format!("--listen=127.0.0.1:{listen}"))
        .arg(format!("--admin=127.0.0.1:{admin}"));
    let mut instance = run
        .arg("--control=off")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let at = format!("127.0.0.1:{admin}");
    let wait = command(BINARY)
        .args(["wait", "--for", "healthy=3", "--admin", &at])
        .output()
        .unwrap();
    assert!(wait.status.success(), "{wait:?}");
    let output = doctor(&["--admin", &at, "--output", "json"]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let of = |stage: &str| {
        report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|check| check["stage"] == stage)
            .unwrap()
    };
    assert_eq!(of("through")["verdict"], "PASS", "{report:#}");
    assert!(
        of("port")["evidence"]
            .as_str()
            .unwrap()
            .contains(&format!("pid {}", instance.id())),
        "{report:#}"
    );
    assert!(
        of("through")["evidence"]
            .as_str()
            .unwrap()
            .contains("mock-bucket"),
        "{report:#}"
    );
    // The same port, another target: the admin port is not asked, the command's name tells that it is ours.
    let (other, _) = zones([127, 0, 99, 1]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(other.set_mode("a", ZoneMode::OtherIdentity))
        .unwrap();
    let endpoint = format!("--endpoint={}", other.address("a").unwrap());
    let output = doctor(&[
        &endpoint,
        &format!("--listen=127.0.0.1:{listen}"),
        "--admin",
        NO_ADMIN,
    ]);
    assert!(text(&output).contains("FAIL  through"), "{}", text(&output));
    instance.kill().unwrap();
    instance.wait().unwrap();
    drop(mock);
}

/// NOFILE = 64, for real.
#[test]
fn few_open_files() {
    let (_mock, flags) = zones([127, 0, 100, 1]);
    let line = "ulimit -n 64; exec \"$0\" doctor \"$@\" --listen=127.0.0.1:0 --admin=127.0.0.1:1 --output=json";
    let output = command("sh")
        .arg("-c")
        .arg(line)
        .arg(BINARY)
        .args(&flags)
        .output()
        .unwrap();
    let report = json(&output);
    assert_eq!(
        (output.status.code(), &report["verdict"]),
        (Some(0), &"WARN".into()),
        "{report:#}"
    );
    let files = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["rule"] == "LIMIT_FILES")
        .unwrap();
    assert!(
        files["evidence"]
            .as_str()
            .unwrap()
            .contains("64 open files"),
        "{files}"
    );
}

/// A machine with no network at all: a namespace in which only loopback is up.
#[test]
fn a_machine_without_a_network() {
    let line = "ip link set lo up; exec \"$0\" doctor -e 10.1.2.3:8182?zone=a -e '[fd00::3]:8182?zone=b' \
                --admin 127.0.0.1:1 --output json";
    let output = command("unshare")
        .args(["-rn", "sh", "-c", line])
        .arg(BINARY)
        .output()
        .unwrap();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let none = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["rule"] == "ROUTE_NONE");
    assert_eq!(none.count(), 2, "{report:#}");
    // With names, and DNS out of reach: within the time, and said to be so.
    let line = "ip link set lo up; exec \"$0\" doctor --peering --system prod --region us-east-1 \
                --dns-server 10.0.0.2:53 --admin 127.0.0.1:1 --output json";
    let output = command("unshare")
        .args(["-rn", "sh", "-c", line])
        .arg(BINARY)
        .output()
        .unwrap();
    let report = json(&output);
    let rules: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|check| check["rule"].as_str())
        .collect();
    assert!(
        rules.contains(&"RESOLVER_ALL_BAD") && rules.contains(&"NAME_NO_ANSWER"),
        "{report:#}"
    );
}

#[test]
fn a_held_port_names_its_holder() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", held.local_addr().unwrap());
    let output = doctor(&[
        "-e",
        "127.0.0.1:1",
        &listen,
        "--admin",
        NO_ADMIN,
        "--output",
        "json",
    ]);
    let report = json(&output);
    let port = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["rule"] == "PORT_HELD")
        .unwrap();
    let pid = format!("(pid {})", std::process::id());
    assert!(port["evidence"].as_str().unwrap().contains(&pid), "{port}");
    assert_eq!(output.status.code(), Some(1));
}
