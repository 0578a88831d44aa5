//! The proxies that are compared: how each is started in front of the upstream, and what it costs in CPU and memory.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use crate::cpu::cpu_of;
use crate::load::upstreams;

/// A running proxy (or the direct way).
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// Where to connect.
    pub(crate) address: SocketAddr,
    /// None for the direct way; of a pair, the one that is connected to comes first.
    children: Vec<Child>,
}

/// One process of a peer, with its children.
#[derive(Debug)]
pub(crate) struct PeerSide(Vec<u32>);

/// The one whose access log is on, and kept.
const LOGGED: &str = "entryway access log";

/// How to start one kind of proxy; `None` where the machine does not have it.
type Start = fn(&Path, u16, SocketAddr) -> Option<Command>;

const KINDS: &[(&str, Start)] = &[
    ("entryway", |dir, port, up| {
        entryway(dir, port, up, None, "system", "")
    }),
    // Another build, given by path, to compare two in one run.
    ("entryway other", |dir, port, up| {
        let other = std::env::var_os("PEER_ENTRYWAY")?;
        entryway(dir, port, up, Some(other), "system", "")
    }),
    ("entryway loopback rule", |dir, port, up| {
        entryway(dir, port, up, None, "auto", "")
    }),
    // The API open and no toxic set.
    ("entryway faults", |dir, port, up| {
        let open = "[faults]\nbind = \"127.0.0.1:0\"\n";
        entryway(dir, port, up, None, "system", open)
    }),
    ("entryway warm", |dir, port, up| {
        let spares = "[upstream.warm]\nspares = 32\n[log]\nconnections = \"off\"\n";
        entryway(dir, port, up, None, "system", spares)
    }),
    (LOGGED, |dir, port, up| {
        entryway(dir, port, up, None, "system", "[log]\nformat = \"json\"\n")
    }),
    ("haproxy", |dir, port, up| {
        haproxy(dir, port, up, "default", "maxconn 9000", "")
    }),
    ("haproxy 256k", |dir, port, up| {
        haproxy(
            dir,
            port,
            up,
            "256k",
            "maxconn 9000\n tune.bufsize 262144",
            "",
        )
    }),
    ("haproxy splice", |dir, port, up| {
        haproxy(
            dir,
            port,
            up,
            "splice",
            "maxconn 4000\n tune.pipesize 1048576",
            "option splice-request\n option splice-response",
        )
    }),
    ("nginx", |dir, port, up| nginx(dir, port, up, "16k")),
    ("nginx 256k", |dir, port, up| nginx(dir, port, up, "256k")),
    ("envoy", envoy),
    ("go splice", go_splice),
    ("socat", |_, port, up| {
        let mut command = found("socat")?;
        command
            .arg(format!(
                "TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=1024"
            ))
            .arg(format!("TCP:{up}"));
        Some(command)
    }),
];

pub(crate) fn found(program: &str) -> Option<Command> {
    // PEER_HAPROXY=/path/to/haproxy names one that is not on the path.
    if let Some(path) = std::env::var_os(format!("PEER_{}", program.to_uppercase())) {
        return Some(Command::new(path));
    }
    let paths = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&paths).chain([PathBuf::from("/usr/sbin")]);
    places
        .map(|place| place.join(program))
        .find(|file| file.is_file())
        .map(Command::new)
}

/// Ours: plain, with the lines `more` in its settings file; its own build unless another is named.
pub(crate) fn entryway(
    dir: &Path,
    port: u16,
    up: impl Display,
    binary: Option<OsString>,
    congestion: &str,
    more: &str,
) -> Option<Command> {
    let file = dir.join(format!("entryway-{port}.toml"));
    let quiet = if more.contains("[log]") {
        ""
    } else {
        "[log]\nconnections = \"off\"\n"
    };
    let text =
        format!("[runtime]\nworkers = 2\nloopback_congestion = \"{congestion}\"\n{quiet}{more}");
    fs::write(&file, text).ok()?;
    let mut command = Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_entryway").into()));
    command.args([
        "run",
        "--probe",
        "off",
        "--admin",
        "off",
        "--control",
        "off",
    ]);
    command.arg("--listen").arg(format!("127.0.0.1:{port}"));
    command.arg("--endpoint").arg(up.to_string());
    command.arg("--config").arg(file);
    Some(command)
}

fn haproxy(
    dir: &Path,
    port: u16,
    up: SocketAddr,
    name: &str,
    tune: &str,
    option: &str,
) -> Option<Command> {
    let mut command = found("haproxy")?;
    let file = dir.join(format!("haproxy-{name}.cfg"));
    let text = format!(
        "global\n nbthread 2\n {tune}\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n {option}\n\
         listen l\n bind 127.0.0.1:{port}\n server u {up}\n"
    );
    fs::write(&file, text).ok()?;
    command.arg("-db").arg("-f").arg(file);
    Some(command)
}

fn nginx(dir: &Path, port: u16, up: SocketAddr, buffer: &str) -> Option<Command> {
    let mut command = found("nginx")?;
    let dir = dir.join(format!("nginx-{buffer}"));
    fs::create_dir_all(&dir).ok()?;
    let module = nginx_stream_module();
    let text = format!(
        "{module}worker_processes 2;\nworker_rlimit_nofile 20000;\ndaemon off;\npid {0}/pid;\nerror_log {0}/error;\nevents {{ worker_connections 19000; }}\n\
         stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass {up}; proxy_buffer_size {buffer}; proxy_timeout 1h; tcp_nodelay on; }} }}\n",
        dir.display()
    );
    fs::write(dir.join("conf"), text).ok()?;
    command.arg("-c").arg(dir.join("conf")).arg("-p").arg(&dir);
    Some(command)
}

