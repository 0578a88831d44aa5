//! `entryway mock`: fake Datomic entry points until a signal ends them.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr as _;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};
use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;
use crate::duration;
use crate::mock::{self, Behaviour, Latency, Mock, MockConfig, StartError};
use crate::settings::byte_size::{self, ByteSize};
use crate::sys::port_owner::port_owner;

/// Why the mock ended other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Standard output is gone, or signals cannot be had.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The subcommand and its flags.
pub fn command() -> Command {
    Command::new("mock")
        .about("Fake Datomic entry points, one per zone, to try entryway against")
        .long_about(
            "Fake Datomic entry points, one per zone, each on its own loopback address, all on one port.\n\
             Prints one line per zone, ready to paste behind `entryway run`, and serves until TERM or INT.\n\
             With --admin, `curl -X POST 'http://ADDR/zones/a?mode=silent'` makes zone a fail; modes:\n\
             ok refuse silent freeze rst fin slow slow-body 503 429 html other-identity dead dead-silent.\n\
             latency, slow-by, body, idle-cut and idle-cut-silent can be set the same way.",
        )
        .arg(
            Arg::new("zones")
                .long("zones")
                .value_name("A,B,…")
                .value_delimiter(',')
                .default_value("a,b,c")
                .help("Zone names"),
        )
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("IP:PORT")
                .value_parser(value_parser!(SocketAddr))
                .default_value("127.0.0.1:0")
                .help("The port the zones share; 0 takes a free one. An address other than 127.0.0.1 is the base address"),
        )
        .arg(
            Arg::new("base-ip")
                .long("base-ip")
                .value_name("IP")
                .value_parser(value_parser!(IpAddr))
                .help("Address of the first zone; the others follow it [default: 127.0.0.11]"),
        )
        .arg(
            Arg::new("latency")
                .long("latency")
                .value_name("D")
                .value_parser(Latency::from_str)
                .default_value("0ms")
                .help("Delay of every answer: 2ms, normal(5ms,1ms) or p50=2ms,p99=40ms"),
        )
        .arg(
            Arg::new("slow-by")
                .long("slow-by")
                .value_name("D")
                .value_parser(duration::parse)
                .default_value("2s")
                .help("What mode slow adds to the latency, and over how long slow-body spreads a body"),
        )
        .arg(
            Arg::new("body")
                .long("body")
                .value_name("SIZE")
                .value_parser(byte_size::parse)
                .help("Size of the answers' bodies; GET / is padded with blanks, up to 60 KiB [default: the identity's own, a POST is echoed]"),
        )
        .arg(
            Arg::new("idle-cut")
                .long("idle-cut")
                .value_name("D")
                .value_parser(duration::parse)
                .help("Close connections that are idle for that long, as an ALB does after 60s [default: never]"),
        )
        .arg(
            Arg::new("idle-cut-silent")
                .long("idle-cut-silent")
                .value_name("D")
                .value_parser(duration::parse)
                .help("Forget connections that are idle for that long, as an NLB does after 350s: later bytes are reset [default: never]"),
        )
        .arg(
            Arg::new("identity")
                .long("identity")
                .value_name("PATH")
                .help("The :s3-auth-path they answer with [default: mock-bucket/mock-system]"),
        )
        .arg(
            Arg::new("admin")
                .long("admin")
                .value_name("IP:PORT")
                .value_parser(value_parser!(SocketAddr))
                .help("HTTP port that switches zones: POST /zones/ZONE?mode=MODE, GET /zones"),
        )
}

