//! Bad input through the binary: exit codes and messages that say what, where and what next.

use std::path::Path;

use crate::harness::child::{Process, command, run};
use crate::harness::eventually;

/// Code, and words that must stand in the message.
async fn fails(args: &[&str], code: i32, words: &[&str]) {
    let (got, out, err) = run(args).await;
    assert_eq!(got, code, "{args:?}\n{out}{err}");
    assert!(
        out.is_empty(),
        "{args:?}: an error on standard output: {out}"
    );
    for word in words {
        assert!(err.contains(word), "{args:?}: no `{word}` in\n{err}");
    }
}

#[tokio::test]
async fn the_command_line_is_not_understood() {
    let e = "127.0.0.1:1";
    for (args, words) in [
        (
            &["run", "--endpiont", e][..],
            &["--endpiont", "did you mean", "--endpoint"][..],
        ),
        (&["statsu"], &["statsu", "did you mean", "status"]),
        (
            &["run", "-e", e, "--connect-timeout", "5"],
            &["--connect-timeout", "5"],
        ),
        (
            &["run", "-e", e, "--connect-timeout", "5 parsecs"],
            &["--connect-timeout"],
        ),
        (
            &["run", "-e", e, "--probe", "telepathy"],
            &["--probe", "telepathy"],
        ),
        (&["run", "-e", e, "--workers", "many"], &["--workers"]),
        (
            &["run", "-e", e, "--allow-remote=perhaps"],
            &["--allow-remote"],
        ),
        (
            &["run", "-e", e, "--dns-server", "dns.example"],
            &["--dns-server"],
        ),
        (&["run", "-e", e, "--cert", "x.pem"], &["--cert"]),
        (&["top"], &["top"]),
        (&["snippet", "fortran"], &["fortran"]),
        (&["guide", "knitting"], &["knitting"]),
        (&[], &["Usage"]),
    ] {
        fails(args, 2, words).await;
    }
}

#[tokio::test]
async fn settings_that_are_wrong() {
    let e = "127.0.0.1:1";
    for (args, words) in [
        (&["run"][..], &["--endpoint", "--vpce", "--peering"][..]),
        (&["check", "--peering", "--system", "s"], &["region"]),
        (
            &["check", "-e", e, "--vpce", "vpce-1.example"],
            &["endpoint", "vpce"],
        ),
        (
            &[
                "check",
                "-e",
                "127.0.0.1:1?name=a",
                "-e",
                "127.0.0.1:2?name=a",
            ],
            &["a"],
        ),
        (&["check", "-e", "no-port.example"], &["no-port.example"]),
        (&["check", "-e", "127.0.0.1:99999"], &["99999"]),
        (
            &["check", "-e", e, "--listen", "0.0.0.0:0"],
            &["--allow-remote"],
        ),
        (&["check", "-e", e, "--listen", e], &["127.0.0.1:1"]),
        (
            &["check", "--from-client", "/no/such/file.edn"],
            &["/no/such/file.edn"],
        ),
        (
            &["check", "-c", "/no/such/file.toml"],
            &["/no/such/file.toml"],
        ),
        (&["check", "-c", "/"], &["/"]),
    ] {
        fails(args, 78, words).await;
    }
}

async fn file_fails(folder: &Path, content: &[u8], words: &[&str]) {
    let file = folder.join("entryway.toml");
    std::fs::write(&file, content).unwrap();
    fails(&["check", "--config", file.to_str().unwrap()], 78, words).await;
}

