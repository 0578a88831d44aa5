//! `entryway demo`: starts the mock zones, makes the settings, runs the script of `crate::demo`.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::task::JoinHandle;

use super::error::{CliError, code};
use super::load_words;
use super::run::explain;
use super::signals::interrupt;
use crate::app;
use crate::demo;
use crate::events::Log;
use crate::mock::{self, Mock, MockConfig};
use crate::settings::Loaded;
#[cfg(feature = "gateway")]
use crate::sys::private_folder::PrivateFolder;

/// The preferred listen address.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8182);

/// The exit code: 1 when a client failed, 128 + the signal when the script was interrupted.
pub async fn run(forever: bool) -> Result<u8, CliError> {
    let admin = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let mock = mock::start(MockConfig {
        admin,
        ..MockConfig::default()
    })
    .map_err(|error| CliError::new(code::CANNOT_BIND, error.to_string()))?;
    let listen = if is_free(LISTEN) {
        LISTEN
    } else {
        writeln!(anstream::stdout(), "{LISTEN} is taken; using another port")?;
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    };
    let mut loaded = load(&mock, listen)?;
    demo::shorten(&mut loaded.settings);
    let app = app::start(loaded, Log::default()).map_err(explain)?;
    let (interrupt, signals) = interrupt();
    let played = demo::run(&mock, app, forever, interrupt).await;
    code_of(played, signals).await
}

/// The laptop tunnel; exit codes as above.
#[cfg(feature = "gateway")]
pub async fn run_laptop() -> Result<u8, CliError> {
    let mock = mock::start(MockConfig::default())
        .map_err(|error| CliError::new(code::CANNOT_BIND, error.to_string()))?;
    let folder =
        PrivateFolder::new("demo").map_err(|error| CliError::new(code::OS, error.to_string()))?;
    let (interrupt, signals) = interrupt();
    let played = demo::laptop::run(&mock, folder.path(), interrupt).await;
    code_of(played, signals).await
}

/// The laptop tunnel is played with a gateway.
#[cfg(not(feature = "gateway"))]
#[expect(clippy::unused_async, reason = "the other build's is asynchronous")]
pub async fn run_laptop() -> Result<u8, CliError> {
    Err(CliError::new(
        code::NOT_UNDERSTOOD,
        "this build has no gateway, which the laptop tunnel needs",
    )
    .next("cargo run --release -- demo --laptop"))
}

async fn code_of(
    played: Result<demo::DemoSummary, demo::Error>,
    signals: JoinHandle<u8>,
) -> Result<u8, CliError> {
    let summary = match played {
        Ok(summary) => summary,
        // `entryway demo | head` has seen enough.
        Err(demo::Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            return Ok(0);
        }
        Err(error) => return Err(CliError::new(code::NOT_OK, format!("demo: {error}"))),
    };
    if summary.interrupted {
        return Ok(signals.await.unwrap_or_default());
    }
    signals.abort();
    Ok(u8::from(summary.failed > 0 || summary.answered == 0))
}

fn is_free(address: SocketAddr) -> bool {
    std::net::TcpListener::bind(address).is_ok()
}

/// What `run` would be started with: three zones, the first our own.
fn load(mock: &Mock, listen: SocketAddr) -> Result<Loaded, CliError> {
    let mut flags = vec![format!("--listen={listen}"), "--zone=a".to_owned()];
    flags.extend(
        mock.zones()
            .iter()
            .map(|zone| format!("--endpoint={}?zone={}", zone.address(), zone.name())),
    );
    load_words(flags)
}
