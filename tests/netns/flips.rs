//! Zones that come and go, and probes that do: live connections must not notice.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{echo, eventually, last, pattern, request, within};
use crate::process::Proxy;
use crate::server::{Probes, Server};
use crate::topology::{Topology, ZONES};
use crate::{MS, SECOND, Table};

/// Live connections, each of which says something of its own again and again and checks what comes back.
struct Live {
    stop: Arc<AtomicBool>,
    echoes: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Vec<String>>>,
}

impl Live {
    /// Opens them, each served once, and keeps them talking.
    fn start(to: SocketAddr, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let echoes = Arc::new(AtomicU64::new(0));
        let threads = 4;
        let workers = (0..threads).map(|thread| {
            let mut streams: Vec<_> = (thread..count)
                .step_by(threads)
                .map(|id| (id as u64, Some(open(to, id as u64))))
                .collect();
            let (stop, echoes) = (Arc::clone(&stop), Arc::clone(&echoes));
            std::thread::spawn(move || {
                let mut wrong = Vec::new();
                for turn in 1.. {
                    for (id, slot) in &mut streams {
                        let Some(stream) = slot else { continue };
                        let body =
                            pattern(*id, turn, 64 + (turn as usize * 37 + *id as usize) % 2000);
                        match echo(stream, &body) {
                            Ok(()) => _ = echoes.fetch_add(1, Relaxed),
                            Err(error) => {
                                wrong.push(format!("{id}, turn {turn}: {error}"));
                                *slot = None;
                            }
                        }
                    }
                    if stop.load(Relaxed) {
                        break;
                    }
                }
                wrong
            })
        });
        let workers = workers.collect();
        Self {
            stop,
            echoes,
            workers,
        }
    }

    /// Echoes so far.
    fn echoes(&self) -> u64 {
        self.echoes.load(Relaxed)
    }

    /// Lets every connection talk once more; what went wrong.
    fn end(self) -> Vec<String> {
        self.stop.store(true, Relaxed);
        let wrong = self.workers.into_iter().map(|one| one.join().unwrap());
        wrong.flatten().collect()
    }
}

fn open(to: SocketAddr, id: u64) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(10 * SECOND)).unwrap();
    echo(&mut stream, &pattern(id, 0, 64)).unwrap_or_else(|error| panic!("{id}: {error}"));
    stream
}

const FLIPPING: &str = "
[[upstream]]
[upstream.health]
interval = \"200ms\"
down_interval = \"200ms\"
rise = 1
[upstream.failback]
after = \"100ms\"
dwell = \"0s\"
ramp = \"0s\"
rebalance = \"off\"
[log]
connections = \"errors\"
";

/// Live connections on a zone that is well, while the preferred one comes and goes. They are not moved to it: that ends
/// them between two answers, which is right and would hide what is wrong.
pub fn zone_flips(topology: &Topology, table: &mut Table) {
    let (count, flips) = if crate::long() {
        (9000, 200)
    } else {
        (1000, 40)
    };
    std::fs::write("/run/flipping.toml", FLIPPING).unwrap();
    let proxy = Proxy::entryway(&["--config", "/run/flipping.toml"]);
    let fds_before = proxy.descriptors();
    // All of them live on zone b or c.
    topology.mode("a", "refuse");
    eventually(5 * SECOND, || (proxy.state("a") == "down").then_some(()));
    let live = Live::start(proxy.address, count);
    let all_talk = |turns: u64| {
        let until = live.echoes() + turns * count as u64;
        eventually(60 * SECOND, || (live.echoes() >= until).then_some(()));
    };
    all_talk(2);
    // Memory is compared after the first flips: buffers and tables have their size then.
    let mut rss = (0.0, 0.0);
    let mut failed = 0;
    for flip in 0..flips {
        let (mode, state) = if flip % 2 == 0 {
            ("ok", "up")
        } else {
            ("refuse", "down")
        };
        topology.mode("a", mode);
        eventually(10 * SECOND, || (proxy.state("a") == state).then_some(()));
        // Clients come anew all the while.
        failed += (0..20)
            .filter(|_| request(proxy.address, 5 * SECOND).is_err())
            .count();
        if flip + 1 == flips / 4 {
            all_talk(1);
            rss.0 = proxy.rss();
        }
    }
    all_talk(1);
    rss.1 = proxy.rss();
    let transitions = proxy.metric("entryway_endpoint_transitions_total", &["zone=\"a\""]);
    let echoes = live.echoes();
    let wrong = live.end();
    topology.mode("a", "ok");
    let gone = within(10 * SECOND, || {
        (proxy.metric("entryway_connections", &[]) == 0.0).then_some(())
    });
    // Probes hold one now and then.
    let fds_after = within(5 * SECOND, || {
        (proxy.descriptors() <= fds_before + 3).then_some(0)
    })
    .unwrap_or_else(|| proxy.descriptors() - fds_before);
    let growth = (rss.1 / rss.0 - 1.0) * 100.0;
    table.row(
        &format!("{flips} zone flips, {count} live elsewhere"),
        "0 wrong bytes, 0 ends, 0 fds, memory < +1 %",
        format!(
            "{} wrong or ended {:?}, {echoes} echoes, {transitions} changes, {failed} new ones fail, {fds_after} fds, memory {growth:+.2} % of {:.1} MiB",
            wrong.len(),
            wrong.first(),
            rss.0 / 1048576.0
        ),
        wrong.is_empty()
            && failed == 0
            && gone.is_some()
            && fds_after == 0
            && growth < 1.0
            && transitions >= f64::from(flips),
    );
}

/// Every second probe fails.
pub fn every_second_probe(_lab: &Topology, table: &mut Table) {
    let port = 9182;
    let _servers = ZONES.map(|zone| Server::start(zone, port, Probes::EverySecond));
    let flags = ["--probe-interval", "400ms"];
    let proxy = Proxy::at_port(port, &flags);
    eventually(5 * SECOND, || (proxy.healthy() == 3).then_some(()));
    let before = proxy.transitions();
    let time = Duration::from_secs(if crate::long() { 600 } else { 10 });
    let began = Instant::now();
    let mut stream = TcpStream::connect(proxy.address).unwrap();
    stream.set_read_timeout(Some(5 * SECOND)).unwrap();
    let mut cut = 0;
    while began.elapsed() < time {
        cut += usize::from(crate::client::ask_path(&mut stream, "/t", "").is_err());
        last(20 * MS);
    }
    let failed_probes = proxy.metric("entryway_probes_total", &["http_503"]);
    let changes = proxy.transitions() - before;
    table.row(
        &format!("every second probe fails, {time:?}"),
        "≤ 6 changes of state, 0 cut",
        format!("{changes} changes, {cut} cut, {failed_probes} probes failed"),
        changes <= 6.0 && cut == 0 && failed_probes >= 10.0,
    );
}
