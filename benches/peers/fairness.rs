//! Question: does one elephant hold up a thousand mice?
//!
//! A thousand connections that each send a little twice a second are no load; what their slowest hundredth waits is
//! what stood in the way. Measured twice on the same connections, first alone, then beside one download that takes all
//! it can get through the same proxy. The ends need the same cores as the proxy, so a thousand connections that pass no
//! proxy are put beside the same download: what they wait is the machine's, only what a proxy adds to it is the proxy's.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use hdrhistogram::Histogram;

use crate::load::{Bytes, Work, header, stream_bulk};
use crate::proxies::Peer;
use crate::table::median;
use crate::{belongs_beside, undisturbed};

const MICE: usize = 1000;

/// Bytes of a mouse's message.
const SIZE: usize = 1024;

/// How long the elephant runs before the mice are looked at: its windows have opened by then.
const HEAD_START: Duration = Duration::from_millis(100);

/// What one run of one peer came to.
struct Sample {
    alone_us: f64,
    beside_us: f64,
    /// Of mice that pass no proxy, beside an elephant that does.
    direct_us: f64,
    /// Of the elephant.
    bytes_per_second: f64,
}

/// All runs of one peer, by round.
#[derive(Default)]
struct Samples {
    good: Vec<Sample>,
    disturbed: usize,
}

/// One connection, and when it speaks: the same for every peer, alone and beside the elephant.
struct Mouse {
    number: usize,
    stream: tokio::net::TcpStream,
    sent: Vec<u8>,
}

/// Measures all peers, in rounds that alternate them, prints the table and returns it.
pub(crate) fn mice(peers: &[Peer], rounds: usize, time: Duration) -> serde_json::Value {
    let mut samples: Vec<Samples> = peers.iter().map(|_| Samples::default()).collect();
    // The first is the way without a proxy.
    let direct = peers[0].address;
    for round in 0..rounds {
        for place in 0..peers.len() {
            let place = (place + round) % peers.len();
            let (peer, samples) = (&peers[place], &mut samples[place]);
            if belongs_beside(peer.name) {
                let found = undisturbed(peer, &mut samples.disturbed, || {
                    run(peer.address, direct, time)
                        .inspect_err(|error| eprintln!("mice: {}: {error}", peer.name))
                        .ok()
                });
                samples.good.extend(found.map(|(sample, _)| sample));
            }
        }
    }
    print(peers, &samples);
    as_json(peers, &samples)
}

fn run(target: SocketAddr, direct: SocketAddr, time: Duration) -> io::Result<Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (mice, direct) = (open(target).await?, open(direct).await?);
        let (mice, alone_us) = scurry(mice, Instant::now() + time).await?;
        let (beside_us, bytes_per_second) = beside(mice, target, time).await?;
        let (direct_us, _) = beside(direct, target, time).await?;
        Ok(Sample {
            alone_us,
            beside_us,
            direct_us,
            bytes_per_second,
        })
    })
}

async fn open(target: SocketAddr) -> io::Result<Vec<Mouse>> {
    let mut mice = Vec::with_capacity(MICE);
    for number in 0..MICE {
        mice.push(Mouse::open(target, number).await?);
    }
    Ok(mice)
}

/// What mice wait beside an elephant that goes through `target`, and its bytes per second.
async fn beside(mice: Vec<Mouse>, target: SocketAddr, time: Duration) -> io::Result<(f64, f64)> {
    let until = Instant::now() + HEAD_START + time;
    let elephant = thread::spawn(move || trample(target, until));
    sleep(HEAD_START).await;
    let mice = scurry(mice, until).await;
    let bytes_per_second = elephant
        .join()
        .map_err(|_| io::Error::other("the elephant panicked"))??;
    Ok((mice?.1, bytes_per_second))
}

/// The elephant: one download; returns its bytes per second.
fn trample(target: SocketAddr, until: Instant) -> io::Result<f64> {
    let (began, moved) = (Instant::now(), AtomicU64::new(0));
    stream_bulk(target, Work::Down, Bytes::Raw, until, &moved)?;
    Ok(moved.load(Relaxed) as f64 / began.elapsed().as_secs_f64())
}

