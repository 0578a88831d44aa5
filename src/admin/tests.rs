use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::drain::{self, DrainTrigger};
use crate::events::{Lines, Log, LogSettings};
use crate::http::client::{self, Bounds, HttpTarget};
use crate::metrics::{Metrics, family};
use crate::upstream::snapshot::Snapshot;

const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(10),
    body: 1 << 20,
};

/// A backend that remembers what it was asked to do.
#[derive(Debug, Default)]
pub(crate) struct FakeBackend {
    done: Mutex<Vec<String>>,
    pub(crate) health: Mutex<Health>,
    metrics: Metrics,
}

impl FakeBackend {
    fn note(&self, what: String) {
        self.done.lock().unwrap().push(what);
    }

    pub(crate) fn done(&self) -> Vec<String> {
        std::mem::take(&mut self.done.lock().unwrap())
    }
}

impl Backend for FakeBackend {
    fn health(&self) -> Health {
        self.health.lock().unwrap().clone()
    }

    fn status(&self) -> api_types::StatusJson {
        api_types::StatusJson {
            uptime_s: 1.5,
            listeners: vec![api_types::ListenerJson {
                name: "datomic".into(),
                addresses: vec!["127.0.0.1:8182".into()],
                ..Default::default()
            }],
            upstreams: vec![api_types::UpstreamJson::default()],
            ..Default::default()
        }
    }

    fn endpoints(&self) -> api_types::Endpoints {
        api_types::Endpoints {
            endpoints: vec![api_types::EndpointJson {
                addresses: vec![api_types::AddressJson {
                    last_probe: Some(api_types::Probe::default()),
                    ..Default::default()
                }],
                ..Default::default()
            }],
        }
    }

    fn connections(&self, limit: usize) -> Vec<api_types::ConnectionJson> {
        (0..2500.min(limit))
            .map(|id| api_types::ConnectionJson {
                id: id as u64,
                ..Default::default()
            })
            .collect()
    }

    fn dns(&self) -> api_types::DnsJson {
        api_types::DnsJson {
            names: vec![api_types::NameJson::default()],
        }
    }

    fn hops(&self) -> api_types::HopsJson {
        api_types::HopsJson::default()
    }

    fn config(&self) -> Json {
        serde_json::json!({ "dns": { "timeout": { "value": "2s", "source": "default" } } })
    }

    fn explain(
        &self,
        upstream: Option<&str>,
        what_if: &[String],
    ) -> Result<api_types::Explain, BackendError> {
        Ok(api_types::Explain {
            order: vec![api_types::RankedAddress::default()],
            verdict: format!("{upstream:?} {what_if:?}"),
        })
    }

    fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        Vec::new()
    }

    fn registry(&self) -> Metrics {
        self.metrics.clone()
    }

    fn metrics(&self) -> Box<dyn Iterator<Item = String> + Send + Sync> {
        self.metrics.counter(&family::STALLS, &[]).increment(1);
        Box::new(self.metrics.slices())
    }

    fn order(
        &self,
        order: EndpointAction,
        upstream: Option<&str>,
        name: Option<&str>,
    ) -> Result<api_types::Changed, BackendError> {
        if name == Some("nobody") {
            return Err(BackendError::unknown_endpoint("nobody"));
        }
        self.note(format!("{} {upstream:?} {name:?}", order.as_str()));
        Ok(api_types::Changed {
            endpoints: vec![api_types::ChangedEndpoint {
                upstream: upstream.unwrap_or("default").to_owned(),
                name: name.unwrap_or_default().to_owned(),
                action: order.as_str().to_owned(),
            }],
        })
    }

    fn close(&self, id: u64) -> Result<(), BackendError> {
        if id != 17 {
            return Err(BackendError::unknown_connection(id));
        }
        self.note(format!("close {id}"));
        Ok(())
    }

    fn reload(&self, dry_run: bool) -> ApiFuture<api_types::Reloaded> {
        self.note(format!("reload {dry_run}"));
        Box::pin(async move {
            if dry_run {
                return Err(BackendError::Invalid(
                    "entryway.toml:3:1 unknown key".into(),
                ));
            }
            Ok(api_types::Reloaded::default())
        })
    }

    fn upgrade(&self, order: super::UpgradeOrder) -> super::ApiFuture<api_types::UpgradedJson> {
        let binary = order.binary.unwrap_or_default();
        let why = format!("start {}: no such file", binary.display());
        Box::pin(async move { Err(super::BackendError::NotNow(why)) })
    }

    fn shutdown(&self) {
        self.note("shutdown".into());
    }
}