/// Runs it until TERM or INT.
pub async fn run(matches: &ArgMatches) -> Result<(), Error> {
    // Before the first line is printed, because whoever reads it may send the signal at once.
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mock = mock::start(config(matches))?;
    print(&mock, &mut io::stdout().lock())?;
    if let Some(admin) = mock.admin() {
        writeln!(io::stderr(), "admin http://{admin}/zones")?;
    }
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

fn print(mock: &Mock, to: &mut impl Write) -> io::Result<()> {
    for line in mock.paste_lines() {
        writeln!(to, "{line}")?;
    }
    to.flush()
}

fn config(matches: &ArgMatches) -> MockConfig {
    let default = MockConfig::default();
    let listen = matches.get_one::<SocketAddr>("listen").copied();
    // `--listen 127.0.0.1:0` names a port; another address names the first zone as well.
    let asked = listen
        .map(|listen| listen.ip())
        .filter(|ip| *ip != Ipv4Addr::LOCALHOST);
    let base_ip = matches.get_one::<IpAddr>("base-ip").copied().or(asked);
    let limit = |name: &str| {
        let limit = matches.get_one::<Duration>(name).copied();
        limit.filter(|limit| !limit.is_zero())
    };
    MockConfig {
        zones: matches
            .get_many::<String>("zones")
            .map(|zones| zones.cloned().collect())
            .unwrap_or(default.zones),
        base_ip: base_ip.unwrap_or(default.base_ip),
        port: listen.map_or(default.port, |listen| listen.port()),
        behaviour: Behaviour {
            latency: matches.get_one("latency").copied().unwrap_or_default(),
            slow_by: limit("slow-by").unwrap_or(default.behaviour.slow_by),
            body: matches
                .get_one::<ByteSize>("body")
                .map(|size| size.0 as usize),
            idle_cut: limit("idle-cut"),
            idle_cut_silent: limit("idle-cut-silent"),
        },
        identity: matches
            .get_one::<String>("identity")
            .cloned()
            .unwrap_or(default.identity),
        admin: matches.get_one::<SocketAddr>("admin").copied(),
    }
}

/// The failure in words: what · likely why · next command.
pub(super) fn explain(error: &Error) -> CliError {
    let failure = CliError::new(error.exit_code(), error.to_string());
    match error {
        Error::Start(StartError::Bind(address, source)) => match source.kind() {
            io::ErrorKind::AddrInUse => {
                let holder = port_owner(*address)
                    .map_or("another program".to_owned(), |holder| holder.to_string());
                failure
                    .likely(format!("{holder} has the port"))
                    .next("--listen 127.0.0.1:0 takes a free one")
            }
            io::ErrorKind::PermissionDenied => failure
                .likely("ports below 1024 need a privilege")
                .next("--listen 127.0.0.1:0 takes a free one"),
            _ => failure
                .likely("this machine has no such address")
                .next("--base-ip 127.0.0.11"),
        },
        Error::Start(StartError::Zones(_)) => failure.next("entryway mock --zones a,b,c"),
        Error::Start(StartError::BaseIp(..)) => failure.next("--base-ip 127.0.0.11"),
        Error::Start(StartError::Thread(_)) | Error::Io(_) => failure,
    }
}

// === impl Error ===

impl Error {
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Start(StartError::Zones(_) | StartError::BaseIp(..)) => 2,
            Error::Start(StartError::Bind(_, error)) => match error.kind() {
                io::ErrorKind::PermissionDenied => 77,
                _ => 73,
            },
            Error::Start(StartError::Thread(_)) | Error::Io(_) => 71,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> MockConfig {
        config(&command().get_matches_from([&["mock"], args].concat()))
    }

    #[test]
    fn flags_become_a_configuration() {
        let plain = parse(&[]);
        assert_eq!(plain.zones, ["a", "b", "c"]);
        assert_eq!(plain.base_ip.to_string(), "127.0.0.11");
        assert_eq!((plain.port, plain.admin), (0, None));
        let full = parse(&[
            "--zones=x,y",
            "--listen=127.0.0.1:8200",
            "--base-ip=127.0.1.1",
            "--latency=2ms",
            "--body=4KiB",
            "--idle-cut=60s",
            "--identity=bucket/path",
            "--admin=127.0.0.1:0",
        ]);
        assert_eq!(full.zones, ["x", "y"]);
        assert_eq!(
            (full.base_ip.to_string(), full.port),
            ("127.0.1.1".to_owned(), 8200)
        );
        assert_eq!(
            full.behaviour.latency,
            Latency::Fixed(Duration::from_millis(2))
        );
        assert_eq!(full.behaviour.body, Some(4096));
        assert_eq!(full.behaviour.idle_cut, Some(Duration::from_secs(60)));
        assert_eq!(full.behaviour.idle_cut_silent, None);
        assert_eq!(full.identity, "bucket/path");
        let elsewhere = parse(&["--listen=127.0.0.50:0"]);
        assert_eq!(elsewhere.base_ip.to_string(), "127.0.0.50");
    }

    #[test]
    fn prints_one_line_per_zone_to_paste() {
        let mock = mock::start(MockConfig::default()).unwrap();
        let mut out = Vec::new();
        print(&mock, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.starts_with("--endpoint '127.0.0.11:"), "{text}");
    }
}
