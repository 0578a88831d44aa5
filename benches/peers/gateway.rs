//! Question: what does the way through the gateway cost (entryway on a laptop, TLS with client certificates, `entryway
//! gateway`, upstream), against pairs of other programs that do the same?
//!
//! Each peer is two processes: one takes plain TCP and speaks TLS to the other, which asks for a certificate and passes
//! the bytes on to the upstream. All speak TLS 1.3 with AES-256-GCM and the same P-256 certificates, made by `entryway
//! cert`. Ours sends a CONNECT request on every connection as well, which the others have nothing like. No session is
//! resumed, as with ours, so that every connection is verified; two peers that resume theirs are shown beside them, and
//! so is ours with spares.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::load::{Bytes, Work, upstreams};
use crate::proxies::{Peer, entryway, found, free_port, launch, nginx_stream_module};
use crate::{Row, distance, idle_memory, is_bulk, measure, table};

/// Chooses all rows of this file.
pub(crate) const ROWS_OF_IT: &str = "gateway";

/// The row of the memory of an idle tunnel.
const IDLE: &str = "gateway idle memory";

const ROWS: &[Row] = &[
    Row {
        name: "gateway 1 KiB x32",
        work: Work::RoundTrips(1024),
        connections: 32,
    },
    Row {
        name: "gateway up x1",
        work: Work::Up,
        connections: 1,
    },
    Row {
        name: "gateway down x1",
        work: Work::Down,
        connections: 1,
    },
    Row {
        name: "gateway up x8",
        work: Work::Up,
        connections: 8,
    },
    Row {
        name: "gateway down x8",
        work: Work::Down,
        connections: 8,
    },
    Row {
        name: "gateway connect x16",
        work: Work::Connect,
        connections: 16,
    },
];

/// The two ends are as far from each other as a laptop and a region; the upstream is beside the far end. Direct, a
/// connection and its byte take two round trips.
pub(crate) const FAR: Row = Row {
    name: "gateway far connect x1",
    work: Work::Connect,
    connections: 1,
};
/// Half a round trip of [`FAR`].
pub(crate) const FAR_ONE_WAY: Duration = Duration::from_millis(25);

/// The name in the certificate of the far end.
const SERVER: &str = "gw.example";
/// The identity of the near end.
const CLIENT: &str = "laptop.example";
const CIPHER: &str = "TLS_AES_256_GCM_SHA384";

/// What one pair is started from.
struct Way<'a> {
    dir: &'a Path,
    /// Where the near end listens for the load.
    near: u16,
    /// Where the near end finds the far end.
    far: SocketAddr,
    /// The addresses that ends listen on.
    on: Ipv4Addr,
    upstream: SocketAddr,
}