/// The listeners of a backend backend, open; also for the tests of the commands that ask an instance.
pub(crate) struct Running {
    pub(crate) backend: Arc<FakeBackend>,
    pub(crate) admin: SocketAddr,
    metrics: SocketAddr,
    pub(crate) control: PathBuf,
    lines: Lines,
    log: Log,
    events: Events,
    trigger: DrainTrigger,
    task: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

pub(crate) async fn start(token: Option<&str>) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let token_file = token.map(|token| {
        let file = folder.path().join("token");
        std::fs::write(&file, token).unwrap();
        file
    });
    let settings = AdminSettings {
        bind: Bind::At(([127, 0, 0, 1], 0).into()),
        control: Some(ControlPath::At(control.clone())),
        metrics_bind: Some(([127, 0, 0, 1], 0).into()),
        token_file,
        ..AdminSettings::default()
    };
    let (log, lines) = Log::memory(&LogSettings::default()).unwrap();
    let events = Events::new(log.clone());
    let listeners = open(
        &settings,
        BindOptions::default(),
        Default::default(),
        &events,
    )
    .unwrap();
    let (admin, metrics) = (
        listeners.admin_address().unwrap(),
        listeners.metrics_address().unwrap(),
    );
    assert_eq!(listeners.control_path(), Some(control.as_path()));
    let backend = Arc::new(FakeBackend::default());
    backend.health.lock().unwrap().max_connections = 10;
    let (trigger, watch) = drain::channel();
    let served: Arc<dyn Backend> = backend.clone();
    let kept = events.clone();
    let task =
        tokio::spawn(async move { serve(listeners, served, events, &settings, 32, watch).await });
    Running {
        backend,
        admin,
        metrics,
        control,
        lines,
        log,
        events: kept,
        trigger,
        task,
        _folder: folder,
    }
}

impl Running {
    async fn get(&self, path: &str) -> (u16, Json) {
        let answer = client::get(&HttpTarget::Tcp(self.admin.to_string()), path, BOUNDS)
            .await
            .unwrap();
        assert_eq!(answer.headers["cache-control"], "no-store");
        (
            answer.status.as_u16(),
            serde_json::from_slice(&answer.body).unwrap_or(Json::Null),
        )
    }

    async fn change(&self, path: &str) -> (u16, Json) {
        let answer = client::post(&HttpTarget::Unix(self.control.clone()), path, &[], BOUNDS)
            .await
            .unwrap();
        (
            answer.status.as_u16(),
            serde_json::from_slice(&answer.body).unwrap(),
        )
    }
}

/// Sends bytes as they are; the status code, or 0 where the connection was closed without one.
async fn raw(to: SocketAddr, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The server may answer and leave before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text
        .get(9..12)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    (status, text)
}

fn keys(value: &Json) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn documents_have_their_documented_fields() {
    let running = start(None).await;
    let (code, status) = running.get("/v1/status").await;
    assert_eq!(code, 200);
    assert_eq!(
        keys(&status),
        [
            "control_socket",
            "draining",
            "faults",
            "generation",
            "listeners",
            "max_connections",
            "parent_pid",
            "pid",
            "ready",
            "sandbox",
            "schema_version",
            "upstreams",
            "uptime_s",
            "version"
        ]
    );
    assert_eq!(status["schema_version"], 1);
    assert_eq!(status["ready"], true);
    assert_eq!(status["control_socket"], running.control.to_str().unwrap());
    assert_eq!(
        keys(&status["listeners"][0]),
        [
            "addresses",
            "connections",
            "name",
            "parked",
            "scheme",
            "upstream"
        ]
    );
    assert_eq!(
        keys(&status["upstreams"][0]),
        [
            "addresses",
            "healthy",
            "identity",
            "name",
            "region",
            "system",
            "zone"
        ]
    );
    assert_eq!(status["upstreams"][0]["identity"], Json::Null);
    let (_, endpoints) = running.get("/v1/endpoints").await;
    assert_eq!(
        keys(&endpoints["endpoints"][0]),
        [
            "active",
            "addresses",
            "connections",
            "healthy",
            "host",
            "intent",
            "name",
            "port",
            "tier",
            "upstream",
            "zone"
        ]
    );
    assert_eq!(
        keys(&endpoints["endpoints"][0]["addresses"][0]),
        [
            "address",
            "connect_ms",
            "identity",
            "in_dns",
            "last_probe",
            "reason",
            "since",
            "state"
        ]
    );
    let (_, connections) = running.get("/v1/connections").await;
    assert_eq!(connections["connections"].as_array().unwrap().len(), 1000);
    assert_eq!(
        keys(&connections["connections"][0]),
        [
            "address", "age_s", "at_rest", "bytes", "client", "endpoint", "id", "idle_s", "lane",
            "listener", "phase"
        ]
    );
    let (_, connections) = running.get("/v1/connections?limit=0").await;
    assert_eq!(
        connections,
        serde_json::json!({"schema_version": 1, "connections": []})
    );
    let (_, dns) = running.get("/v1/dns").await;
    assert_eq!(
        keys(&dns["names"][0]),
        [
            "addresses",
            "age_s",
            "last_change",
            "last_error",
            "name",
            "stale",
            "ttl_s"
        ]
    );
    let (_, explain) = running
        .get("/v1/explain?what_if=zone-down=a&upstream=u")
        .await;
    assert_eq!(keys(&explain), ["order", "schema_version", "verdict"]);
    assert_eq!(explain["verdict"], "Some(\"u\") [\"zone-down=a\"]");
    let (_, config) = running.get("/v1/config").await;
    assert_eq!(config["settings"]["dns"]["timeout"]["source"], "default");
    let (_, version) = running.get("/v1/version").await;
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

mod changes;
mod health;
mod hostile;
mod live;
mod reference;
