//! The service manager's protocols, with the test as the service manager: notify messages, passed sockets, restarts.

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::harness::child::{BINARY, Process};
use crate::harness::client::ping;
use crate::harness::upstream::Upstream;
use crate::harness::{Conf, LONG, eventually};

/// Receives what a service would tell its manager.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
    received: Vec<String>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            folder,
            received: Vec::new(),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("notify")
    }

    fn receive(&mut self) -> &[String] {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.received
                .push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        &self.received
    }

    fn count(&mut self, message: &str) -> usize {
        let is_it = |one: &&String| one.starts_with(message);
        self.receive().iter().filter(is_it).count()
    }
}

/// `entryway run` with these sockets as descriptors 3 and up. Python, because it can choose the numbers and tell its own
/// process id before it becomes entryway.
fn activated(
    config: &std::path::Path,
    sockets: &[&dyn AsFd],
    announced: &str,
    names: &str,
    own_pid: bool,
) -> Command {
    let mut numbers = Vec::new();
    for socket in sockets {
        // Copies that children inherit; they are above the numbers that are to be filled.
        let copy = rustix::io::fcntl_dupfd_cloexec(socket.as_fd(), 100).unwrap();
        rustix::io::fcntl_setfd(&copy, FdFlags::empty()).unwrap();
        numbers.push(copy.as_raw_fd().to_string());
        // Kept open until the child has it; a few descriptors of the test process.
        std::mem::forget(copy);
    }
    let pid = if own_pid { "os.getpid()" } else { "1" };
    let script = format!(
        "import os\n\
         for i, n in enumerate([{}]): os.dup2(n, 3 + i, True)\n\
         for n in [{}]: os.close(n)\n\
         os.environ.update(LISTEN_PID=str({pid}), LISTEN_FDS='{announced}', LISTEN_FDNAMES='{names}')\n\
         os.execv('{BINARY}', ['entryway', 'run', '--config', '{}'])",
        numbers.join(","),
        numbers.join(","),
        config.display(),
    );
    let mut command = Command::new("python3");
    command
        .arg("-c")
        .arg(script)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

fn config(conf: &Conf) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("entryway.toml");
    std::fs::write(&file, conf.text()).unwrap();
    (folder, file)
}

#[tokio::test]
async fn the_manager_is_told_of_start_reload_status_and_stop() {
    let echo = Upstream::echo().await;
    let (_folder, file) = config(&Conf::to(&[echo.address]));
    let mut manager = Manager::new();
    let mut command = Command::new(BINARY);
    command
        .args(["run", "--config"])
        .arg(&file)
        .env("NOTIFY_SOCKET", manager.path())
        .env("WATCHDOG_USEC", "200000")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let mut process = Process::spawn(command);
    eventually("ready", || manager.count("READY=1") == 1).await;
    eventually("the watchdog is fed", || manager.count("WATCHDOG=1") > 3).await;
    eventually("the status", || {
        manager.count("STATUS=active zone ") > 0
            && manager.count("STATUS=active zone none, 0 connections") < 2
    })
    .await;
    eventually("the listening line", || {
        process.out().contains("listening http://")
    })
    .await;
    let mut client = TcpStream::connect(process.address()).await.unwrap();
    ping(&mut client, b"one").await;
    eventually("the status follows", || {
        manager
            .receive()
            .iter()
            .any(|one| one.starts_with("STATUS=") && one.ends_with(", 1 connections"))
    })
    .await;

    process.signal(Signal::HUP);
    eventually("reloaded", || manager.count("READY=1") == 2).await;
    std::fs::write(&file, "no_such_key = 1\nanother = 2\n").unwrap();
    process.signal(Signal::HUP);
    eventually("a refused reload ends too", || {
        manager.count("READY=1") == 3
    })
    .await;
    assert_eq!(manager.count("RELOADING=1\nMONOTONIC_USEC="), 2);
    // Every error is a line of its own.
    for key in ["no_such_key", "another"] {
        eventually(key, || {
            process.events("config.reload").into_iter().any(|line| {
                line["level"] == "error" && line["error"].as_str().unwrap().contains(key)
            })
        })
        .await;
    }
    drop(client);
    assert_eq!(process.term().await, 0);
    assert_eq!(manager.count("STOPPING=1"), 1);
}

#[tokio::test]
async fn passed_sockets_replace_the_listeners_addresses() {
    let echo = Upstream::echo().await;
    let (_folder, file) = config(&Conf::to(&[echo.address]).listener("name = \"data\""));
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut process = Process::spawn(activated(&file, &[&socket], "1", "data", true));
    eventually("the listening line", || {
        process.out().contains("listening http://")
    })
    .await;
    assert_eq!(process.address(), address);
    ping(&mut TcpStream::connect(address).await.unwrap(), b"through").await;
    assert_eq!(process.term().await, 0);
}

