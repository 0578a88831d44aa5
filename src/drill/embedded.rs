//! A ground of the drill's own: mock zones, their names in a DNS server of ours, and an entryway before them, all in
//! this process on ports that nobody else has.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::Error;
use crate::app::{self, Handles, StartContext, StopRequest};
use crate::events::Log;
use crate::http::client::HttpTarget;
use crate::mock::{self, Mock, MockConfig};
use crate::settings::Loaded;

/// The zone that is called our own.
pub const OWN: &str = "a";

/// Settings that differ from the defaults, so that a drill is over soon: the return to a zone, not its loss.
pub const SHORTENED: &str =
    "failback after 1 s (60 s by default), probes of what is down every second (5 s by default)";

/// The zones are healthy within milliseconds, or never.
const HEALTHY_WITHIN: Duration = Duration::from_secs(10);

/// How often the DNS server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// Mock zones and their names.
#[derive(Debug)]
pub struct Mocks {
    pub(super) mock: Mock,
    pub(super) names: EmbeddedNames,
}

/// An entryway in this process; it ends when this is dropped.
#[derive(Debug)]
pub struct EmbeddedProxy {
    handles: Handles,
    admin: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// Answers for the names of the zones.
#[derive(Debug)]
pub(super) struct EmbeddedNames {
    pub(super) address: SocketAddr,
    answers: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How names are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum NameAnswers {
    Addresses,
    /// SERVFAIL.
    Fail,
    /// There is such a name, without an address.
    Empty,
}

// === impl Mocks ===

impl Mocks {
    /// Zones a, b and c.
    pub fn start() -> Result<Self, Error> {
        let cannot = |what: String| Error::Cannot {
            what,
            next: "entryway mock shows whether mocks can be started on this machine",
        };
        let mock = mock::start(MockConfig::default())
            .map_err(|error| cannot(format!("start the mock zones: {error}")))?;
        let zones = mock.zones().iter();
        let addresses = zones.map(|zone| (host(zone.name()), zone.address().ip()));
        let names = EmbeddedNames::start(addresses.collect())
            .map_err(|error| cannot(format!("start a DNS server for the mock zones: {error}")))?;
        Ok(Self { mock, names })
    }

    /// What `entryway run` is to be given to stand before them: every port is one that is free.
    pub fn arguments(&self) -> Vec<String> {
        let mut words: Vec<String> = [
            "--listen=127.0.0.1:0",
            "--admin=127.0.0.1:0",
            "--control=off",
            "--faults=127.0.0.1:0",
            "--failback-after=1s",
            "--allow-local-answers",
        ]
        .map(str::to_owned)
        .into();
        words.push(format!("--dns-server={}", self.names.address));
        words.push(format!("--zone={OWN}"));
        for zone in self.mock.zones() {
            let (host, port) = (host(zone.name()), zone.address().port());
            words.push(format!("--endpoint={host}:{port}?zone={}", zone.name()));
        }
        words
    }
}

/// The name of a zone's entry point.
pub(super) fn host(zone: &str) -> String {
    format!("{zone}.drill.internal")
}

// === impl EmbeddedProxy ===

impl EmbeddedProxy {
    /// Starts it; returns once all zones are healthy.
    pub async fn start(mut loaded: Loaded) -> Result<Self, Error> {
        for upstream in &mut loaded.settings.upstreams {
            upstream.health.down_interval = Duration::from_secs(1);
            upstream.failback.ramp = Duration::from_secs(1);
        }
        loaded.settings.faults.max_ttl = Duration::from_secs(24 * 3600);
        let cannot = |what: String| Error::Cannot {
            what,
            next: "entryway demo shows whether an entryway can be started on this machine",
        };
        let (started, starts) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("drill-proxy".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(error.to_string()))),
                };
                runtime.block_on(async {
                    let origin = StartContext {
                        is_private: true,
                        ..StartContext::default()
                    };
                    match app::start_with(loaded, Log::default(), origin) {
                        Ok(app) => {
                            let _ = started.send(Ok((app.handles().clone(), app.admin())));
                            app.run().await;
                        }
                        Err(error) => drop(started.send(Err(error.to_string()))),
                    }
                });
            })
            .map_err(|error| cannot(format!("start an entryway: {error}")))?;
        let gone = |_| cannot("start an entryway: its thread has ended".to_owned());
        let started = starts.await.map_err(gone)?;
        let (handles, admin) =
            started.map_err(|why| cannot(format!("start an entryway: {why}")))?;
        let admin = admin.ok_or_else(|| cannot("the entryway has no admin port".to_owned()))?;
        let proxy = Self {
            handles,
            admin,
            thread: Some(thread),
        };
        let began = Instant::now();
        let zones = 3;
        while !proxy
            .handles
            .upstreams
            .iter()
            .all(|upstream| upstream.view.load().healthy == zones)
        {
            if began.elapsed() > HEALTHY_WITHIN {
                return Err(cannot("the mock zones do not become healthy".to_owned()));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(proxy)
    }

    /// Whom to ask about it.
    pub fn admin(&self) -> HttpTarget {
        HttpTarget::Tcp(self.admin.to_string())
    }
}

