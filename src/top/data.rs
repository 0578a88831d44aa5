//! What one reading of the admin API gives the screen.

use serde::Deserialize;

use crate::admin::api_types::{BytesJson, EndpointJson, History, StatusJson};

/// What one round of reading yields.
#[derive(Debug, Default)]
pub(crate) struct TopData {
    pub(crate) status: StatusJson,
    pub(crate) endpoints: Vec<EndpointJson>,
    /// `None`: they were not asked for.
    pub(crate) connections: Option<Vec<ShownConnection>>,
    /// `None`: it was not asked for.
    pub(crate) history: Option<History>,
}

/// `/v1/connections`, as far as it is shown: a thousand of them are read again and again.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Connections {
    #[serde(default)]
    pub(crate) connections: Vec<ShownConnection>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ShownConnection {
    pub(super) id: u64,
    pub(super) listener: String,
    pub(super) client: String,
    pub(super) endpoint: Option<String>,
    pub(super) address: Option<String>,
    pub(super) age_s: f64,
    pub(super) idle_s: f64,
    pub(super) bytes: BytesJson,
    pub(super) at_rest: bool,
}

/// One event as the list shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventLine {
    pub(super) time: String,
    pub(super) level: String,
    pub(super) name: String,
    pub(super) text: String,
}

// === impl EventLine ===

impl EventLine {
    /// Of the JSON object of a log line; `None` where it is not one.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let part = |key: &str| value[key].as_str().unwrap_or("").to_owned();
        let mut text = part("message");
        for key in [
            "name",
            "endpoint",
            "server.address",
            "from",
            "to",
            "reason",
            "conn.reason",
            "error",
        ] {
            let value = part(key);
            if !value.is_empty() {
                text.push(' ');
                text.push_str(&value);
            }
        }
        Some(Self {
            time: part("timestamp").get(11..19).unwrap_or("").to_owned(),
            level: part("level"),
            name: part("event"),
            text,
        })
    }
}