#[tokio::test]
async fn sockets_that_cannot_be_used_are_named() {
    let echo = Upstream::echo().await;
    let (_folder, file) = config(&Conf::to(&[echo.address]));
    let folder = tempfile::tempdir().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let unix = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    let datagrams = UnixDatagram::bind(folder.path().join("datagrams")).unwrap();
    let plain = std::fs::File::open(&file).unwrap();
    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound
        .bind(
            &"127.0.0.1:0"
                .parse::<std::net::SocketAddr>()
                .unwrap()
                .into(),
        )
        .unwrap();
    let connected = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let is = |what| format!("descriptor 3 (`x`) from the socket unit is {what}; its ListenStream=");
    for (sockets, announced, names, wanted) in [
        (
            vec![&tcp as &dyn AsFd],
            "2",
            "a:b",
            "descriptor 4 (`b`) is not open, although LISTEN_FDS announces 2".to_owned(),
        ),
        (vec![&tcp], "two", "x", "LISTEN_FDS is `two`".to_owned()),
        (vec![&tcp], "-1", "x", "LISTEN_FDS is `-1`".to_owned()),
        (vec![&udp], "1", "x", is("no TCP socket")),
        (vec![&unix], "1", "x", is("no TCP socket")),
        (vec![&datagrams], "1", "x", is("no TCP socket")),
        (vec![&plain], "1", "x", is("no socket")),
        (vec![&bound], "1", "x", is("not listening")),
        (vec![&connected], "1", "x", is("not listening")),
        // One of two is enough to be of no use.
        (
            vec![&tcp, &unix],
            "2",
            "x:y",
            "descriptor 4 (`y`) from the socket unit is no TCP socket".to_owned(),
        ),
    ] {
        let mut process = Process::spawn(activated(&file, &sockets, announced, names, true));
        assert_eq!(process.wait().await.code(), Some(71), "{}", process.err());
        eventually(&wanted, || process.err().contains(&wanted)).await;
    }
    // Meant for another process, or none at all: ignored, the settings' own address is bound.
    for (announced, own_pid) in [("1", false), ("0", true)] {
        let mut process = Process::spawn(activated(&file, &[&udp], announced, "u", own_pid));
        eventually("the listening line", || {
            process.out().contains("listening http://")
        })
        .await;
        assert_eq!(process.term().await, 0);
    }
}

/// Whoever has made the socket has set it up as he liked.
#[tokio::test]
async fn a_passed_socket_may_have_any_options() {
    use crate::harness::client::{End, read_out};
    use tokio::io::AsyncWriteExt;
    let echo = Upstream::echo().await;
    let (_folder, file) = config(&Conf::to(&[echo.address]));
    let (_folder, remote) = config(&Conf::to(&[echo.address]).listener("allow_remote = true"));
    for case in ["ipv4", "ipv6", "both"] {
        let (domain, at) = match case {
            "ipv4" => (socket2::Domain::IPV4, "127.0.0.1:0"),
            "ipv6" => (socket2::Domain::IPV6, "[::1]:0"),
            _ => (socket2::Domain::IPV6, "[::]:0"),
        };
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        if case != "ipv4" {
            socket.set_only_v6(case == "ipv6").unwrap();
        }
        // Blocking, shared, without NODELAY, with keepalive, and every close is a reset.
        socket.set_reuse_port(true).unwrap();
        socket.set_keepalive(true).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        socket
            .bind(&at.parse::<std::net::SocketAddr>().unwrap().into())
            .unwrap();
        socket.listen(1).unwrap();
        let mut to = socket.local_addr().unwrap().as_socket().unwrap();
        if case == "both" {
            to.set_ip("127.0.0.1".parse().unwrap());
        }
        let file = if case == "both" { &remote } else { &file };
        let mut process = Process::spawn(activated(file, &[&socket], "1", "datomic", true));
        eventually("the listening line", || {
            process.out().contains("listening http://")
        })
        .await;
        let now_delays = socket.tcp_nodelay().unwrap();
        assert!(now_delays && socket.nonblocking().unwrap(), "{case}");
        for _ in 0..3 {
            let mut client = TcpStream::connect(to).await.unwrap();
            ping(&mut client, b"through").await;
            client.shutdown().await.unwrap();
            assert_eq!(
                read_out(&mut client).await,
                (Vec::new(), End::Fin),
                "{case}"
            );
        }
        let closes = || process.events("conn.close");
        eventually("their lines", || closes().len() == 3).await;
        assert_eq!(closes()[0]["client.address"], to.ip().to_string(), "{case}");
        assert_eq!(process.term().await, 0);
    }
}

