//! `entryway shutdown`: drain and stop the instance. Returns once the drain has begun, with `--wait` once the instance
//! has ended.

use std::io::Write;
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};
use tokio::time::{Instant, sleep};

use super::args::OutputFormat;
use super::client::InstanceAddress;
use super::error::{CliError, code};
use super::status::print_json;
use crate::admin::api_types::StatusJson;
use crate::duration;

/// How long the end may take beyond the instance's `shutdown.max_delay`.
const MARGIN: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(100);

pub async fn run(
    instance: &InstanceAddress,
    wait: bool,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let end = match wait {
        true => Some(InstanceEnd::of(instance).await?),
        false => None,
    };
    let begun: serde_json::Value = instance.change("/v1/shutdown").await?;
    match output {
        OutputFormat::Json => print_json(to, &begun)?,
        OutputFormat::Text => writeln!(to, "draining")?,
    }
    to.flush()?;
    match end {
        Some(end) => end.wait(instance).await.map(|()| 0),
        None => Ok(0),
    }
}

/// What tells that the instance has ended.
struct InstanceEnd {
    pid: u32,
    /// Whether `pid` is that process as seen from here; it may be in another container.
    sees_process: bool,
    within: Duration,
}

// === impl End ===

impl InstanceEnd {
    async fn of(instance: &InstanceAddress) -> Result<Self, CliError> {
        let status: StatusJson = instance.read("/v1/status").await?;
        let config: serde_json::Value = instance.read("/v1/config").await?;
        let max_delay = config
            .pointer("/settings/shutdown/max_delay/value")
            .and_then(serde_json::Value::as_str)
            .and_then(|text| duration::parse(text).ok())
            .unwrap_or(Duration::from_secs(25));
        let name = std::fs::read_to_string(format!("/proc/{}/comm", status.pid));
        Ok(Self {
            pid: status.pid,
            sees_process: name.is_ok_and(|name| name.trim_end() == "entryway"),
            within: max_delay + MARGIN,
        })
    }

    async fn wait(&self, instance: &InstanceAddress) -> Result<(), CliError> {
        let deadline = Instant::now() + self.within;
        while !self.is_over(instance).await {
            if Instant::now() >= deadline {
                return Err(CliError::new(
                    code::TIMED_OUT,
                    format!(
                        "the instance has not ended after {} s",
                        self.within.as_secs()
                    ),
                )
                .next("entryway status shows what it waits for; a signal (TERM) ends the drain"));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    async fn is_over(&self, instance: &InstanceAddress) -> bool {
        if self.sees_process {
            let pid = Pid::from_raw(self.pid.cast_signed());
            return !pid.is_some_and(is_alive);
        }
        match instance.read::<StatusJson>("/v1/status").await {
            // A supervisor may have started the next one.
            Ok(status) => status.pid != self.pid,
            Err(error) => error.code == code::NOT_THERE,
        }
    }
}

fn is_alive(pid: Pid) -> bool {
    // Another user's process answers with EPERM, and lives; a zombie has ended, whoever collects it.
    let exists = test_kill_process(pid) != Err(rustix::io::Errno::SRCH);
    let is_zombie = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.is_ok_and(|stat| {
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('Z'))
        })
    };
    exists && !is_zombie()
}
