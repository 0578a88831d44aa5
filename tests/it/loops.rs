//! Two instances that forward to each other: one request would go round until the descriptors run out.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use serde_json::Value;

use crate::harness::child::{Process, run};
use crate::harness::client::get;
use crate::harness::eventually;
use crate::harness::namespace::in_a_namespace;

#[tokio::test]
#[cfg_attr(
    any(not(target_os = "linux"), entryway_portable),
    ignore = "instances are registered on Linux only"
)]
async fn the_listeners_of_an_instance_that_forwards_to_us_are_refused() {
    // Held until the second instance takes it: nobody else is given the port.
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let second: SocketAddr = held.local_addr().unwrap();
    let endpoint = second.to_string();
    let common = ["--admin", "127.0.0.1:0", "--probe", "tcp", "--listen"];
    let args = [&common[..], &["127.0.0.1:0", "--endpoint", &endpoint]].concat();
    let mut first = Process::run(&args).await;
    let endpoint = first.address().to_string();
    drop(held);
    let listen = second.to_string();
    let args = [&common[..], &[listen.as_str(), "--endpoint", &endpoint]].concat();
    let mut process = Process::run(&args).await;
    let said = |process: &Process| {
        process
            .events("start")
            .iter()
            .filter_map(|event| event["warning"].as_str().map(str::to_owned))
            .any(|warning| warning.contains("which forwards to this one"))
    };
    eventually("one of them refuses the other", || {
        said(&process) || said(&first)
    })
    .await;
    let mut open = Vec::new();
    for process in [&mut first, &mut process] {
        let admin = process.admin().await;
        let endpoints: Value = serde_json::from_str(&get(admin, "/v1/endpoints").await).unwrap();
        let addresses = endpoints["endpoints"][0]["addresses"].as_array().unwrap();
        open.push(addresses.len());
    }
    assert!(open.contains(&0), "{open:?}");
}

/// A front that is its own proxy would connect to itself for every connection that it makes.
#[tokio::test]
async fn a_proxy_that_is_our_own_listener_is_refused() {
    for (listen, via) in [
        ("127.0.0.1:8182", "socks5://127.0.0.1:8182"),
        ("127.0.0.1:8182", "http://localhost:8182"),
        ("[::1]:8182", "socks5://[::1]:8182"),
    ] {
        let args = [
            "check",
            "-e",
            "entry.example:8182",
            "-l",
            listen,
            "--via",
            via,
        ];
        let (code, out, err) = run(&args).await;
        assert_eq!(code, 78, "{via}: {out}{err}");
        assert!(err.contains("is our own listener"), "{via}: {err}");
    }
    let args = [
        "check",
        "-e",
        "entry.example:8182",
        "--via",
        "socks5://127.0.0.1:1080",
    ];
    let (code, out, err) = run(&args).await;
    assert_eq!(code, 0, "{out}{err}");
}

/// Behind a wildcard address every address of this machine is our own: named as it stands at check, found by name at
/// DNS, and never a connection that comes round.
#[tokio::test]
async fn a_wildcard_listener_and_an_address_of_this_machine() {
    // In a network namespace of its own, with an address that is no loopback one.
    let script = r#"
set -e
ip link set lo up
ip addr add 10.9.9.9/32 dev lo
set +e
"$0" check -l 0.0.0.0:8182 --allow-remote -e 10.9.9.9:8182 2>check.err >/dev/null; echo "check $?"
echo "10.9.9.9 entry.example" > hosts
mount --bind hosts /etc/hosts
"$0" run -l 0.0.0.0:8182 --allow-remote -e entry.example:8182 --admin 127.0.0.1:8183 --control off \
    --probe off --when-all-down try 2>run.err >run.out &
for i in $(seq 200); do grep -q listening run.out && break; sleep 0.05; done
exec 3<>/dev/tcp/10.9.9.9/8182
echo hello >&3
timeout 20 cat <&3 >/dev/null
exec 4<>/dev/tcp/127.0.0.1/8183
printf 'GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&4
timeout 20 cat <&4 | grep -a '^entryway_connections_accepted_total'
kill %1; wait
"#;
    let Some(out) = in_a_namespace(script).await else {
        return;
    };
    assert!(out.contains("check 78"), "{out}");
    let accepted = r#"entryway_connections_accepted_total{listener="datomic"} 1"#;
    assert!(out.lines().any(|line| line == accepted), "{out}");
}
