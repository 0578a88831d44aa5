//! The end of a thousand busy keep-alive connections: how long the built binary takes to be empty, and what its clients
//! see of it, with HAProxy's soft stop beside it where HAProxy is found. Runs only when asked:
//!
//! ```sh
//! ENTRYWAY_DRAIN=1000 cargo test --release --test drain -- --nocapture
//! ```
//!
//! Every connection sends its next request 20 ms after the last one, or when that is answered if it takes longer; answers
//! take 5 to 50 ms. Two cores do not carry 50 requests a second on each of a thousand connections: what they did carry
//! is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "it/harness/upstream.rs"]
#[allow(dead_code)]
mod upstream;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use upstream::Upstream;

const PERIOD: Duration = Duration::from_millis(20);
const ANSWER_MS: std::ops::RangeInclusive<u64> = 5..=50;
const BODY: usize = 1024;
/// How long the load runs before the drain.
const LOAD: Duration = Duration::from_secs(4);
/// What an operator grants: then the rest is cut.
const DEADLINE: Duration = Duration::from_secs(10);
/// The promise, for entryway.
const EMPTY_WITHIN: Duration = Duration::from_millis(500);

/// How a client's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Between an answer and the next request.
    AtRest,
    /// A request had been sent, and nothing of an answer had come.
    Unanswered,
    /// Inside an answer.
    Truncated,
}

/// What the clients of one proxy have seen.
#[derive(Debug, Default)]
struct Seen {
    answers: u64,
    at_rest: usize,
    unanswered: usize,
    truncated: usize,
    empty_after: Duration,
}

/// The head of the next message, and what has come behind it; `None` where the stream ended before its first byte.
async fn head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<usize>, Ended> {
    loop {
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            return Ok(Some(end + 4));
        }
        match stream.read_buf(buffer).await {
            Ok(1..) => {}
            _ if buffer.is_empty() => return Ok(None),
            _ => return Err(Ended::Truncated),
        }
    }
}

/// Answers each request after a while, as long as its client likes.
async fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::new();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n{}",
        "x".repeat(BODY)
    );
    while let Ok(Some(end)) = head(&mut stream, &mut buffer).await {
        buffer.drain(..end);
        sleep(Duration::from_millis(fastrand::u64(ANSWER_MS))).await;
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A keep-alive client until its connection ends, or is to end by the server's word.
async fn client(mut stream: TcpStream, answers: Arc<AtomicU64>) -> Ended {
    let mut buffer = Vec::new();
    sleep(Duration::from_millis(fastrand::u64(
        ..PERIOD.as_millis() as u64,
    )))
    .await;
    loop {
        let next = Instant::now() + PERIOD;
        let sent = stream
            .write_all(b"GET / HTTP/1.1\r\nHost: drain.test\r\n\r\n")
            .await;
        if sent.is_err() {
            return Ended::Unanswered;
        }
        let end = match head(&mut stream, &mut buffer).await {
            Ok(Some(end)) => end,
            Ok(None) => return Ended::Unanswered,
            Err(ended) => return ended,
        };
        let closes = buffer[..end]
            .to_ascii_lowercase()
            .windows(17)
            .any(|field| field == b"connection: close");
        buffer.drain(..end);
        while buffer.len() < BODY {
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return Ended::Truncated;
            }
        }
        buffer.clear();
        answers.fetch_add(1, Relaxed);
        if closes {
            return Ended::AtRest;
        }
        // A close that comes meanwhile is seen before the next request, as a pool sees it.
        tokio::select! {
            biased;
            read = stream.read_buf(&mut buffer) => {
                assert!(!matches!(read, Ok(1..)), "bytes that nobody asked for");
                return Ended::AtRest;
            }
            () = sleep_until(next) => {}
        }
    }
}

