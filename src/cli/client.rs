//! Client of a running instance: finds it, reads over admin HTTP, changes through the control socket.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::args::{DEFAULT_INSTANCE, OFF};
use super::error::{CliError, code};
use crate::admin::api_types::StatusJson;
use crate::admin::registration::{self, Registered};
use crate::http::client::{self, Answer, Bounds, Error, HttpTarget};
use crate::http::{Problem, StatusCode};

/// One question and its answer. A reload may resolve and validate, so it is not too short.
const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(10),
    body: 64 << 20,
};

/// The instance to talk to.
#[derive(Clone, Debug)]
pub struct InstanceAddress {
    /// Its admin address, `HOST:PORT`.
    pub admin: String,
    /// Its control socket, where it was named: everything goes through it then.
    pub control: Option<PathBuf>,
}

// === impl Instance ===

impl InstanceAddress {
    /// The instance that was named, else the one that is registered for this user in this network namespace, else the
    /// default address. Several registered ones are an error: a command must not speak to the wrong one. What is empty
    /// names nothing.
    pub async fn locate(admin: Option<String>, control: Option<PathBuf>) -> Result<Self, CliError> {
        let default = || DEFAULT_INSTANCE.to_owned();
        let admin = admin.filter(|admin| !admin.is_empty());
        let control = control.filter(|path| !path.as_os_str().is_empty());
        if admin.is_some() || control.is_some() {
            let admin = admin.unwrap_or_else(default);
            return Ok(Self { admin, control });
        }
        let found = registration::discover().await;
        match found.as_slice() {
            [] => Ok(Self {
                admin: default(),
                control: None,
            }),
            [one] if one.admin.is_none() && one.control.is_none() => Err(CliError::new(
                code::NOT_THERE,
                format!(
                    "the instance with pid {} has neither admin HTTP nor a control socket",
                    one.pid
                ),
            )
            .likely("it was started with --admin off and --control off")
            .next("signals are the only way in: HUP reloads, TERM drains")),
            [one] => Ok(Self::of(one.clone())),
            several => {
                let list: Vec<String> = several.iter().map(describe).collect();
                Err(CliError::new(
                    code::SETTING,
                    format!(
                        "{} instances run here, and none was named:\n{}",
                        several.len(),
                        list.join("\n")
                    ),
                )
                .next("name one with --admin HOST:PORT or --control PATH"))
            }
        }
    }

    /// A registered one.
    pub(super) fn of(registered: Registered) -> Self {
        Self {
            // Where admin HTTP is off everything goes through the control socket.
            control: match registered.admin {
                Some(_) => None,
                None => registered.control.map(PathBuf::from),
            },
            admin: registered
                .admin
                .unwrap_or_else(|| DEFAULT_INSTANCE.to_owned()),
        }
    }

    /// Its status, if it answers at once.
    pub(super) async fn status(&self) -> Option<StatusJson> {
        let answer = self.ask("/v1/status", Duration::from_secs(1)).await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// Whom to ask what changes nothing.
    pub(super) fn reading(&self) -> HttpTarget {
        match &self.control {
            Some(path) => HttpTarget::Unix(path.clone()),
            None => HttpTarget::Tcp(self.admin.clone()),
        }
    }

    /// `GET path`, whatever the status; `time` bounds it.
    pub async fn ask(&self, path: &str, time: Duration) -> Result<Answer, CliError> {
        let target = self.reading();
        let bounds = Bounds { time, ..BOUNDS };
        client::get(&target, path, bounds)
            .await
            .map_err(|error| unreachable(&target, &error))
    }

    /// The JSON at `path`.
    pub async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        let answer = self.ask(path, BOUNDS.time).await?;
        self.understand(&answer)
    }

