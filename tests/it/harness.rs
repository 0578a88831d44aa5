//! The real assembly in this process on port 0, and what tests ask of it.
//!
//! [`Conf`] writes a settings file, [`Entryway`] runs it on a thread of its own as `entryway run` would, and
//! [`no_leaks`] ends it and checks that nothing is left behind. [`child`] does the same with the built binary.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use entryway::app::{Handles, ShutdownOutcome, StopRequest};
use entryway::events::{Lines, Log};
use entryway::settings::{self, Loaded};
use entryway::{app, cli};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

pub use conf::Conf;

pub mod child;
pub mod client;
pub mod conf;
pub mod dns;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod namespace;
pub mod proxy;
pub mod upstream;

/// What anything may take on a busy machine before a test calls it hanging.
pub const LONG: Duration = Duration::from_secs(20);

/// Whether there are pipes to splice through; without them every byte goes through the buffer.
pub const PIPES: bool = cfg!(all(target_os = "linux", not(entryway_portable)));

/// What the record of a connection calls the way of bulk.
pub const BULK_LANE: &str = if PIPES { "pipe" } else { "buffer" };

/// The proxy, running in this process.
#[derive(Debug)]
pub struct Entryway {
    /// To look at it and to steer it.
    pub handles: Handles,
    /// Its admin HTTP.
    pub admin: Option<SocketAddr>,
    lines: Lines,
    ended: oneshot::Receiver<ShutdownOutcome>,
    thread: std::thread::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

/// The settings of a file with this text, read as `entryway run --config` reads them.
pub fn load(text: &str, folder: &tempfile::TempDir) -> Loaded {
    let file = folder.path().join("entryway.toml");
    std::fs::write(&file, text).unwrap();
    let words = [
        "entryway".into(),
        "run".into(),
        "--config".into(),
        file.into_os_string(),
    ];
    let matches = cli::args::command().try_get_matches_from(words).unwrap();
    let none = std::iter::empty::<(OsString, OsString)>();
    let (_, matches) = matches.subcommand().unwrap();
    settings::load(matches, none, true)
        .unwrap_or_else(|report| panic!("{}\n{text}", report.plain()))
}

impl Entryway {
    /// Starts it with these settings; returns once it accepts.
    pub async fn start(conf: &Conf) -> Self {
        Self::start_text(&conf.text()).await
    }

