//! A running instance as the subject of a drill: its admin API is read, its faults API is driven.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{DrillPlan, DrillSubject, DrillView, Error};
use crate::admin::api_types::{
    ConnectionJson, ConnectionsJson, EndpointJson, Endpoints, ListenerJson, StatusJson,
};
use crate::faults::DrillKind;
use crate::http::client::{self, Answer, Bounds, HttpTarget, Session};
use crate::http::query::encode;
use crate::http::{Method, StatusCode};
use crate::upstream::settings::FailbackSettings;

/// For one question.
const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(3),
    body: 64 << 20,
};

/// The fault outlives the drill by this much at most.
const LONGER: Duration = Duration::from_secs(10);

/// Beyond `failback.after`, how long the return of the zone is waited for: until it is probed again, and for the ramp.
const RETURNS_WITHIN: Duration = Duration::from_secs(30);

/// An instance whose faults API is open.
#[derive(Debug)]
pub struct Instance {
    admin: Session,
    faults: HttpTarget,
    listener: SocketAddr,
    /// Whose zones are watched.
    upstream: String,
    /// The others that a listener leads to.
    others: Vec<String>,
    /// All listeners that lead to the upstream.
    listeners: HashSet<String>,
    /// What its clients speak.
    scheme: String,
    /// Zone of each endpoint, by name.
    zones: HashMap<String, String>,
    /// The word that this drill has made up for itself.
    by: String,
    /// Bytes of each connection to another zone when the fault was set.
    before: Option<HashMap<u64, u64>>,
}

// === impl Instance ===

impl Instance {
    /// Finds out about the instance that answers there; with how long it waits until it uses a zone again. Requests go to
    /// the first listener that leads to `upstream`, or to the first of all.
    pub async fn open(
        reading: HttpTarget,
        upstream: Option<&str>,
    ) -> Result<(Self, Duration), Error> {
        let mut admin = Session::new(reading, BOUNDS);
        let status = ask(&mut admin, "/v1/status").await.map_err(no_instance);
        let status: StatusJson = status?;
        let Some(faults) = status.faults else {
            return Err(Error::Cannot {
                what: "the instance takes no faults: faults.bind is not set".to_owned(),
                next: "restart it with --faults 127.0.0.1:8474, or drill mocks with --embedded",
            });
        };
        let bound = |one: &&ListenerJson| !one.addresses.is_empty();
        let wanted = |one: &&ListenerJson| upstream.is_none_or(|name| one.upstream == name);
        let mut leads_to: Vec<String> = Vec::new();
        for listener in status.listeners.iter().filter(bound) {
            if !leads_to.contains(&listener.upstream) {
                leads_to.push(listener.upstream.clone());
            }
        }
        let mut found = status.listeners.iter().filter(bound).filter(wanted);
        let chosen = match (found.next(), upstream) {
            (Some(chosen), _) => chosen,
            (None, Some(name)) if !leads_to.is_empty() => {
                return Err(Error::UnknownZone(format!(
                    "no listener leads to an upstream `{name}`; they lead to {}",
                    leads_to.join(", ")
                )));
            }
            (None, _) => {
                return Err(Error::Cannot {
                    what: "the instance has no listener that requests could go to".to_owned(),
                    next: "entryway status",
                });
            }
        };
        let listener = chosen.addresses[0].parse();
        let listener = listener.map_err(|_| {
            let address = &chosen.addresses[0];
            Error::Lost(format!("/v1/status: `{address}` is no address"))
        })?;
        leads_to.retain(|name| *name != chosen.upstream);
        let listeners = status.listeners.iter();
        let listeners = listeners.filter(|one| one.upstream == chosen.upstream);
        let returns = returns_within(&mut admin).await.map_err(no_instance)?;
        let instance = Self {
            admin,
            faults: HttpTarget::Tcp(faults),
            listener,
            upstream: chosen.upstream.clone(),
            others: leads_to,
            listeners: listeners.map(|one| one.name.clone()).collect(),
            scheme: chosen.scheme.clone(),
            zones: HashMap::new(),
            by: format!("{:016x}", fastrand::u64(..)),
            before: None,
        };
        Ok((instance, returns))
    }

    /// Where requests go, where there was a choice.
    pub fn choice(&self) -> Option<String> {
        (!self.others.is_empty()).then(|| {
            format!(
                "requests go to upstream {}, and its zones are watched; --upstream names another: {}",
                self.upstream,
                self.others.join(", ")
            )
        })
    }

    /// Whether requests of a drill are understood there.
    ///
    /// # Errors
    ///
    /// It is a gateway.
    pub fn takes_requests(&self) -> Result<(), Error> {
        match self.scheme == "https" {
            false => Ok(()),
            true => Err(Error::Cannot {
                what: "this is a gateway: it takes TLS with a client's certificate, which requests of a drill do not have"
                    .to_owned(),
                next: "--rate 0 watches other clients, or drill the instance before the gateway",
            }),
        }
    }