/// `ListenStream=8182` means every address of the machine: as little by accident as with a flag.
#[tokio::test]
async fn a_passed_socket_of_other_machines_has_to_be_allowed() {
    let echo = Upstream::echo().await;
    let (_folder, file) = config(&Conf::to(&[echo.address]));
    let [every, v4] = ["[::]:0", "0.0.0.0:0"].map(|at| TcpListener::bind(at).unwrap());
    for socket in [every, v4] {
        let address = socket.local_addr().unwrap();
        let mut process = Process::spawn(activated(&file, &[&socket], "1", "datomic", true));
        assert_eq!(process.wait().await.code(), Some(78), "{}", process.err());
        let said = format!("listen address {address} is not on loopback: needs allow_remote");
        eventually(&said, || process.err().contains(&said)).await;
        let what_to_do = "ListenStream=127.0.0.1:8182), or --allow-remote if";
        eventually("what to do", || process.err().contains(what_to_do)).await;
    }
}

/// A manager that has gone, or never was: nothing is said to it, and nothing waits for it.
#[tokio::test]
async fn a_manager_that_is_gone_changes_nothing() {
    let echo = Upstream::echo().await;
    let (_folder, file) = config(&Conf::to(&[echo.address]));
    let manager = Manager::new();
    let path = manager.path();
    for gone in [true, false] {
        let mut command = Command::new(BINARY);
        command
            .args(["run", "--config"])
            .arg(&file)
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "100000")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let mut process = Process::spawn(command);
        eventually("the listening line", || {
            process.out().contains("listening http://")
        })
        .await;
        if gone {
            eventually("it reports", || !first(&manager).is_empty()).await;
            std::fs::remove_file(&path).unwrap();
        }
        process.signal(Signal::HUP);
        eventually("a reload ends", || {
            !process.events("config.reload").is_empty()
        })
        .await;
        ping(
            &mut TcpStream::connect(process.address()).await.unwrap(),
            b"through",
        )
        .await;
        assert_eq!(process.term().await, 0);
    }
}

fn first(manager: &Manager) -> String {
    let mut buffer = [0; 4096];
    let length = manager.socket.recv(&mut buffer).unwrap_or(0);
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// The manager keeps the sockets: a restart refuses and resets nobody.
#[tokio::test]
async fn nobody_is_refused_during_a_restart() {
    let echo = Upstream::echo().await;
    let (_folder, file) = config(&Conf::to(&[echo.address]));
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (stop, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU32::new(0)),
    );
    let (stopped, count) = (Arc::clone(&stop), Arc::clone(&served));
    let clients = tokio::spawn(async move {
        while !stopped.load(Relaxed) {
            let one = async {
                // Each fails the test where it is refused or reset.
                let mut client = TcpStream::connect(address).await.unwrap();
                ping(&mut client, b"hello").await;
            };
            tokio::time::timeout(LONG, one).await.unwrap();
            count.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    for _ in 0..3 {
        let mut process = Process::spawn(activated(&file, &[&socket], "1", "", true));
        let before = served.load(Relaxed);
        eventually("clients are served", || served.load(Relaxed) > before + 20).await;
        assert_eq!(process.term().await, 0);
    }
    let last = Process::spawn(activated(&file, &[&socket], "1", "", true));
    let before = served.load(Relaxed);
    eventually("clients are served", || served.load(Relaxed) > before + 20).await;
    stop.store(true, Relaxed);
    clients.await.unwrap();
    drop(last);
}

/// Closing a socket that the service manager holds would leave clients waiting in its queue, and could not be undone.
#[cfg(feature = "faults")]
#[tokio::test]
async fn a_disabled_listener_of_the_manager_resets_and_comes_back() {
    use crate::harness::client::{End, http_raw, read_out};
    let echo = Upstream::echo().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let conf = Conf::to(&[echo.address]).rest(r#"faults.bind = "127.0.0.1:0""#);
    let (_folder, file) = config(&conf);
    let process = Process::spawn(activated(&file, &[&socket], "1", "datomic", true));
    let faults = || {
        let up = process.events("listener.up");
        let line = up.iter().find(|line| line["name"] == "faults")?;
        line["address"]
            .as_str()?
            .parse::<std::net::SocketAddr>()
            .ok()
    };
    eventually("it takes faults", || faults().is_some()).await;
    let set = async |enabled: bool| {
        let body = format!("{{\"enabled\":{enabled}}}");
        let request = format!(
            "POST /proxies/datomic HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, answer) = http_raw(faults().unwrap(), request.as_bytes()).await;
        assert_eq!(status, 200, "{answer}");
    };
    let mut open = TcpStream::connect(address).await.unwrap();
    ping(&mut open, b"before").await;
    for _ in 0..2 {
        set(false).await;
        assert_eq!(read_out(&mut open).await.1, End::Fin);
        match TcpStream::connect(address).await {
            Ok(mut refused) => assert_eq!(read_out(&mut refused).await.1, End::Reset),
            // The reset may come before the connect is noticed.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        set(true).await;
        open = TcpStream::connect(address).await.unwrap();
        ping(&mut open, b"after").await;
    }
}