    /// `POST path` on the control socket; the JSON of the answer.
    pub async fn change<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.change_within(path, BOUNDS.time).await
    }

    /// The same for a change that may take longer.
    pub async fn change_within<T: DeserializeOwned>(
        &self,
        path: &str,
        time: Duration,
    ) -> Result<T, CliError> {
        let socket = match &self.control {
            Some(path) => path.clone(),
            None => self.control_socket().await?,
        };
        let target = HttpTarget::Unix(socket);
        let answer = client::post(&target, path, &[], Bounds { time, ..BOUNDS })
            .await
            .map_err(|error| unreachable(&target, &error))?;
        self.understand(&answer)
    }

    async fn control_socket(&self) -> Result<PathBuf, CliError> {
        let status: StatusJson = self.read("/v1/status").await?;
        status.control_socket.map(PathBuf::from).ok_or_else(|| {
            CliError::new(
                code::PERMISSION,
                format!("the instance at {} has no control socket", self.admin),
            )
            .likely("--control off, or no writable place for it (its log says so at the start)")
            .next("restart it with --control PATH, or send the signal: HUP reloads, TERM drains")
        })
    }

    fn understand<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, CliError> {
        if !answer.status.is_success() {
            return Err(refused(answer));
        }
        serde_json::from_slice(&answer.body).map_err(|error| {
            CliError::new(
                code::NOT_THERE,
                format!(
                    "the answer from {} is not entryway's: {error}",
                    self.reading()
                ),
            )
            .likely("another program has this port, or the versions are far apart")
            .next("name the instance with --admin HOST:PORT (its log: listener.up, listener admin)")
        })
    }
}

fn describe(one: &Registered) -> String {
    let name = match (&one.admin, &one.control) {
        (Some(admin), _) => format!("--admin {}", clean(admin)),
        (None, Some(control)) => format!("--control {}", clean(control)),
        (None, None) => "admin and control are off".to_owned(),
    };
    let listeners: Vec<_> = one.listeners.iter().map(|address| clean(address)).collect();
    format!(
        "  pid {}, listening on {}: {name}",
        one.pid,
        listeners.join(" ")
    )
}

fn unreachable(target: &HttpTarget, error: &Error) -> CliError {
    if let Error::Connect(_, cause) = error
        && cause.kind() == io::ErrorKind::PermissionDenied
    {
        return CliError::new(code::PERMISSION, error.to_string())
            .likely("the instance runs as another user")
            .next("run this as that user, or as root");
    }
    let next = match target {
        HttpTarget::Tcp(_) => "start one with `entryway run`, or name it with --admin HOST:PORT",
        HttpTarget::Unix(_) => "`entryway status` without --control names the socket",
    };
    if matches!(target, HttpTarget::Tcp(address) if address == OFF) {
        return CliError::new(code::NOT_THERE, "the instance's admin HTTP is off")
            .likely("ENTRYWAY_ADMIN says off")
            .next("name its control socket with --control PATH");
    }
    CliError::new(code::NOT_THERE, format!("no instance answers: {error}"))
        .likely("it is not running, or its admin address is another one")
        .next(next)
}

/// An error answer as a failure: the problem's own words, where it is one of ours.
fn refused(answer: &Answer) -> CliError {
    let exit = match answer.status {
        StatusCode::NOT_FOUND => code::NOT_THERE,
        StatusCode::FORBIDDEN | StatusCode::MISDIRECTED_REQUEST => code::PERMISSION,
        StatusCode::UNPROCESSABLE_ENTITY => code::SETTING,
        StatusCode::SERVICE_UNAVAILABLE => code::TIMED_OUT,
        _ => code::INTERNAL,
    };
    match serde_json::from_slice::<Problem>(&answer.body) {
        // The report is the one `check` prints, on lines of its own.
        Ok(problem) if exit == code::SETTING => {
            let report: Vec<_> = problem.detail.lines().map(clean).collect();
            CliError::new(
                exit,
                format!("{}\n{}", clean(&problem.title), report.join("\n")),
            )
            .next(clean(&problem.hint))
        }
        Ok(problem) => {
            let (title, detail) = (clean(&problem.title), clean(&problem.detail));
            CliError::new(exit, format!("{title}: {detail}")).next(clean(&problem.hint))
        }
        Err(_) => CliError::new(
            code::NOT_THERE,
            format!("answer {} is not entryway's", answer.status),
        )
        .likely("another program has this port")
        .next("name the instance with --admin HOST:PORT"),
    }
}

/// Text from an instance, safe for a terminal.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(
            text.chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect(),
        )
    } else {
        Cow::Borrowed(text)
    }
}

/// `s` where it is not one.
pub(super) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// A time span in one or two units.
pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0 if seconds < 1.0 => format!("{:.0}ms", seconds.max(0.0) * 1000.0),
        0..=59 => format!("{whole}s"),
        60..=3599 => format!("{}m{}s", whole / 60, whole % 60),
        3600..=86399 => format!("{}h{}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{}h", whole / 86400, whole % 86400 / 3600),
    }
}

/// How long ago an RFC 3339 time is.
pub(super) fn ago(at: &str) -> String {
    match at.parse::<jiff::Timestamp>() {
        Ok(at) => span(jiff::Timestamp::now().duration_since(at).as_secs_f64()),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests;