    /// The zone to drill: the one asked for, if the instance has it, else the one in use.
    pub async fn zone(
        &mut self,
        kind: DrillKind,
        asked: Option<&str>,
    ) -> Result<Option<String>, Error> {
        let endpoints = self.endpoints().await?;
        if !kind.has_zone() {
            return match asked {
                None => Ok(None),
                Some(_) => Err(Error::UnknownZone(format!(
                    "{kind} does not happen to one zone; leave out --zone"
                ))),
            };
        }
        let Some(asked) = asked else {
            let in_use = endpoints.iter().find(|endpoint| endpoint.active);
            return in_use.map(|one| Some(zone_of(one))).ok_or(Error::Cannot {
                what: "no zone is in use: no address is known yet".to_owned(),
                next: "entryway status",
            });
        };
        let mut known: Vec<String> = endpoints.iter().map(zone_of).collect();
        known.sort();
        known.dedup();
        if known.iter().any(|zone| zone == asked) {
            return Ok(Some(asked.to_owned()));
        }
        Err(Error::UnknownZone(format!(
            "no endpoint is in zone `{asked}`; there are {}",
            known.join(", ")
        )))
    }

    async fn endpoints(&mut self) -> Result<Vec<EndpointJson>, Error> {
        let found: Endpoints = ask(&mut self.admin, "/v1/endpoints").await?;
        let mut endpoints = found.endpoints;
        endpoints.retain(|endpoint| endpoint.upstream == self.upstream);
        for endpoint in &endpoints {
            let zone = zone_of(endpoint);
            self.zones.insert(endpoint.name.clone(), zone);
        }
        Ok(endpoints)
    }

    async fn connections(&mut self) -> Result<Vec<ConnectionJson>, Error> {
        let path = "/v1/connections?limit=100000";
        let found: ConnectionsJson = ask(&mut self.admin, path).await?;
        let mut connections = found.connections;
        connections.retain(|connection| self.listeners.contains(&connection.listener));
        Ok(connections)
    }

    /// Bytes that came from zones other than the drilled one, by connection.
    async fn elsewhere(&mut self, plan: &DrillPlan) -> Result<HashMap<u64, u64>, Error> {
        let connections = self.connections().await?;
        let other = |connection: &&ConnectionJson| {
            let zone = connection.endpoint.as_ref();
            let zone = zone.and_then(|endpoint| self.zones.get(endpoint));
            zone.is_some() && zone != plan.zone.as_ref()
        };
        Ok(connections
            .iter()
            .filter(other)
            .map(|connection| (connection.id, connection.bytes.download))
            .collect())
    }

    async fn change(&self, method: Method, path: &str) -> Result<Answer, Error> {
        let answer = client::request(&self.faults, method, path, &[], BOUNDS).await;
        accepted(answer)
    }
}

/// The answer to a change, if the instance has made it.
fn accepted(answer: Result<Answer, client::Error>) -> Result<Answer, Error> {
    let answer = answer.map_err(|error| Error::Lost(error.to_string()))?;
    match answer.status {
        status if status.is_success() => Ok(answer),
        StatusCode::CONFLICT => Err(Error::Cannot {
            what: format!("another drill runs on this instance: {}", said(&answer)),
            next: "wait for its end; curl -X DELETE http://FAULTS/faults/drill ends it",
        }),
        StatusCode::FORBIDDEN => Err(Error::NotAllowed(said(&answer))),
        StatusCode::BAD_REQUEST => Err(Error::UnknownZone(said(&answer))),
        StatusCode::NOT_FOUND => Err(Error::Lost(
            "somebody else has taken the fault back, or its time was over".to_owned(),
        )),
        status => Err(Error::Lost(format!("{status}: {}", said(&answer)))),
    }
}

impl DrillSubject for Instance {
    const LOOK: Duration = Duration::from_millis(10);

    fn target(&self) -> SocketAddr {
        self.listener
    }

    async fn claim(&mut self) -> Result<(), Error> {
        let path = format!("/faults/drill/claim?by={}", self.by);
        self.change(Method::POST, &path).await.map(drop)
    }

    async fn release(&mut self) {
        let path = format!("/faults/drill/claim?by={}", self.by);
        // Otherwise it ends by itself.
        let _ = self.change(Method::DELETE, &path).await;
    }

    async fn set(&mut self, plan: &DrillPlan) -> Result<(), Error> {
        if plan.rate == 0.0 {
            self.before = Some(self.elsewhere(plan).await?);
        }
        let ttl = crate::duration::show(plan.length + LONGER);
        let mut path = format!("/faults/drill?kind={}&ttl={ttl}&by={}", plan.kind, self.by);
        if let Some(zone) = &plan.zone {
            path.push_str(&format!("&zone={}", encode(zone)));
        }
        let answer = self.change(Method::POST, &path).await?;
        let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let stands = Duration::from_secs_f64(answer["ttl_s"].as_f64().unwrap_or(0.0).max(0.0));
        if stands < plan.length {
            self.clear(plan).await?;
            let most = crate::duration::show(stands);
            return Err(Error::Cannot {
                what: format!("faults of this instance end after {most}"),
                next: "a shorter --for, or a longer faults.max_ttl",
            });
        }
        Ok(())
    }