/// How to start a pair, the far end first; `None` where the machine does not have it.
type Start = fn(&Way<'_>) -> Option<[Command; 2]>;

const PAIRS: &[(&str, Start)] = &[
    ("entryway", |way| entryway_pair(way, None, "")),
    // Another build, given by path, to compare two in one run.
    ("entryway other", |way| {
        let other = std::env::var_os("PEER_ENTRYWAY")?;
        entryway_pair(way, Some(other), "")
    }),
    ("entryway warm", |way| {
        entryway_pair(way, None, "[upstream.warm]\nspares = 32\n")
    }),
    ("haproxy", |way| haproxy_pair(way, "16384", false)),
    ("haproxy 256k", |way| haproxy_pair(way, "262144", false)),
    ("haproxy resumed", |way| haproxy_pair(way, "16384", true)),
    ("nginx", |way| nginx_pair(way, "16k", false)),
    ("nginx 256k", |way| nginx_pair(way, "256k", false)),
    ("nginx resumed", |way| nginx_pair(way, "16k", true)),
    ("stunnel", stunnel_pair),
    ("ghostunnel", ghostunnel_pair),
];

/// Whether a pair says anything in this row.
fn belongs(name: &str, row: &Row) -> bool {
    let connects = row.work == Work::Connect;
    connects || !(name == "entryway warm" || name.ends_with(" resumed"))
}

/// Whether `--rows` names this row, by its own name or by the name of all.
fn is_listed(rows: Option<&str>, name: &str) -> bool {
    rows.is_none_or(|rows| rows.split(',').any(|row| row == name || row == ROWS_OF_IT))
}

/// Measures the rows that are listed and adds them to the report.
pub(crate) fn run(
    dir: &Path,
    rows: Option<&str>,
    wanted: impl Fn(&str) -> bool,
    rounds: Option<usize>,
    time: Duration,
    held: usize,
    report: &mut BTreeMap<&'static str, serde_json::Value>,
) {
    let listed: Vec<&Row> = ROWS
        .iter()
        .filter(|row| is_listed(rows, row.name))
        .collect();
    let idle = is_listed(rows, IDLE);
    if is_listed(rows, FAR.name)
        && let Some(row) = distance::run_apart(dir, FAR.name)
    {
        report.insert(FAR.name, row);
    }
    if listed.is_empty() && !idle {
        return;
    }
    if let Err(error) = certificates(dir) {
        eprintln!("no gateway rows: {error}");
        return;
    }
    let peers = start_all(dir, Ipv4Addr::LOCALHOST, wanted);
    for row in listed {
        let rounds = rounds.unwrap_or(if is_bulk(row) { 7 } else { 15 });
        let samples = measure(&peers, row, belongs, rounds, time, Bytes::Raw);
        table::print(&peers, row, &samples);
        report.insert(row.name, table::as_json(&peers, &samples));
    }
    if idle {
        let plain: Vec<Peer> = peers
            .into_iter()
            .filter(|peer| belongs(peer.name, &ROWS[0]))
            .collect();
        report.insert(IDLE, idle_memory(&plain, held, Bytes::Raw));
    }
}

/// An authority, a certificate for the far end and one for the near end, and each with its key in one file.
fn certificates(dir: &Path) -> Result<(), String> {
    let cert = |args: &[&str]| {
        let made = Command::new(env!("CARGO_BIN_EXE_entryway"))
            .arg("cert")
            .args(args)
            .current_dir(dir)
            .output();
        match made {
            Ok(made) if made.status.success() => Ok(()),
            Ok(made) => Err(String::from_utf8_lossy(&made.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    cert(&["ca", "--out", "."])?;
    cert(&["server", "--ca", ".", "--dns", SERVER])?;
    cert(&["client", "--ca", ".", "--identity", CLIENT])?;
    for name in [SERVER, CLIENT] {
        let read = |ending: &str| fs::read_to_string(dir.join(format!("{name}.{ending}")));
        let both = read("pem").and_then(|cert| Ok(cert + &read("key")?));
        both.and_then(|both| fs::write(dir.join(format!("{name}.both")), both))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The pairs of [`FAR`], inside the namespace of [`distance`].
pub(crate) fn start_far(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<Peer> {
    certificates(dir).expect("certificates");
    start_all(dir, distance::FAR, wanted)
}

/// Starts all pairs; `at`: where their far ends are found.
fn start_all(dir: &Path, at: Ipv4Addr, wanted: impl Fn(&str) -> bool) -> Vec<Peer> {
    let mut ups = upstreams(PAIRS.len() + 1, at)
        .expect("upstreams")
        .into_iter();
    let direct = ups.next().expect("one more than pairs");
    let on = if at.is_loopback() {
        at
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    let mut peers = vec![Peer::direct(direct)];
    let wanted = PAIRS.iter().filter(|(name, _)| wanted(name));
    for ((name, start), upstream) in wanted.zip(ups) {
        let way = Way {
            dir,
            near: free_port(),
            far: SocketAddr::from((at, free_port())),
            on,
            upstream: SocketAddr::from((Ipv4Addr::LOCALHOST, upstream.port())),
        };
        let Some([mut far, mut near]) = start(&way) else {
            eprintln!("{name}: not on this machine");
            continue;
        };
        let pair = launch(name, &mut far, way.far.port(), None).and_then(|far| {
            let near = launch(name, &mut near, way.near, None)?;
            Ok(near.with(far))
        });
        match pair {
            Ok(pair) => peers.push(pair),
            Err(error) => eprintln!("{name}: {error}"),
        }
    }
    peers
}

fn entryway_pair(
    way: &Way<'_>,
    binary: Option<std::ffi::OsString>,
    more: &str,
) -> Option<[Command; 2]> {
    let file = |name: &str| way.dir.join(name).display().to_string();
    let via = format!(
        "[upstream.via]\nurl = \"https://{}\"\nserver_name = \"{SERVER}\"\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
        way.far,
        file("ca.pem"),
        file(&format!("{CLIENT}.pem")),
        file(&format!("{CLIENT}.key")),
    );
    let quiet = "[log]\nconnections = \"off\"\n";
    let near = entryway(
        way.dir,
        way.near,
        "zone.example:8182",
        binary.clone(),
        "system",
        &format!("{via}{more}{quiet}"),
    )?;
    let settings = way.dir.join(format!("gateway-{}.toml", way.far.port()));
    let text = format!("[runtime]\nworkers = 2\nloopback_congestion = \"system\"\n{quiet}");
    fs::write(&settings, text).ok()?;
    let program = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_entryway").into());
    let mut far = Command::new(program);
    far.args(["gateway", "--probe", "off", "--admin", "off"])
        .args(["--control", "off", "--zone", "none"])
        .args(["--listen", &format!("{}:{}", way.on, way.far.port())])
        .args(["--cert", &file(&format!("{SERVER}.pem"))])
        .args(["--key", &file(&format!("{SERVER}.key"))])
        .args(["--client-ca", &file("ca.pem")])
        .args(["--endpoint", &format!("{}?name=zone.example", way.upstream)])
        .arg("--config")
        .arg(settings);
    Some([far, near])
}

/// `resumed`: sessions are resumed, so that most connections verify no certificate.
fn haproxy_pair(way: &Way<'_>, buffer: &str, resumed: bool) -> Option<[Command; 2]> {
    let (dir, on) = (way.dir.display(), way.on);
    let (tickets, reuse) = if resumed {
        ("", "")
    } else {
        (" no-tls-tickets", " no-ssl-reuse")
    };
    let cache = if resumed { "20000" } else { "0" };
    let end = |name: &str, port: u16, listen: String, server: String| {
        let mut command = found("haproxy")?;
        let file = way.dir.join(format!("haproxy-{name}-{port}.cfg"));
        let text = format!(
            "global\n nbthread 2\n maxconn 9000\n tune.bufsize {buffer}\n tune.ssl.cachesize {cache}\n ssl-default-bind-ciphersuites {CIPHER}\n \
             ssl-default-server-ciphersuites {CIPHER}\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
             listen l\n bind {on}:{port}{listen}\n server u {server}\n"
        );
        fs::write(&file, text).ok()?;
        command.arg("-db").arg("-f").arg(file);
        Some(command)
    };
    let far = end(
        "far",
        way.far.port(),
        format!(
            " ssl crt {dir}/{SERVER}.both ca-file {dir}/ca.pem verify required ssl-min-ver TLSv1.3{tickets}"
        ),
        way.upstream.to_string(),
    )?;
    let near = end(
        "near",
        way.near,
        String::new(),
        format!(
            "{} ssl crt {dir}/{CLIENT}.both ca-file {dir}/ca.pem verify required sni str({SERVER}) verifyhost {SERVER} ssl-min-ver TLSv1.3{reuse}",
            way.far
        ),
    )?;
    Some([far, near])
}

fn nginx_pair(way: &Way<'_>, buffer: &str, resumed: bool) -> Option<[Command; 2]> {
    let (dir, on) = (way.dir.display(), way.on);
    let end = |name: &str, port: u16, to: String, tls: String| {
        let mut command = found("nginx")?;
        let own = way.dir.join(format!("nginx-{name}-{port}"));
        fs::create_dir_all(&own).ok()?;
        let text = format!(
            "{module}worker_processes 2;\nworker_rlimit_nofile 20000;\ndaemon off;\npid {0}/pid;\nerror_log {0}/error;\nevents {{ worker_connections 19000; }}\n\
             stream {{ server {{ listen {on}:{port}{tls} proxy_pass {to}; proxy_buffer_size {buffer}; proxy_timeout 1h; tcp_nodelay on; }} }}\n",
            own.display(),
            module = nginx_stream_module(),
        );
        fs::write(own.join("conf"), text).ok()?;
        command.arg("-c").arg(own.join("conf")).arg("-p").arg(&own);
        Some(command)
    };
    let (cache, tickets, reuse) = if resumed {
        ("shared:s:8m", "on", "on")
    } else {
        ("off", "off", "off")
    };
    let far = end(
        "far",
        way.far.port(),
        way.upstream.to_string(),
        format!(
            " ssl; ssl_certificate {dir}/{SERVER}.pem; ssl_certificate_key {dir}/{SERVER}.key; ssl_client_certificate {dir}/ca.pem; \
             ssl_verify_client on; ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites {CIPHER}; ssl_session_cache {cache}; ssl_session_tickets {tickets};"
        ),
    )?;
    let near = end(
        "near",
        way.near,
        way.far.to_string(),
        format!(
            "; proxy_ssl on; proxy_ssl_certificate {dir}/{CLIENT}.pem; proxy_ssl_certificate_key {dir}/{CLIENT}.key; \
             proxy_ssl_trusted_certificate {dir}/ca.pem; proxy_ssl_verify on; proxy_ssl_name {SERVER}; proxy_ssl_server_name on; \
             proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command Ciphersuites {CIPHER}; proxy_ssl_session_reuse {reuse};"
        ),
    )?;
    Some([far, near])
}

fn stunnel_pair(way: &Way<'_>) -> Option<[Command; 2]> {
    let (dir, on) = (way.dir.display(), way.on);
    let end = |name: &str, port: u16, to: String, more: String| {
        let mut command = found("stunnel")?;
        let file = way.dir.join(format!("stunnel-{name}-{port}.conf"));
        let text = format!(
            "foreground = yes\npid =\ndebug = 0\n[l]\naccept = {on}:{port}\nconnect = {to}\nciphersuites = {CIPHER}\nsslVersionMin = TLSv1.3\n\
             CAfile = {dir}/ca.pem\nverifyChain = yes\nsessionResume = no\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n{more}"
        );
        fs::write(&file, text).ok()?;
        command.arg(file);
        Some(command)
    };
    let pair = |name: &str| format!("cert = {dir}/{name}.pem\nkey = {dir}/{name}.key\n");
    let far = end(
        "far",
        way.far.port(),
        way.upstream.to_string(),
        pair(SERVER),
    )?;
    let near = end(
        "near",
        way.near,
        way.far.to_string(),
        format!(
            "client = yes\nsni = {SERVER}\ncheckHost = {SERVER}\n{}",
            pair(CLIENT)
        ),
    )?;
    Some([far, near])
}

/// Go chooses the cipher of TLS 1.3 itself (AES-128-GCM where the machine has instructions for it).
fn ghostunnel_pair(way: &Way<'_>) -> Option<[Command; 2]> {
    let end = |role: &str, port: u16, to: String, name: &str| {
        let mut command = found("ghostunnel")?;
        let file = |name: String| way.dir.join(name);
        command
            .arg(role)
            .args(["--listen", &format!("{}:{port}", way.on)])
            .args(["--target", &to])
            .arg("--cert")
            .arg(file(format!("{name}.pem")))
            .arg("--key")
            .arg(file(format!("{name}.key")))
            .arg("--cacert")
            .arg(file("ca.pem".to_owned()))
            .args(["--quiet", "all"])
            .env("GOMAXPROCS", "2");
        Some(command)
    };
    let mut far = end("server", way.far.port(), way.upstream.to_string(), SERVER)?;
    far.args(["--allow-dns", CLIENT]);
    let mut near = end("client", way.near, way.far.to_string(), CLIENT)?;
    near.args(["--override-server-name", SERVER]);
    Some([far, near])
}
