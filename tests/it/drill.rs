//! `entryway drill` as a process: every kind, its end whatever happens, and its numbers beside those of an observer.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use entryway::mock::{self, Mock, MockConfig};
use serde_json::Value;
use tokio::time::timeout;

use crate::harness::child::{Process, command, stoppable};
use crate::harness::client::http;
use crate::harness::{Conf, Entryway};

mod ends;
mod kinds;
mod numbers;
mod refused;
mod upstreams;

/// A drill waits for what it has done to go by, beside the tests that run at the same time.
const LONG: Duration = Duration::from_secs(90);

/// Exit code, standard output, standard error.
async fn run(args: &[&str]) -> (i32, String, String) {
    let words: Vec<&str> = ["drill"].iter().chain(args).copied().collect();
    let output = timeout(LONG, command(&words).stderr(Stdio::piped()).output());
    let output = output.await.unwrap_or_else(|_| panic!("{args:?} hangs"));
    let output = output.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    (code, text(&output.stdout), text(&output.stderr))
}

/// A drill that goes on.
fn start(args: &[&str]) -> Process {
    let words: Vec<&str> = ["drill"].iter().chain(args).copied().collect();
    Process::spawn(stoppable(&words))
}

/// The report of a drill with `--output json`.
async fn report(args: &[&str]) -> Value {
    let (code, out, err) = run(args).await;
    assert_eq!(code, 0, "{out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// An entryway before mock zones a and b that takes faults, and uses a zone again soon after it is well.
struct Ground {
    mock: Mock,
    entryway: Entryway,
    faults: SocketAddr,
}

impl Ground {
    async fn new() -> Self {
        Self::with(|conf| conf).await
    }

    async fn with(more: impl Fn(Conf) -> Conf) -> Self {
        let mock = mock::start(MockConfig {
            zones: vec!["a".to_owned(), "b".to_owned()],
            ..MockConfig::default()
        });
        let mock = mock.unwrap();
        let zones = mock.zones().iter();
        let endpoints: Vec<String> = zones
            .map(|zone| format!("{}?zone={}", zone.address(), zone.name()))
            .collect();
        let conf = Conf::to(&endpoints)
            .upstream(r#"zone = "a""#)
            .upstream(r#"health.kind = "datomic""#)
            .upstream(r#"health.interval = "500ms""#)
            .upstream(r#"health.down_interval = "200ms""#)
            .upstream(r#"failback.after = "500ms""#)
            .upstream(r#"failback.ramp = "0s""#)
            .rest(r#"faults.bind = "127.0.0.1:0""#);
        let entryway = Entryway::start(&more(conf)).await;
        entryway.ready(2).await;
        let up = entryway.events("listener.up");
        let faults = up.iter().find(|line| line["name"] == "faults").unwrap();
        let faults = faults["address"].as_str().unwrap().parse().unwrap();
        Self {
            mock,
            entryway,
            faults,
        }
    }

    fn admin(&self) -> String {
        self.entryway.admin.unwrap().to_string()
    }

    /// `GET /faults`.
    async fn list(&self) -> Value {
        let (status, body) = http(self.faults, "GET", "/faults").await;
        assert_eq!(status, 200);
        serde_json::from_str(&body).unwrap()
    }

    /// Whether the fault of a drill is set.
    async fn is_set(&self) -> bool {
        !self.list().await["faults"].as_array().unwrap().is_empty()
    }

    async fn wait_until_set(&self, wanted: bool) {
        let waiting = async {
            while self.is_set().await != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, waiting).await.unwrap();
    }

    /// Names of the events about faults so far.
    fn events(&self) -> (usize, usize) {
        let count = |name| self.entryway.events(name).len();
        (count("fault.set"), count("fault.clear"))
    }
}
