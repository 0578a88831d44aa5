//! A toxic: what it does, to which direction, to which connections, and until when.
//!
//! The JSON is Toxiproxy's, with more keys (`ttl zone endpoint first seed`). Attributes that are not given are zero, as
//! there; an update changes only the attributes it names.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::clock::Moment;
use crate::types::{Direction, Zone};

/// What a toxic does. Times and sizes are those of Toxiproxy: milliseconds, bytes, kilobytes a second; the slicer's
/// delay is in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Latency {
        latency: i64,
        jitter: i64,
    },
    Bandwidth {
        rate: i64,
    },
    SlowClose {
        delay: i64,
    },
    Timeout {
        timeout: i64,
    },
    ResetPeer {
        timeout: i64,
    },
    Slicer {
        average_size: i64,
        size_variation: i64,
        delay: i64,
    },
    LimitData {
        bytes: i64,
    },
    /// Passes everything; Toxiproxy accepts it, and so do we.
    Noop,
}

/// One toxic of one proxy.
#[derive(Debug)]
pub(super) struct Toxic {
    /// Unique within the instance; an update keeps it.
    pub id: u64,
    pub name: String,
    pub effect: Effect,
    /// Upload is Toxiproxy's `upstream`.
    pub direction: Direction,
    /// The direction as the request wrote it, which is how it is shown.
    stream: String,
    /// The share of connections it applies to.
    pub toxicity: f32,
    /// When it removes itself.
    pub expires: Moment,
    pub zone: Option<Zone>,
    pub endpoint: Option<String>,
    /// Applies only to so many connections accepted after it was set.
    pub first: Option<u64>,
    pub seed: Option<u64>,
    pub set_at: Moment,
    decisions: Mutex<Decisions>,
}

/// Which connections it applies to; decided once for each.
#[derive(Clone, Debug, Default)]
struct Decisions {
    made: HashMap<u64, bool>,
    /// Connections accepted after it was set that it has met.
    met: u64,
    random: Option<fastrand::Rng>,
}

/// What a connection shows to a toxic that is to decide about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToxicSubject<'a> {
    pub connection: u64,
    pub accepted: Moment,
    pub zone: Option<&'a Zone>,
    pub endpoint: &'a str,
}

/// What a request to set a toxic says.
#[derive(Clone, Debug)]
pub(super) struct ToxicRequest {
    pub name: String,
    pub effect: Effect,
    pub direction: Direction,
    stream: String,
    /// Read into the effect by [`ToxicRequest::read_attributes`].
    attributes: Value,
    pub toxicity: f32,
    pub ttl: Option<Duration>,
    pub zone: Option<Zone>,
    pub endpoint: Option<String>,
    pub first: Option<u64>,
    pub seed: Option<u64>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The text behind `bad request body: `.
    Body(String),
    Stream,
    Type,
}

// === impl Effect ===

impl Effect {
    fn of_type(kind: &str) -> Option<Self> {
        Some(match kind {
            "latency" => Effect::Latency {
                latency: 0,
                jitter: 0,
            },
            "bandwidth" => Effect::Bandwidth { rate: 0 },
            "slow_close" => Effect::SlowClose { delay: 0 },
            "timeout" => Effect::Timeout { timeout: 0 },
            "reset_peer" => Effect::ResetPeer { timeout: 0 },
            "slicer" => Effect::Slicer {
                average_size: 0,
                size_variation: 0,
                delay: 0,
            },
            "limit_data" => Effect::LimitData { bytes: 0 },
            "noop" => Effect::Noop,
            _ => return None,
        })
    }

    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Effect::Latency { .. } => "latency",
            Effect::Bandwidth { .. } => "bandwidth",
            Effect::SlowClose { .. } => "slow_close",
            Effect::Timeout { .. } => "timeout",
            Effect::ResetPeer { .. } => "reset_peer",
            Effect::Slicer { .. } => "slicer",
            Effect::LimitData { .. } => "limit_data",
            Effect::Noop => "noop",
        }
    }

    fn attributes_mut(&mut self) -> Vec<(&'static str, &mut i64)> {
        match self {
            Effect::Latency { latency, jitter } => {
                vec![("latency", latency), ("jitter", jitter)]
            }
            Effect::Bandwidth { rate } => vec![("rate", rate)],
            Effect::SlowClose { delay } => vec![("delay", delay)],
            Effect::Timeout { timeout } | Effect::ResetPeer { timeout } => {
                vec![("timeout", timeout)]
            }
            Effect::Slicer {
                average_size,
                size_variation,
                delay,
            } => vec![
                ("average_size", average_size),
                ("size_variation", size_variation),
                ("delay", delay),
            ],
            Effect::LimitData { bytes } => vec![("bytes", bytes)],
            Effect::Noop => Vec::new(),
        }
    }

    fn attributes(mut self) -> Value {
        let named = self.attributes_mut();
        Value::Object(
            named
                .into_iter()
                .map(|(name, value)| (name.to_owned(), json!(*value)))
                .collect(),
        )
    }

    /// Takes the attributes that are named; unknown ones are ignored, as Toxiproxy does.
    fn set(&mut self, attributes: &Value) -> Result<(), Invalid> {
        let given = object(attributes, "attributes")?;
        for (name, value) in self.attributes_mut() {
            if let Some(given) = given.get(name).filter(|given| !given.is_null()) {
                *value = given.as_i64().ok_or_else(|| {
                    Invalid::Body(format!("attributes.{name} must be a whole number"))
                })?;
            }
        }
        Ok(())
    }
}

