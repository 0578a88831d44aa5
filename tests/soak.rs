//! The long proof: pattern streams in both directions through the built binary, gigabytes of them, and 200 flips of a
//! zone under many live connections. Runs only when asked:
//!
//! ```sh
//! ENTRYWAY_SOAK=100G cargo test --release --test soak -- --nocapture
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "it/harness/upstream.rs"]
#[allow(dead_code)]
mod upstream;

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use upstream::{Upstream, pattern};

const STREAMS: u64 = 8;
const CHUNK: usize = 256 * 1024;
const FLIPS: usize = 200;

/// `10G`, `500M`, or plain bytes.
fn wanted() -> Option<u64> {
    let text = std::env::var("ENTRYWAY_SOAK").ok()?;
    let (number, unit) = match text.strip_suffix(['K', 'M', 'G', 'T']) {
        Some(number) => (number, text.chars().last()?),
        None => (text.as_str(), 'B'),
    };
    let shift = "BKMGT".find(unit)? * 10;
    Some(number.parse::<u64>().expect("ENTRYWAY_SOAK=10G") << shift)
}

/// The binary, and the address it says it listens on.
async fn entryway(words: &[&str]) -> (Child, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_entryway"));
    command.args([
        "run",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "off",
        "--control",
        "off",
        "--quiet",
        "conns",
    ]);
    command
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().expect("no line to paste");
    let address = line
        .split("http://")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    (child, address)
}

/// Open sockets: pipes that are empty are kept for the next bulk transfer.
fn descriptors(child: &Child) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", child.id().unwrap())).unwrap();
    open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .count()
}

fn resident(child: &Child) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", child.id().unwrap())).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

/// Sends and checks `count` bytes in each direction at once, against an echo; wrong bytes.
async fn stream(at: SocketAddr, key: usize, count: u64, done: Arc<AtomicU64>) -> u64 {
    let client = TcpStream::connect(at).await.unwrap();
    let (mut from, mut to) = client.into_split();
    let sender = tokio::spawn(async move {
        let mut sent = 0;
        while sent < count {
            let size = CHUNK.min((count - sent) as usize);
            to.write_all(&pattern(key + sent as usize, size))
                .await
                .unwrap();
            sent += size as u64;
        }
        to.shutdown().await.unwrap();
    });
    let (mut got, mut wrong) = (0, 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = from.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        let right = pattern(key + got as usize, read);
        if buffer[..read] != right {
            wrong += buffer[..read]
                .iter()
                .zip(&right)
                .filter(|(a, b)| a != b)
                .count() as u64;
        }
        got += read as u64;
        done.fetch_add(2 * read as u64, Relaxed);
    }
    sender.await.unwrap();
    wrong + count.abs_diff(got)
}

async fn integrity(total: u64) {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let (mut child, at) =
        entryway(&["--endpoint", &endpoint, "--probe", "off", "--zone", "none"]).await;
    let before = descriptors(&child);
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        streams.spawn(stream(
            at,
            number as usize * 1_000_003,
            total / STREAMS / 2,
            Arc::clone(&done),
        ));
    }
    let mut wrong = 0;
    let mut told = Instant::now();
    while !streams.is_empty() {
        tokio::select! {
            Some(result) = streams.join_next() => wrong += result.unwrap(),
            () = sleep(Duration::from_secs(1)) => {}
        }
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            println!("{:.1} GB so far", done.load(Relaxed) as f64 / 1e9);
        }
    }
    let carried = done.load(Relaxed) as f64 / 1e9;
    println!(
        "{carried:.2} GB in {:?}, {wrong} wrong bytes",
        began.elapsed()
    );
    assert_eq!(wrong, 0);
    let start = Instant::now();
    while descriptors(&child) > before {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{} sockets left, {before} before",
            descriptors(&child)
        );
        sleep(Duration::from_millis(20)).await;
    }
    child.kill().await.unwrap();
}

/// Many live connections on one zone while another goes down and up 200 times.
async fn flips() {
    let steady = Upstream::echo().await;
    let mut flipping = Some(Upstream::echo().await);
    let flips_at = flipping.as_ref().unwrap().address;
    let near = format!("{}?zone=a&name=steady", steady.address);
    let far = format!("{flips_at}?zone=b&name=flips");
    let fast = [
        "--probe",
        "tcp",
        "--probe-interval",
        "500ms",
        "--fall",
        "2",
        "--rise",
        "1",
    ];
    let (mut child, at) = entryway(
        &[
            &["--endpoint", &near, "--endpoint", &far, "--zone", "a"],
            &fast[..],
        ]
        .concat(),
    )
    .await;
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .maximum
        .unwrap_or(20_000);
    let many = 10_000.min(hard.saturating_sub(1000) / 4).max(100);
    let mut clients = Vec::new();
    for number in 0..many {
        let mut client = TcpStream::connect(at).await.unwrap();
        exchange(&mut client, number).await;
        clients.push(client);
    }
    let (memory, open) = (resident(&child), descriptors(&child));
    for flip in 0..FLIPS {
        flipping = match flipping.take() {
            Some(up) => {
                drop(up);
                None
            }
            None => Some(Upstream::start(&flips_at.to_string(), upstream::echo).await),
        };
        // Every connection is used once in ten flips; bytes that are wrong or missing end the test there.
        for (number, client) in clients.iter_mut().enumerate().skip(flip % 10).step_by(10) {
            exchange(client, (number + flip) as u64).await;
        }
        sleep(Duration::from_millis(700)).await;
    }
    let grown = resident(&child) as f64 / memory as f64 - 1.0;
    println!(
        "{many} live connections, {FLIPS} flips: 0 wrong bytes, 0 resets, memory {:+.2} %",
        grown * 100.0
    );
    assert!(grown < 0.01, "memory grew by {:.2} %", grown * 100.0);
    assert!(
        descriptors(&child) <= open + 8,
        "{} sockets, {open} before",
        descriptors(&child)
    );
    drop(clients);
    child.kill().await.unwrap();
}

async fn exchange(client: &mut TcpStream, key: u64) {
    let bytes = pattern(key as usize * 7919, 512);
    client.write_all(&bytes).await.unwrap();
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).await.unwrap();
    assert!(back == bytes, "wrong bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak() {
    let Some(total) = wanted() else {
        println!(
            "not asked for: ENTRYWAY_SOAK=100G cargo test --release --test soak -- --nocapture"
        );
        return;
    };
    integrity(total).await;
    // Short runs are for the bytes alone.
    if total >= 10 << 30 {
        flips().await;
    }
}
