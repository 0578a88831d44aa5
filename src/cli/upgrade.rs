//! `entryway upgrade`: replace the running process by a new one without a refused or broken connection. Returns once the
//! new process serves.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::OutputFormat;
use super::client::{InstanceAddress, clean};
use super::error::{CliError, code};
use super::status::print_json;
use crate::admin::api_types::{UpgradedJson, versioned};

/// Twice the time that the instance gives a new process, and some more.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is to run from now on.
#[derive(Clone, Debug, Default)]
pub struct Order {
    pub binary: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub max_drain: Option<Duration>,
}

pub async fn run(
    instance: &InstanceAddress,
    order: Order,
    output: OutputFormat,
    to: &mut dyn Write,
) -> Result<u8, CliError> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (key, path) in [("binary", &order.binary), ("config", &order.config)] {
        if let Some(path) = path {
            query.append_pair(key, &absolute(path)?);
        }
    }
    if let Some(max_drain) = order.max_drain {
        query.append_pair("max_drain", &format!("{}ms", max_drain.as_millis()));
    }
    let query = query.finish();
    let path = match query.is_empty() {
        true => "/v1/upgrade".to_owned(),
        false => format!("/v1/upgrade?{query}"),
    };
    let new: UpgradedJson = instance.change_within(&path, PATIENCE).await?;
    if output == OutputFormat::Json {
        print_json(to, &versioned(new))?;
        return Ok(0);
    }
    writeln!(
        to,
        "process {} serves (generation {})",
        new.pid, new.generation
    )?;
    for key in &new.changed {
        writeln!(to, "differs: {}", clean(key))?;
    }
    Ok(0)
}

/// The instance has another working directory.
fn absolute(path: &Path) -> Result<String, CliError> {
    let whole = std::path::absolute(path)
        .map_err(|error| CliError::new(code::OS, format!("{}: {error}", path.display())))?;
    whole.into_os_string().into_string().map_err(|path| {
        CliError::new(
            code::NOT_UNDERSTOOD,
            format!("{} is not UTF-8", path.display()),
        )
    })
}