#[tokio::test]
async fn files_that_are_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let target = "[[upstream]]\n[[upstream.endpoint]]\naddress = \"127.0.0.1:1\"\n";
    for (content, words) in [
        (String::new(), &["entryway.toml", "empty"][..]),
        (
            format!("listner = 1\n{target}"),
            &["entryway.toml:1", "listner", "listener"],
        ),
        (
            format!("{target}[shutdown]\nmax_delay = 25\n"),
            &["entryway.toml:5", "max_delay"],
        ),
        (
            format!("{target}[shutdown]\nmax_delay = \"25 seconds\"\n"),
            &["entryway.toml:5"],
        ),
        (
            format!("{target}[shutdown]\nstrict_exit = \"maybe\"\n"),
            &["entryway.toml:5", "strict_exit"],
        ),
        (
            format!("{target}[tables]\nbind = 1\n"),
            &["entryway.toml:4", "tables"],
        ),
        (
            format!("{target}[faults]\nbind = 1\n"),
            &["entryway.toml:5", "faults.bind"],
        ),
        (
            format!("{target}[[upstream]]\nname = \"default\"\nvpce = \"v.example\"\n"),
            &["default"],
        ),
        ("[[upstream]\nname = 1".to_owned(), &["entryway.toml:1"]),
        (format!("{target}name = 3\n"), &["entryway.toml:4"]),
    ] {
        file_fails(folder.path(), content.as_bytes(), words).await;
    }
    file_fails(
        folder.path(),
        b"\x00\x01\x02\x7fELF\x00",
        &["entryway.toml"],
    )
    .await;
    file_fails(
        folder.path(),
        b"name = \"\xff\xfe\"\n",
        &["entryway.toml", "UTF-8"],
    )
    .await;
    // Every error in one run, each at its line.
    let many =
        format!("nonsense = 1\n{target}[shutdown]\nmax_delay = \"x\"\n[log]\nlevel = \"loud\"\n");
    let all = [
        "entryway.toml:1",
        "entryway.toml:6",
        "entryway.toml:8",
        "nonsense",
        "max_delay",
        "loud",
    ];
    file_fails(folder.path(), many.as_bytes(), &all).await;
}

#[tokio::test]
async fn a_port_that_is_taken_names_its_holder() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let pid = std::process::id().to_string();
    fails(
        &[
            "run",
            "-e",
            "127.0.0.1:1",
            "--listen",
            &address,
            "--admin",
            "off",
        ],
        73,
        &[&address, &pid],
    )
    .await;
    fails(
        &[
            "run",
            "-e",
            "127.0.0.1:1",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            &address,
        ],
        73,
        &[&address],
    )
    .await;
}

#[tokio::test]
async fn nobody_answers() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    for args in [
        &["status"][..],
        &["reload"],
        &["shutdown"],
        &["endpoint", "list"],
    ] {
        fails(&[args, &["--admin", &free]].concat(), 69, &[&free]).await;
    }
    let (code, _, _) = run(&["wait", "--timeout", "200ms", "--admin", &free]).await;
    assert_eq!(code, 75);
    assert_eq!(run(&["healthcheck", "--admin", &free]).await.0, 1);
}

#[tokio::test]
async fn variables_and_flags() {
    let mut unknown = command(&["check", "-e", "127.0.0.1:1"]);
    let output = unknown
        .env("ENTRYWAY_NO_SUCH_THING", "1")
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "an unknown variable is a warning");
    assert!(String::from_utf8_lossy(&output.stderr).contains("ENTRYWAY_NO_SUCH_THING"));
    let mut wrong = command(&["check", "-e", "127.0.0.1:1"]);
    let output = wrong
        .env("ENTRYWAY_CONNECT_TIMEOUT", "soon")
        .output()
        .await
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(78),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut several = command(&["check"]);
    let output = several
        .env("ENTRYWAY_ENDPOINT", "127.0.0.1:1 127.0.0.1:2")
        .output()
        .await
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && out.contains("127.0.0.1:2"),
        "{out}"
    );
}

#[tokio::test]
async fn no_dns_and_nothing_up_at_the_start() {
    // A server that never answers: it listens and says nothing.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let dns = silent.local_addr().unwrap().to_string();
    let began = tokio::time::Instant::now();
    let args = [
        "--peering",
        "--system",
        "s",
        "--region",
        "us-east-1",
        "--listen",
        "127.0.0.1:0",
    ];
    let more = [
        "--admin",
        "127.0.0.1:0",
        "--control",
        "off",
        "--zone",
        "none",
        "--dns-server",
        &dns,
        "--log-format",
        "json",
    ];
    let mut process = Process::run(&[&args[..], &more].concat()).await;
    assert!(
        process.out().contains("0/0 healthy, resolving"),
        "{}",
        process.out()
    );
    assert!(began.elapsed() < std::time::Duration::from_secs(3));
    tokio::net::TcpStream::connect(process.address())
        .await
        .unwrap();
    eventually("told", || !process.events("dns.error").is_empty()).await;
    assert_eq!(process.term().await, 0);
}