/// An object with its keys in lower case: Toxiproxy's reader does not look at their case.
pub(super) fn object(value: &Value, what: &str) -> Result<Map<String, Value>, Invalid> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(map) => Ok(map
            .iter()
            .map(|(key, value)| (key.to_ascii_lowercase(), value.clone()))
            .collect()),
        _ => Err(Invalid::Body(format!("{what} must be an object"))),
    }
}

// === impl ToxicRequest ===

impl ToxicRequest {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Invalid> {
        let value: Value = from_json(body)?;
        let given = object(&value, "a toxic")?;
        let get = |key: &str| given.get(key).filter(|value| !value.is_null());
        let text = |key: &str| match get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Invalid::Body(format!("{key} must be a string"))),
        };
        let whole = |key: &str| match get(key) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .map(Some)
                .ok_or_else(|| Invalid::Body(format!("{key} must be a whole number, 0 or more"))),
        };
        let stream = text("stream")?.unwrap_or_else(|| "downstream".to_owned());
        let kind = text("type")?.unwrap_or_default();
        let toxicity = match get("toxicity") {
            None => 1.0,
            Some(value) => number(value, "toxicity")?,
        };
        let attributes = get("attributes").cloned().unwrap_or_default();
        object(&attributes, "attributes")?;
        let direction = match stream.to_ascii_lowercase().as_str() {
            "downstream" => Direction::Download,
            "upstream" => Direction::Upload,
            _ => return Err(Invalid::Stream),
        };
        let effect = Effect::of_type(&kind).ok_or(Invalid::Type)?;
        let ttl = match text("ttl")? {
            None => None,
            Some(text) => Some(
                crate::duration::parse(&text)
                    .map_err(|why| Invalid::Body(format!("ttl: {why}")))?,
            ),
        };
        let name = match text("name")? {
            Some(name) if !name.is_empty() => name,
            _ => format!("{}_{stream}", effect.as_str()),
        };
        Ok(Self {
            name,
            effect,
            direction,
            stream,
            attributes,
            toxicity,
            ttl,
            zone: text("zone")?.map(Zone::new),
            endpoint: text("endpoint")?,
            first: whole("first")?,
            seed: whole("seed")?,
        })
    }

    /// The second step: Toxiproxy looks at the values once it knows that there is no toxic of this name.
    pub(super) fn read_attributes(&mut self) -> Result<(), Invalid> {
        self.effect.set(&self.attributes)
    }
}

/// An update: the attributes and toxicity that it names.
pub(super) fn parse_update(
    body: &[u8],
    effect: &mut Effect,
    toxicity: &mut f32,
) -> Result<(), Invalid> {
    let value: Value = from_json(body)?;
    let given = object(&value, "a toxic")?;
    if let Some(attributes) = given.get("attributes") {
        effect.set(attributes)?;
    }
    if let Some(value) = given.get("toxicity").filter(|value| !value.is_null()) {
        *toxicity = number(value, "toxicity")?;
    }
    Ok(())
}

