//! What an instance costs while nothing happens: how often it wakes.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::harness::child::Process;
use crate::harness::client::read_exactly;
use crate::harness::upstream::{Upstream, datomic, entry_point};
use crate::harness::{Conf, LONG, eventually};

/// How long wake-ups are counted.
const WATCHED: Duration = Duration::from_secs(3);

/// An idle instance needs about two wake-ups a second. The bound leaves room for a busy machine and is far below the ten
/// a second of one task that ticks every 100 ms.
const MOST_PER_SECOND: f64 = 8.0;

/// Times that all threads of a process have gone to sleep and were woken.
fn wake_ups(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |path: std::path::PathBuf| {
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.map_or(0, |count| count.trim().parse::<u64>().unwrap())
    };
    tasks.map(|task| of_task(task.unwrap().path())).sum()
}

async fn wake_ups_per_second(process: &Process) -> f64 {
    let (before, began) = (wake_ups(process.pid()), Instant::now());
    sleep(WATCHED).await;
    (wake_ups(process.pid()) - before) as f64 / began.elapsed().as_secs_f64()
}

/// Waits until the instance has nothing to settle any more: the first round is over, and its clients are quiet.
async fn settled(process: &Process) {
    let mut last = f64::MAX;
    let began = Instant::now();
    while last > MOST_PER_SECOND {
        assert!(began.elapsed() < LONG * 2, "{last} wake-ups a second");
        last = wake_ups_per_second(process).await;
    }
}

async fn ask(stream: &mut TcpStream) {
    let request = b"GET / HTTP/1.1\r\nHost: entry\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let answer = entry_point("system");
    assert_eq!(read_exactly(stream, answer.len()).await, answer);
}

#[tokio::test]
async fn an_idle_instance_sleeps_and_idle_connections_wake_nobody() {
    let upstream = datomic("system").await;
    let conf = Conf::to(&[upstream.address]).upstream("health.kind = \"datomic\"");
    let process = Process::with(&conf).await;
    let up = || process.events("endpoint.state").len() == 1;
    eventually("the address is up", up).await;
    settled(&process).await;
    let mut idle = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(process.address()).await.unwrap();
        ask(&mut stream).await;
        idle.push(stream);
    }
    settled(&process).await;
    // Out of its sleep at once: requests are answered, a mute upstream is suspected, ends are seen.
    ask(&mut idle[0]).await;
    drop(idle);
    let closed = || process.events("conn.close").len() == 50;
    eventually("their ends are seen", closed).await;
    settled(&process).await;
}

#[tokio::test]
async fn a_request_into_the_sleep_is_watched() {
    // Answers the first request of each connection, and is mute from then on.
    let upstream = Upstream::start("127.0.0.1:0", |mut stream, _| async move {
        let mut message = [0; 4096];
        let answer = entry_point("system");
        if stream.read(&mut message).await.unwrap_or(0) > 0 {
            let _ = stream.write_all(&answer).await;
        }
        while stream.read(&mut message).await.unwrap_or(0) > 0 {}
    })
    .await;
    let conf = Conf::to(&[upstream.address]).upstream("health.kind = \"datomic\"");
    let process = Process::with(&conf).await;
    let mut stream = TcpStream::connect(process.address()).await.unwrap();
    ask(&mut stream).await;
    settled(&process).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: entry\r\n\r\n")
        .await
        .unwrap();
    let suspected = || {
        let states = process.events("endpoint.state");
        states.iter().any(|state| state["to"] == "suspect")
    };
    eventually("the mute address is suspected", suspected).await;
}

/// The kernel's timer of a connection from this machine to `port`, as /proc/net/tcp has it; 2: keepalive.
fn timer_to(port: u16) -> Option<u8> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let wanted = format!("0100007F:{port:04X}");
    let timers = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Established, and the end that connected.
        let is_it = *words.get(2)? == wanted && words[3] == "01";
        is_it.then(|| words[5].split(':').next()?.parse().ok())?
    });
    timers.max()
}

/// They get their options when they are a second old, whether or not a byte ever moves, and spares as well.
#[tokio::test]
async fn connections_at_rest_are_watched_by_the_kernel() {
    for warm in [0, 1] {
        let echo = Upstream::echo().await;
        let conf = Conf::to(&[echo.address])
            .upstream("health.kind = \"off\"")
            .upstream(&format!("warm.spares = {warm}"));
        let process = Process::with(&conf).await;
        let client = match warm {
            0 => Some(TcpStream::connect(process.address()).await.unwrap()),
            _ => None,
        };
        let is_watched = || timer_to(echo.address.port()) == Some(2);
        eventually("the upstream leg has keepalive", is_watched).await;
        drop(client);
    }
}

#[tokio::test]
async fn a_connection_that_was_held_is_watched_too() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let to = socket.local_addr().unwrap().as_socket().unwrap();
    let conf = Conf::to(&[to]).upstream("health.kind = \"off\"");
    let process = Process::with(&conf).await;
    let _client = TcpStream::connect(process.address()).await.unwrap();
    // For longer than the supervisor looks at a connection on which nothing moves.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(timer_to(to.port()), None);
    socket.listen(16).unwrap();
    let is_watched = || timer_to(to.port()) == Some(2);
    eventually("the upstream leg has keepalive", is_watched).await;
}
