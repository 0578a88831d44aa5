//! Two instances that forward to each other: one request would go round until the descriptors run out.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use serde_json::Value;

use crate::harness::child::Process;
use crate::harness::client::get;
use crate::harness::eventually;

#[tokio::test]
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