fn number(value: &Value, what: &str) -> Result<f32, Invalid> {
    value
        .as_f64()
        .map(|number| number as f32)
        .ok_or_else(|| Invalid::Body(format!("{what} must be a number")))
}

/// The first JSON value of a body; like Toxiproxy's reader it does not look at what follows.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Invalid> {
    match serde_json::Deserializer::from_slice(body)
        .into_iter()
        .next()
    {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(Invalid::Body(error.to_string())),
        None => Err(Invalid::Body("EOF".to_owned())),
    }
}

/// Toxiproxy's word for a direction.
pub(super) const fn stream_of(direction: Direction) -> &'static str {
    match direction {
        Direction::Upload => "upstream",
        Direction::Download => "downstream",
    }
}

// === impl Toxic ===

impl Toxic {
    pub(super) fn new(id: u64, request: ToxicRequest, now: Moment, max_ttl: Duration) -> Self {
        let ttl = request.ttl.unwrap_or(max_ttl).min(max_ttl);
        Self {
            id,
            name: request.name,
            effect: request.effect,
            direction: request.direction,
            stream: request.stream,
            toxicity: request.toxicity,
            expires: now + ttl,
            zone: request.zone,
            endpoint: request.endpoint,
            first: request.first,
            seed: request.seed,
            set_at: now,
            decisions: Mutex::default(),
        }
    }

    /// A toxic on answers that belongs to a drill: it is on no proxy, and applies to whatever the drill applies to.
    pub(super) fn of_drill(effect: Effect) -> Self {
        Self {
            id: u64::MAX,
            name: String::new(),
            effect,
            direction: Direction::Download,
            stream: String::new(),
            toxicity: 1.0,
            expires: Moment::default(),
            zone: None,
            endpoint: None,
            first: None,
            seed: None,
            set_at: Moment::default(),
            decisions: Mutex::default(),
        }
    }

    /// The same toxic with other attributes. A new toxicity is drawn anew.
    pub(super) fn updated(&self, effect: Effect, toxicity: f32) -> Self {
        let mut decisions = self.lock().clone();
        if toxicity != self.toxicity {
            decisions = Decisions::default();
        }
        Self {
            id: self.id,
            name: self.name.clone(),
            effect,
            direction: self.direction,
            stream: self.stream.clone(),
            toxicity,
            expires: self.expires,
            zone: self.zone.clone(),
            endpoint: self.endpoint.clone(),
            first: self.first,
            seed: self.seed,
            set_at: self.set_at,
            decisions: Mutex::new(decisions),
        }
    }