impl Drop for EmbeddedProxy {
    fn drop(&mut self) {
        self.handles.stop(StopRequest::Now);
        if let Some(thread) = self.thread.take() {
            // A panic of its thread was printed when it happened.
            let _ = thread.join();
        }
    }
}

// === impl EmbeddedNames ===

impl EmbeddedNames {
    fn start(addresses: BTreeMap<String, IpAddr>) -> std::io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(LOOK))?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let answers = Arc::new(AtomicU8::new(NameAnswers::Addresses as u8));
        let answering = Arc::clone(&answers);
        let thread = std::thread::Builder::new()
            .name("drill-names".to_owned())
            .spawn(move || {
                let mut query = [0; 512];
                while !stopping.load(Relaxed) {
                    // An error is the timeout, or one datagram that is lost: the resolver asks again.
                    if let Ok((length, from)) = socket.recv_from(&mut query)
                        && let Some(answer) = answer(
                            &query[..length],
                            &addresses,
                            NameAnswers::of(answering.load(Relaxed)),
                        )
                    {
                        let _ = socket.send_to(&answer, from);
                    }
                }
            })?;
        Ok(Self {
            address,
            answers,
            stop,
            thread: Some(thread),
        })
    }

    /// From the next query on.
    pub(super) fn set(&self, answers: NameAnswers) {
        self.answers.store(answers as u8, Relaxed);
    }
}

impl Drop for EmbeddedNames {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// === impl NameAnswers ===

impl NameAnswers {
    const fn of(number: u8) -> Self {
        match number {
            1 => Self::Fail,
            2 => Self::Empty,
            _ => Self::Addresses,
        }
    }
}

/// The answer to a query with one question (RFC 1035): the address of a name we have, for a second; of others that there
/// is none.
fn answer(
    query: &[u8],
    addresses: &BTreeMap<String, IpAddr>,
    answers: NameAnswers,
) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const A: [u8; 2] = [0, 1];
    let mut at = HEADER;
    let mut labels: Vec<String> = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = query.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    let question = query.get(HEADER..at + 4)?;
    let kind = query.get(at..at + 2)?;
    let known = addresses.get(&labels.join("."));
    let found = match known {
        Some(IpAddr::V4(ip)) if kind == A && answers == NameAnswers::Addresses => Some(ip.octets()),
        _ => None,
    };
    const SERVFAIL: u8 = 2;
    const NXDOMAIN: u8 = 3;
    let code = match answers {
        NameAnswers::Fail => SERVFAIL,
        _ if known.is_none() => NXDOMAIN,
        _ => 0,
    };
    let mut answer = query.get(..2)?.to_vec();
    // An authoritative answer; one question, at most one record.
    answer.extend([
        0x85,
        0x80 | code,
        0,
        1,
        0,
        u8::from(found.is_some()),
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question);
    if let Some(ip) = found {
        // The name of the question, type A, class IN, one second, four bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(ip);
    }
    Some(answer)
}