/// Lets all mice loose until then; returns them, and the 99th percentile of their round trips in microseconds.
async fn scurry(mice: Vec<Mouse>, until: Instant) -> io::Result<(Vec<Mouse>, f64)> {
    let mut tasks: tokio::task::JoinSet<_> =
        mice.into_iter().map(|mouse| mouse.live(until)).collect();
    let mut mice = Vec::with_capacity(MICE);
    let mut all = Histogram::<u64>::new(3).expect("three digits");
    let mut failed = None;
    while let Some(done) = tasks.join_next().await {
        match done.expect("a task that does not panic") {
            Ok((mouse, times)) => {
                mice.push(mouse);
                for took in times {
                    all += took.as_micros().max(1) as u64;
                }
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok((mice, all.value_at_quantile(0.99) as f64)),
    }
}

// === impl Mouse ===

impl Mouse {
    /// Connects and makes one round trip: what an open costs is another row's question.
    async fn open(target: SocketAddr, number: usize) -> io::Result<Self> {
        let mut stream = tokio::net::TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&header(Work::RoundTrips(SIZE))).await?;
        let sent = (0..SIZE).map(|place| (place * 7 + number) as u8).collect();
        let mut mouse = Self {
            number,
            stream,
            sent,
        };
        mouse.round_trip().await?;
        Ok(mouse)
    }

    async fn round_trip(&mut self) -> io::Result<Duration> {
        let mut got = [0; SIZE];
        let began = Instant::now();
        self.stream.write_all(&self.sent).await?;
        self.stream.read_exact(&mut got).await?;
        let took = began.elapsed();
        if got[..] != self.sent {
            return Err(io::Error::other("the reply differs from the request"));
        }
        Ok(took)
    }

    /// Two round trips a second, on average, and never in step with the others.
    async fn live(mut self, until: Instant) -> io::Result<(Self, Vec<Duration>)> {
        let mut random = fastrand::Rng::with_seed(self.number as u64);
        let mut times = Vec::new();
        let mut pause = Duration::from_micros(random.u64(0..500_000));
        while Instant::now() + pause < until {
            sleep(pause).await;
            times.push(self.round_trip().await?);
            pause = Duration::from_micros(random.u64(250_000..750_000));
        }
        Ok((self, times))
    }
}

// === impl Samples ===

impl Samples {
    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.good.iter().map(of))
    }

    /// How many times longer the mice wait beside the elephant, round by round.
    fn ratio(&self) -> f64 {
        self.median(|sample| sample.beside_us / sample.alone_us)
    }
}

fn print(peers: &[Peer], samples: &[Samples]) {
    println!("\n### mice: p99 of {MICE}, alone and beside one elephant\n");
    println!(
        "| {:<22} |     alone |    beside | ratio | direct beside | of that |      elephant | rounds | disturbed |",
        ""
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (peer, samples) in peers.iter().zip(samples) {
        if samples.good.is_empty() {
            continue;
        }
        println!(
            "| {:<22} | {:>6.0} us | {:>6.0} us | {:>5.2} | {:>10.0} us | {:>7.2} | {:>6.2} Gbit/s | {:>6} | {} |",
            peer.name,
            samples.median(|sample| sample.alone_us),
            samples.median(|sample| sample.beside_us),
            samples.ratio(),
            samples.median(|sample| sample.direct_us),
            samples.median(|sample| sample.beside_us / sample.direct_us),
            samples.median(|sample| sample.bytes_per_second) * 8.0 / 1e9,
            samples.good.len(),
            samples.disturbed,
        );
    }
}

fn as_json(peers: &[Peer], samples: &[Samples]) -> serde_json::Value {
    let rows = peers.iter().zip(samples).map(|(peer, samples)| {
        let all = |of: fn(&Sample) -> f64| samples.good.iter().map(of).collect::<Vec<_>>();
        let value = serde_json::json!({
            "p99_us_alone": all(|sample| sample.alone_us),
            "p99_us_beside": all(|sample| sample.beside_us),
            "p99_us_direct_beside": all(|sample| sample.direct_us),
            "ratio": samples.ratio(),
            "elephant_bytes_per_second": all(|sample| sample.bytes_per_second),
            "disturbed": samples.disturbed,
        });
        (peer.name.to_owned(), value)
    });
    serde_json::Value::Object(rows.collect())
}