    async fn keep(&mut self) -> Result<(), Error> {
        let ask = async || client::post(&self.faults, "/faults/drill/alive", &[], BOUNDS).await;
        accepted(twice(ask).await).map(drop)
    }

    async fn clear(&mut self, _plan: &DrillPlan) -> Result<(), Error> {
        let path = "/faults/drill";
        self.change(Method::DELETE, path).await.map(drop)
    }

    async fn look(&mut self, plan: &DrillPlan) -> Result<DrillView, Error> {
        let endpoints = self.endpoints().await?;
        let is_meant = |endpoint: &&EndpointJson| match &plan.zone {
            Some(zone) => zone_of(endpoint) == *zone,
            None => plan.kind == DrillKind::AllDown,
        };
        let meant = endpoints.iter().filter(is_meant);
        let mut addresses = meant.flat_map(|endpoint| &endpoint.addresses);
        Ok(DrillView {
            is_down: addresses.any(|address| address.state == "down"),
            in_use: endpoints.iter().find(|one| one.active).map(zone_of),
        })
    }

    async fn zones_of(&mut self) -> Result<HashMap<u16, String>, Error> {
        let connections = self.connections().await?;
        Ok(connections
            .iter()
            .filter_map(|connection| {
                let zone = self.zones.get(connection.endpoint.as_ref()?)?;
                let client: SocketAddr = connection.client.parse().ok()?;
                Some((client.port(), zone.clone()))
            })
            .collect())
    }

    async fn others_answer(&mut self, plan: &DrillPlan) -> Result<bool, Error> {
        if self.before.is_none() {
            return Ok(false);
        }
        let now = self.elsewhere(plan).await?;
        let before = self.before.as_ref();
        let grew = |(id, bytes): (&u64, &u64)| {
            let known = before.and_then(|before| before.get(id)).copied();
            *bytes > known.unwrap_or(0)
        };
        Ok(now.iter().any(grew))
    }

    async fn held(&mut self) -> Result<Option<u64>, Error> {
        let answer = twice(async || self.admin.get("/metrics").await).await;
        let answer = answer.map_err(|error| Error::Lost(error.to_string()))?;
        let text = answer.text();
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("entryway_parked_seconds_count "));
        Ok(count
            .and_then(|count| count.trim().parse::<f64>().ok())
            .map(|count| count as u64))
    }
}

/// The zone that an endpoint stands for: its name, where its zone is not known.
fn zone_of(endpoint: &EndpointJson) -> String {
    endpoint
        .zone
        .clone()
        .unwrap_or_else(|| endpoint.name.clone())
}

/// Asks again after a timeout. This process may have been stopped in between (SIGSTOP, a laptop that slept): its timer
/// has run out then although the answer has come in time.
async fn twice(
    mut ask: impl AsyncFnMut() -> Result<Answer, client::Error>,
) -> Result<Answer, client::Error> {
    match ask().await {
        Err(client::Error::Timeout(..)) => ask().await,
        other => other,
    }
}

async fn ask<T: DeserializeOwned>(admin: &mut Session, path: &str) -> Result<T, Error> {
    let answer = twice(async || admin.get(path).await).await;
    let answer = answer.map_err(|error| match &error {
        client::Error::Connect(_, cause) if cause.kind() == ErrorKind::PermissionDenied => {
            Error::NotAllowed(error.to_string())
        }
        _ => Error::Lost(error.to_string()),
    })?;
    let failed = format!("{path}: {}", answer.status);
    match answer.status {
        status if status.is_success() => serde_json::from_slice(&answer.body)
            .map_err(|error| Error::Lost(format!("{path}: the answer is not entryway's: {error}"))),
        StatusCode::FORBIDDEN | StatusCode::MISDIRECTED_REQUEST => Err(Error::NotAllowed(failed)),
        _ => Err(Error::Lost(failed)),
    }
}

/// By the settings in force, the longest over all upstreams.
async fn returns_within(admin: &mut Session) -> Result<Duration, Error> {
    let config: Value = ask(admin, "/v1/config").await?;
    let mut longest = None;
    find_after(&config, &mut longest);
    Ok(longest.unwrap_or(FailbackSettings::default().after) + RETURNS_WITHIN)
}

/// Every `failback.after` of the settings.
fn find_after(value: &Value, longest: &mut Option<Duration>) {
    let text = value.pointer("/failback/after/value");
    if let Some(after) = text.and_then(|text| crate::duration::parse(text.as_str()?).ok()) {
        *longest = Some(longest.map_or(after, |known| known.max(after)));
    }
    match value {
        Value::Object(map) => map.values().for_each(|one| find_after(one, longest)),
        Value::Array(list) => list.iter().for_each(|one| find_after(one, longest)),
        _ => {}
    }
}

/// The text of an error of the faults API.
fn said(answer: &Answer) -> String {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let text = body.as_ref().and_then(|body| body["error"].as_str());
    text.map_or_else(|| answer.text(), str::to_owned)
}

/// Before anything is under way, nothing is lost.
fn no_instance(error: Error) -> Error {
    match error {
        Error::Lost(why) => Error::NoInstance(why),
        other => other,
    }
}