    /// Starts it with the text of a settings file.
    pub async fn start_text(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let loaded = load(text, &folder);
        let (log, lines) = Log::memory(&loaded.settings.log).unwrap();
        let (started, starts) = oneshot::channel();
        let (ends, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let app = app::start(loaded, log).unwrap();
                    started.send((app.handles().clone(), app.admin())).unwrap();
                    let ended = app.run().await;
                    // The test may have failed and gone meanwhile.
                    let _ = ends.send(ended);
                });
            });
        let (handles, admin) = starts.await.unwrap();
        Self {
            handles,
            admin,
            lines,
            ended,
            thread: thread.unwrap(),
            _folder: folder,
        }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.handles.listeners[0].addresses[0]
    }

    /// One client connection.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    /// Waits until this many addresses of the first upstream are healthy.
    pub async fn ready(&self, healthy: usize) -> Duration {
        let view = &self.handles.upstreams[0].view;
        eventually(&format!("{healthy} healthy"), || {
            view.load().healthy == healthy
        })
        .await
    }

    /// The value of a series, 0 where there is none; brought up to date first.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.handles.registry.settle();
        self.handles.metrics.value(name, labels).unwrap_or(0.0)
    }

    /// The sum of a family's series.
    pub fn sum(&self, name: &str) -> f64 {
        self.handles.registry.settle();
        self.handles.metrics.sum(name)
    }

    /// Every line of the log so far.
    pub fn log(&self) -> String {
        self.handles.events.log().flush(LONG);
        self.lines.text()
    }

    /// Every event of this name in the log so far.
    pub fn events(&self, name: &str) -> Vec<Value> {
        events_in(&self.log(), name)
    }

    /// Every event of this name, once there is one: what an event tells of can be seen before its line is there.
    pub async fn logged(&self, name: &str) -> Vec<Value> {
        eventually(name, || !self.events(name).is_empty()).await;
        self.events(name)
    }

    /// The `conn.close` line of the client that has this local address, once it is there.
    pub async fn close_of(&self, client: SocketAddr) -> Value {
        let start = Instant::now();
        loop {
            let port = Value::from(client.port());
            if let Some(line) = self
                .events("conn.close")
                .into_iter()
                .find(|line| line["client.port"] == port)
            {
                return line;
            }
            assert!(
                start.elapsed() < LONG,
                "no conn.close line of {client}:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for one close line and checks why it is.
    pub async fn closes(&self, client: SocketAddr, reason: &str) -> Value {
        let line = self.close_of(client).await;
        assert_eq!(line["conn.reason"], reason, "{line}");
        line
    }

    /// Ends it in order and waits for the end, with how long that took.
    pub async fn drain(self) -> (ShutdownOutcome, Duration, Past) {
        self.handles.stop(StopRequest::Signal);
        self.end().await
    }

    /// Waits for the end that something else has asked for.
    pub async fn end(self) -> (ShutdownOutcome, Duration, Past) {
        let began = Instant::now();
        let ended = self.ended.await.unwrap();
        let took = began.elapsed();
        self.thread.join().unwrap();
        (
            ended,
            took,
            Past {
                handles: self.handles,
                lines: self.lines,
            },
        )
    }
}

/// What can still be asked of one that has ended.
#[derive(Debug)]
pub struct Past {
    /// Its handles; what they lead to no longer runs.
    pub handles: Handles,
    lines: Lines,
}

impl Past {
    /// Every event of this name in its log.
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.handles.events.log().flush(LONG);
        events_in(&self.lines.text(), name)
    }

    /// Nothing is left: each accepted connection was closed, counted and logged once; no gauge, pipe or leftover stays.
    pub fn check(&self) {
        let Handles {
            registry, metrics, ..
        } = &self.handles;
        assert!(registry.is_empty(), "{} connections left", registry.len());
        for gauge in [
            "entryway_connections",
            "entryway_connections_parked",
            "entryway_pipes_in_use",
        ] {
            assert_eq!(metrics.sum(gauge), 0.0, "{gauge}");
        }
        for counter in [
            "entryway_panics_total",
            "entryway_stalls_total",
            "entryway_reset_gave_up_total",
        ] {
            assert_eq!(metrics.sum(counter), 0.0, "{counter}");
        }
        let accepted = metrics.sum("entryway_connections_accepted_total");
        assert_eq!(metrics.sum("entryway_connections_closed_total"), accepted);
        let lines = self.events("conn.close");
        assert_eq!(
            lines.len() as f64,
            accepted,
            "one close line per connection"
        );
        let internal = lines
            .iter()
            .filter(|line| line["conn.reason"] == "internal");
        assert_eq!(internal.count(), 0);
    }
}

/// Drains it and checks that nothing is left behind.
pub async fn no_leaks(entryway: Entryway) {
    let (_, _, past) = entryway.drain().await;
    past.check();
}

/// The events of one name in lines of JSON.
pub fn events_in(text: &str, name: &str) -> Vec<Value> {
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect(line));
    lines.filter(|line| line["event"] == name).collect()
}

/// Waits for a condition, looked at every few milliseconds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

/// Checks that something stays true for a while.
pub async fn stays(what: &str, time: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < time {
        assert!(holds(), "no longer after {:?}: {what}", start.elapsed());
        sleep(Duration::from_millis(5)).await;
    }
}

/// One upstream whose connections the test holds in its own hands.
#[derive(Debug)]
pub struct Stage {
    listener: tokio::net::TcpListener,
}

impl Stage {
    /// On a free port.
    pub async fn new() -> Self {
        Self {
            listener: tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// A connection through an entryway of its own, with `splice` as given: entryway, client, upstream.
    pub async fn spliced_pair(&self, splice: &str) -> (Entryway, TcpStream, TcpStream) {
        let conf = Conf::to(&[self.address()]).upstream(&format!("splice = \"{splice}\""));
        let entryway = Entryway::start(&conf).await;
        let (client, server) = self.pair(entryway.address()).await;
        (entryway, client, server)
    }

    /// The next connection.
    pub async fn accept(&self) -> TcpStream {
        tokio::time::timeout(LONG, self.listener.accept())
            .await
            .expect("nobody connects")
            .unwrap()
            .0
    }

    /// A client of `at` (this stage itself, or a proxy before it) and the connection that came of it. Not to be called
    /// twice at once.
    pub async fn pair(&self, at: SocketAddr) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(at).await.unwrap();
        (client, self.accept().await)
    }
}