/// Loads a proxy through `count` connections, stops it by `signal`, and waits until its clients have seen the end.
async fn drain(proxy: &Child, at: SocketAddr, count: usize, signal: Signal) -> Seen {
    let answers = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let stream = TcpStream::connect(at).await.unwrap();
        stream.set_nodelay(true).unwrap();
        clients.spawn(client(stream, Arc::clone(&answers)));
    }
    sleep(LOAD).await;
    assert_eq!(clients.len(), count);
    assert!(clients.try_join_next().is_none(), "ended before its time");
    let mut seen = Seen {
        answers: answers.load(Relaxed),
        ..Seen::default()
    };
    let began = Instant::now();
    let pid = Pid::from_raw(proxy.id().unwrap() as i32).unwrap();
    kill_process(pid, signal).unwrap();
    while let Some(ended) = clients.join_next().await {
        seen.empty_after = began.elapsed();
        match ended.unwrap() {
            Ended::AtRest => seen.at_rest += 1,
            Ended::Unanswered => seen.unanswered += 1,
            Ended::Truncated => seen.truncated += 1,
        }
    }
    println!(
        "{:>8.0} requests/s · empty after {:>6} ms · closed at rest {:>4} · met the close {:>3} · truncated {:>3}",
        seen.answers as f64 / LOAD.as_secs_f64(),
        seen.empty_after.as_millis(),
        seen.at_rest,
        seen.unanswered,
        seen.truncated
    );
    seen
}

async fn entryway(to: SocketAddr, count: usize) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_entryway"));
    let endpoint = to.to_string();
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), "[upstream]\nframing = \"http\"\n").unwrap();
    command.args(["run", "--endpoint", &endpoint, "--probe", "off", "--zone"]);
    command.args(["none", "--listen", "127.0.0.1:0", "--admin", "off"]);
    command.args(["--control", "off", "--log-format", "json", "--config"]);
    command.arg(config.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = out.next_line().await.unwrap().expect("no line to paste");
    let at = line.split("http://").nth(1).unwrap();
    let at = at.split(' ').next().unwrap().parse().unwrap();
    let mut log = child.stderr.take().unwrap();
    let log = tokio::spawn(async move {
        let mut text = String::new();
        log.read_to_string(&mut text).await.unwrap();
        text
    });
    print!("entryway         ");
    let seen = drain(&child, at, count, Signal::TERM).await;
    let status = child.wait().await.unwrap();
    let log = log.await.unwrap();
    assert!(status.success(), "{status}");
    let closes: Vec<serde_json::Value> = log
        .lines()
        .filter(|line| line.contains("\"conn.close\""))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let apart = closes
        .iter()
        .filter(|line| line["http.dropped"] == true)
        .count();
    println!("                 {apart} requests counted apart");
    assert_eq!(closes.len(), count, "one line each");
    assert!(
        closes
            .iter()
            .all(|line| line["conn.reason"] == "drain_idle")
    );
    assert_eq!(seen.truncated, 0);
    assert!(seen.unanswered <= apart, "{seen:?}, {apart} counted apart");
    assert!(
        apart * 100 <= count,
        "{apart} of {count} requests met the close"
    );
    assert!(seen.empty_after <= EMPTY_WITHIN, "{:?}", seen.empty_after);
}

/// The same with HAProxy in one of its modes; only told, not judged.
async fn haproxy(mode: &str, to: SocketAddr, count: usize, folder: &Path) {
    let spare = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = spare.local_addr().unwrap();
    drop(spare);
    let file = folder.join(format!("haproxy-{mode}.cfg"));
    let deadline = DEADLINE.as_secs();
    let text = format!(
        "global\n hard-stop-after {deadline}s\ndefaults\n mode {mode}\n timeout connect 2s\n timeout client 1h\n \
         timeout server 1h\nlisten l\n bind {at}\n server s {to}\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file).kill_on_drop(true);
    let Ok(mut child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        println!("haproxy not found: nothing beside it");
        return;
    };
    while TcpStream::connect(at).await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
    print!("haproxy, {mode:<4}    ");
    drain(&child, at, count, Signal::USR1).await;
    child.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_connections_end_between_answers() {
    let Ok(count) = std::env::var("ENTRYWAY_DRAIN") else {
        println!(
            "not asked for: ENTRYWAY_DRAIN=1000 cargo test --release --test drain -- --nocapture"
        );
        return;
    };
    let count: usize = count.parse().expect("ENTRYWAY_DRAIN=CONNECTIONS");
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let upstream = Upstream::start("127.0.0.1:0", |stream, _| serve(stream)).await;
    let folder = tempfile::tempdir().unwrap();
    entryway(upstream.address, count).await;
    haproxy("tcp", upstream.address, count, folder.path()).await;
    haproxy("http", upstream.address, count, folder.path()).await;
}