    /// Whether it applies to a connection. Each connection is decided about once, in the order in which they come.
    pub(super) fn applies_to(&self, subject: ToxicSubject<'_>) -> bool {
        let mut decisions = self.lock();
        if let Some(decided) = decisions.made.get(&subject.connection) {
            return *decided;
        }
        let is_here = self
            .zone
            .as_ref()
            .is_none_or(|zone| Some(zone) == subject.zone)
            && self
                .endpoint
                .as_ref()
                .is_none_or(|endpoint| endpoint == subject.endpoint);
        let mut applies = is_here;
        if applies && let Some(first) = self.first {
            let is_new = subject.accepted >= self.set_at;
            applies = is_new && decisions.met < first;
            decisions.met += u64::from(is_new);
        }
        if applies {
            let seed = self.seed;
            let random = decisions.random.get_or_insert_with(|| {
                seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed)
            });
            applies = random.f32() < self.toxicity;
        }
        decisions.made.insert(subject.connection, applies);
        applies
    }

    /// The connections it applies to, of those it has met.
    pub(super) fn connections(&self) -> Vec<u64> {
        let mut connections: Vec<u64> = self
            .lock()
            .made
            .iter()
            .filter(|(_, applies)| **applies)
            .map(|(connection, _)| *connection)
            .collect();
        connections.sort_unstable();
        connections
    }

    /// Forgets connections that have ended.
    pub(super) fn retain(&self, is_live: impl Fn(u64) -> bool) {
        self.lock()
            .made
            .retain(|connection, _| is_live(*connection));
    }

    /// As Toxiproxy shows it.
    pub(super) fn to_json(&self) -> Value {
        let mut shown = json!({
            "attributes": self.effect.attributes(),
            "name": self.name,
            "type": self.effect.as_str(),
            "stream": self.stream,
            "toxicity": toxicity(self.toxicity),
        });
        for (key, value) in [
            ("zone", self.zone.as_ref().map(|zone| json!(zone.as_str()))),
            ("endpoint", self.endpoint.as_ref().map(|name| json!(name))),
            ("first", self.first.map(|first| json!(first))),
            ("seed", self.seed.map(|seed| json!(seed))),
        ] {
            if let Some(value) = value {
                shown[key] = value;
            }
        }
        shown
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Decisions> {
        self.decisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A float of 32 bits with as many digits as it has, and a whole one without a point.
fn toxicity(value: f32) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 {
        return json!(value as i64);
    }
    value
        .to_string()
        .parse::<f64>()
        .map_or(Value::Null, |value| json!(value))
}

/// As JSON shows a time: to the millisecond.
pub(super) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ToxicRequest, Invalid> {
        let mut request = ToxicRequest::parse(text.as_bytes())?;
        request.read_attributes()?;
        Ok(request)
    }

    #[test]
    fn requests() {
        let toxic = parse(r#"{"type":"latency","attributes":{"latency":100}}"#).unwrap();
        assert_eq!(toxic.name, "latency_downstream");
        assert_eq!(
            toxic.effect,
            Effect::Latency {
                latency: 100,
                jitter: 0
            }
        );
        let toxic = parse(r#"{"Type":"bandwidth","STREAM":"UpStream","attributes":{"Rate":7}}"#);
        let toxic = toxic.unwrap();
        assert_eq!(toxic.name, "bandwidth_UpStream");
        assert_eq!(toxic.effect, Effect::Bandwidth { rate: 7 });
        for (text, expected) in [
            ("", Invalid::Body("EOF".to_owned())),
            (r#"{"type":"lag"}"#, Invalid::Type),
            (r#"{"type":"latency","stream":"sideways"}"#, Invalid::Stream),
            (r#"{"type":"latency","stream":""}"#, Invalid::Stream),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
        for text in [
            "{",
            "[]",
            r#"{"type":"latency","attributes":{"latency":"x"}}"#,
            r#"{"type":"latency","ttl":"soon"}"#,
            r#"{"type":"latency","first":-1}"#,
            r#"{"type":"latency","toxicity":"most"}"#,
        ] {
            assert!(matches!(parse(text), Err(Invalid::Body(_))), "{text}");
        }
    }

    fn toxic(text: &str) -> Toxic {
        Toxic::new(
            1,
            parse(text).unwrap(),
            Moment::default(),
            Duration::from_secs(600),
        )
    }

    fn subject(connection: u64) -> ToxicSubject<'static> {
        ToxicSubject {
            connection,
            accepted: Moment::at(Duration::from_secs(connection)),
            zone: None,
            endpoint: "e0",
        }
    }

    #[test]
    fn a_seed_gives_the_same_connections_and_first_only_so_many() {
        let text = r#"{"type":"timeout","toxicity":0.5,"seed":7}"#;
        let draws = |toxic: &Toxic| -> Vec<bool> {
            (1..40).map(|id| toxic.applies_to(subject(id))).collect()
        };
        let (one, two) = (toxic(text), toxic(text));
        assert_eq!(draws(&one), draws(&two));
        assert_eq!(draws(&one), draws(&two), "decided once");
        assert!(draws(&one).contains(&true) && draws(&one).contains(&false));
        let first = toxic(r#"{"type":"timeout","first":2}"#);
        assert_eq!(draws(&first).iter().filter(|applies| **applies).count(), 2);
        assert_eq!(first.connections(), [1, 2]);
        let elsewhere = toxic(r#"{"type":"timeout","endpoint":"e1"}"#);
        assert!(draws(&elsewhere).iter().all(|applies| !applies));
    }

    #[test]
    fn json_is_toxiproxys() {
        let shown = toxic(r#"{"type":"slicer","attributes":{"average_size":64}}"#).to_json();
        assert_eq!(
            shown.to_string(),
            r#"{"attributes":{"average_size":64,"delay":0,"size_variation":0},"name":"slicer_downstream","stream":"downstream","toxicity":1,"type":"slicer"}"#
        );
        assert_eq!(toxicity(0.1), json!(0.1));
    }
}