/// The line that loads nginx's module of streams, where that is a file of its own.
pub(crate) fn nginx_stream_module() -> String {
    [
        "/usr/lib/nginx/modules/ngx_stream_module.so",
        "/usr/lib64/nginx/modules/ngx_stream_module.so",
    ]
    .into_iter()
    .find(|file| Path::new(file).exists())
    .map_or(String::new(), |file| format!("load_module {file};\n"))
}

fn envoy(dir: &Path, port: u16, up: SocketAddr) -> Option<Command> {
    let mut command = found("envoy")?;
    let file = dir.join("envoy.yaml");
    let text = format!(
        "static_resources:\n  listeners:\n  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}\n    filter_chains:\n    - filters:\n      - name: tcp\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n          stat_prefix: tcp\n          cluster: up\n  clusters:\n  - name: up\n    connect_timeout: 5s\n    type: STATIC\n    load_assignment: {{cluster_name: up, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]}}\n",
        up.ip(),
        up.port()
    );
    fs::write(&file, text).ok()?;
    command
        .arg("-c")
        .arg(file)
        .args(["--concurrency", "2", "-l", "off"]);
    Some(command)
}

fn go_splice(dir: &Path, port: u16, up: SocketAddr) -> Option<Command> {
    let binary = dir.join("go-splice");
    if !binary.exists() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/splice.go");
        let built = found("go")?
            .arg("build")
            .arg("-o")
            .arg(&binary)
            .arg(source)
            .env("GO111MODULE", "off")
            .status()
            .ok()?;
        if !built.success() {
            return None;
        }
    }
    let mut command = Command::new(binary);
    command
        .arg(format!("127.0.0.1:{port}"))
        .arg(up.to_string())
        .env("GOMAXPROCS", "2");
    Some(command)
}

/// Starts everything that can be started and whose name passes the filter; `direct` comes first. Each has a port of
/// the upstream to itself: connections that are over keep theirs for a while, and what one leaves behind must not
/// stand in the way of the next. `at`: where the upstream is dialled.
pub(crate) fn start_all(dir: &Path, at: Ipv4Addr, wanted: impl Fn(&str) -> bool) -> Vec<Peer> {
    let mut upstreams = upstreams(KINDS.len() + 1, at)
        .expect("upstreams")
        .into_iter();
    let mut peers = vec![Peer::direct(upstreams.next().expect("one more than kinds"))];
    let wanted = KINDS.iter().filter(|(name, _)| wanted(name));
    for ((name, start), up) in wanted.zip(upstreams) {
        let port = free_port();
        let Some(mut command) = start(dir, port, up) else {
            eprintln!("{name}: not on this machine");
            continue;
        };
        let log = fs::File::create(dir.join("log")).expect("a writable folder");
        let log = (*name == LOGGED).then_some(log);
        match launch(name, &mut command, port, log) {
            Ok(peer) => peers.push(peer),
            Err(error) => eprintln!("{name}: {error}"),
        }
    }
    peers
}

/// Starts a proxy and waits until it answers on this port of loopback.
pub(crate) fn launch(
    name: &'static str,
    command: &mut Command,
    port: u16,
    log: Option<fs::File>,
) -> io::Result<Peer> {
    let peer = Peer {
        name,
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        children: vec![
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log.map_or(Stdio::null(), Stdio::from))
                .spawn()?,
        ],
    };
    peer.wait_until_it_answers()?;
    Ok(peer)
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

// === impl Peer ===

impl Peer {
    /// No proxy.
    pub(crate) fn direct(upstream: SocketAddr) -> Self {
        Self {
            name: "direct",
            address: upstream,
            children: Vec::new(),
        }
    }

    /// A pair of this process and the one behind it.
    pub(crate) fn with(mut self, mut behind: Peer) -> Self {
        self.children.append(&mut behind.children);
        self
    }

    fn wait_until_it_answers(&self) -> io::Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match TcpStream::connect(self.address) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    /// User plus system time so far, in seconds; 0 for the direct way.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let sides = self.sides().into_iter();
        sides.flat_map(|side| side.0).filter_map(cpu_of).sum()
    }

    /// Its processes, one for each end; none for the direct way.
    pub(crate) fn sides(&self) -> Vec<PeerSide> {
        self.children
            .iter()
            .map(|child| PeerSide(with_children(child.id())))
            .collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for side in self.sides() {
            for pid in side.0.into_iter().rev() {
                let _ = Command::new("kill")
                    .arg(pid.to_string())
                    .stderr(Stdio::null())
                    .status();
            }
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

// === impl PeerSide ===

impl PeerSide {
    /// User memory (anonymous, resident) in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let anonymous = |pid: &u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = text.lines().find(|line| line.starts_with("RssAnon"))?;
            let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kib * 1024)
        };
        self.0.iter().filter_map(anonymous).sum()
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        let count = |pid: &u32| Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count());
        self.0.iter().filter_map(count).sum()
    }
}

/// A process and its children.
fn with_children(own: u32) -> Vec<u32> {
    let mut all = vec![own];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if parent == Some(own) {
            all.push(pid);
        }
    }
    all
}
