//! `entryway upgrade`: a new process takes over the sockets; nothing is refused, reset or lost, and an attempt that fails
//! leaves everything as it was.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::harness::child::{BINARY, Process, command, run};
use crate::harness::client::{get, ping};
use crate::harness::upstream::{Upstream, pattern};
use crate::harness::{LONG, events_in, eventually};

/// An instance with a control socket. Its later generations are not our children: whoever serves at the end is killed.
struct Service {
    process: Process,
    control: PathBuf,
    folder: tempfile::TempDir,
    admin: SocketAddr,
}

impl Service {
    async fn start(upstream: SocketAddr, behind: &[&str], env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("control.sock");
        let to = upstream.to_string();
        let mut words = vec!["run", "--endpoint", &to, "--listen", "127.0.0.1:0"];
        words.extend([
            "--admin",
            "127.0.0.1:0",
            "--control",
            control.to_str().unwrap(),
        ]);
        words.extend(["--probe", "off", "--log-format", "json", "--zone", "none"]);
        words.extend(behind);
        let mut command = command(&words);
        command.envs(env.iter().copied());
        let process = Process::spawn(command);
        let address_of = |name: &str| address_of(&process, name);
        let is_up = || address_of("datomic").is_some() && address_of("admin").is_some();
        eventually("it listens", is_up).await;
        let admin = address_of("admin").unwrap();
        Self {
            process,
            control,
            folder,
            admin,
        }
    }

    fn address(&self) -> SocketAddr {
        address_of(&self.process, "datomic").unwrap()
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&get(self.admin, "/v1/status").await).unwrap()
    }

    async fn upgrade(&self, more: &[&str]) -> (i32, String, String) {
        let mut words = vec!["upgrade", "--control", self.control.to_str().unwrap()];
        words.extend(more);
        run(&words).await
    }

    fn script(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }
}

/// Later generations are no children of ours, and what they have said of themselves may not be read yet: they are known by
/// the folder that their command lines name.
impl Drop for Service {
    fn drop(&mut self) {
        let folder = self.folder.path().as_os_str().as_bytes();
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = process
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let Some(pid) = pid.and_then(Pid::from_raw) else {
                continue;
            };
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            if line.windows(folder.len()).any(|part| part == folder) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        // Where there is no /proc.
        for event in events(&self.process, "upgrade") {
            if let Some(pid) = event["pid"].as_i64() {
                let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Beside the log, standard error has the line that says where a wrapper listens, and reports of new processes.
fn events(process: &Process, name: &str) -> Vec<Value> {
    let err = process.err();
    let log: Vec<&str> = err.lines().filter(|line| line.starts_with('{')).collect();
    events_in(&log.join("\n"), name)
}

fn address_of(process: &Process, listener: &str) -> Option<SocketAddr> {
    let up = events(process, "listener.up");
    let line = up.iter().find(|line| line["name"] == listener)?;
    line["address"].as_str()?.parse().ok()
}

fn lives(pid: u64) -> bool {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let is_zombie = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .is_ok_and(|stat| stat.contains(") Z"));
    test_kill_process(pid).is_ok() && !is_zombie
}

/// New connections, one after the other, each of which must be answered.
struct Stream {
    ends: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Stream {
    fn of_connections(address: SocketAddr) -> Self {
        let (ends, served) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let connect = |number: usize| {
            let (ends, served) = (Arc::clone(&ends), Arc::clone(&served));
            tokio::spawn(async move {
                for round in 0.. {
                    if ends.load(Relaxed) {
                        return;
                    }
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    ping(&mut stream, &pattern(number * 1000 + round, 64)).await;
                    served.fetch_add(1, Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        };
        let tasks = (0..4).map(connect).collect();
        Self {
            ends,
            served,
            tasks,
        }
    }

    async fn goes_on(&self) {
        let before = self.served.load(Relaxed);
        eventually("new connections are served", || {
            self.served.load(Relaxed) > before + 20
        })
        .await;
    }

    async fn end(self) -> u64 {
        self.ends.store(true, Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.served.load(Relaxed)
    }
}

/// A connection that carries bytes until told to end; returns how many came back as they were sent.
fn transfer(address: SocketAddr, ends: Arc<AtomicBool>) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let sends = tokio::spawn(async move {
            let mut sent = 0;
            while !ends.load(Relaxed) {
                to.write_all(&pattern(sent, 4096)).await.unwrap();
                sent += 4096;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            to.shutdown().await.unwrap();
            sent
        });
        let mut got = Vec::new();
        from.read_to_end(&mut got).await.unwrap();
        let sent = sends.await.unwrap();
        assert_eq!(got.len(), sent);
        assert!(got == pattern(0, sent), "wrong bytes");
        sent
    })
}

#[tokio::test]
async fn upgrades_in_a_row_lose_nothing() {
    let echo = Upstream::echo().await;
    let mut service = Service::start(echo.address, &[], &[]).await;
    let address = service.address();
    let first = service.status().await;
    assert_eq!(
        (&first["generation"], &first["parent_pid"]),
        (&1.into(), &Value::Null)
    );
    let connections = Stream::of_connections(address);
    let ends = Arc::new(AtomicBool::new(false));
    let mut transfers = Vec::new();
    let mut pids = vec![first["pid"].as_u64().unwrap()];
    for generation in 2..=4u64 {
        transfers.push(transfer(address, Arc::clone(&ends)));
        connections.goes_on().await;
        if generation == 3 {
            let newest = Pid::from_raw(i32::try_from(pids[1]).unwrap()).unwrap();
            kill_process(newest, Signal::USR2).unwrap();
            let began = tokio::time::Instant::now();
            while service.status().await["generation"] != 3 {
                assert!(began.elapsed() < LONG, "USR2 does not upgrade");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        } else {
            let (code, out, err) = service.upgrade(&["--output", "json"]).await;
            assert_eq!(code, 0, "{err}");
            let new: Value = serde_json::from_str(&out).unwrap();
            assert_eq!(new["generation"], generation);
        }
        let status = service.status().await;
        assert_eq!(status["generation"], generation);
        assert_eq!(status["parent_pid"], *pids.last().unwrap());
        pids.push(status["pid"].as_u64().unwrap());
        connections.goes_on().await;
    }
    assert!(pids.iter().all(|pid| lives(*pid)), "each has a transfer");
    let (code, _, err) = service.upgrade(&[]).await;
    assert_eq!(code, 75, "{err}");
    assert!(err.contains("3 old processes still drain"), "{err}");
    ends.store(true, Relaxed);
    for transfer in transfers {
        assert!(transfer.await.unwrap() > 0);
    }
    let gone = || pids[..3].iter().all(|pid| !lives(*pid));
    eventually("the old processes have drained", gone).await;
    assert_eq!(service.process.wait().await.code(), Some(0));
    assert_eq!(service.upgrade(&["--max-drain", "1s"]).await.0, 0);
    connections.goes_on().await;
    assert!(connections.end().await > 100);
    let control = service.control.to_str().unwrap();
    let (code, _, err) = run(&["shutdown", "--wait", "--control", control]).await;
    assert_eq!(code, 0, "{err}");
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nobody listens any more"
    );
    assert!(!service.control.exists());
}

#[tokio::test]
async fn an_upgrade_that_fails_leaves_the_old_process_as_it_was() {
    let echo = Upstream::echo().await;
    let service = Service::start(echo.address, &[], &[]).await;
    let connections = Stream::of_connections(service.address());
    let mut old = TcpStream::connect(service.address()).await.unwrap();
    let pid = service.status().await["pid"].clone();
    let crashes = service.script("crashes", "#!/bin/sh\nexit 1\n");
    let unknown_key = service.script("key.toml", "no_such_key = 1\n");
    // Whoever replaces a binary by a copy can forget this.
    let not_executable = service.folder.path().join("entryway");
    std::fs::write(&not_executable, "#!/bin/sh\n").unwrap();
    let not_executable = not_executable.display().to_string();
    // Its settings are read below the flags, so the addresses come from a process that passes other flags.
    let moves = service.script(
        "moves",
        &format!("#!/bin/sh\nshift 5\nexec {BINARY} run --endpoint 127.0.0.1:1 --listen 127.0.0.1:1 \"$@\"\n"),
    );
    for (more, expected, says) in [
        (["--binary", "/no/such/binary"], 75, "No such file"),
        (["--binary", &not_executable], 75, "Permission denied"),
        (["--binary", &crashes], 75, "exit status: 1"),
        (["--config", &unknown_key], 78, "settings"),
        (["--binary", &moves], 78, "settings"),
    ] {
        let (code, out, err) = service.upgrade(&more).await;
        assert_eq!(code, expected, "{more:?} {out} {err}");
        assert!(err.contains(says), "{more:?} {err}");
        let status = service.status().await;
        assert_eq!((&status["pid"], &status["generation"]), (&pid, &1.into()));
        ping(&mut old, b"still here").await;
        connections.goes_on().await;
    }
    // One that hangs is given up after 10 s; meanwhile a second one is refused at once.
    let hangs = service.script("hangs", "#!/bin/sh\nexec sleep 600\n");
    let control = service.control.to_str().unwrap().to_owned();
    let first =
        tokio::spawn(
            async move { run(&["upgrade", "--control", &control, "--binary", &hangs]).await },
        );
    let mut second = service.upgrade(&["--binary", "/no/such/binary"]).await;
    while !second.2.contains("under way") {
        second = service.upgrade(&["--binary", "/no/such/binary"]).await;
    }
    assert_eq!(second.0, 75);
    let (code, _, err) = first.await.unwrap();
    assert_eq!(code, 75);
    assert!(err.contains("10 s"), "{err}");
    ping(&mut old, b"still here").await;
    // After all that a good one succeeds, says what differs, and what was connected stays connected.
    let other = service.script("other.toml", "shutdown.max_delay = \"7s\"\n");
    let (code, out, err) = service.upgrade(&["--config", &other]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("differs: shutdown.max_delay"), "{out}");
    ping(&mut old, b"still here").await;
    assert!(connections.end().await > 100);
}

#[tokio::test]
async fn no_upgrade_during_a_drain() {
    let echo = Upstream::echo().await;
    let service = Service::start(echo.address, &[], &[]).await;
    let mut open = TcpStream::connect(service.address()).await.unwrap();
    ping(&mut open, b"x").await;
    open.write_all(b"y").await.unwrap();
    let control = service.control.to_str().unwrap();
    assert_eq!(run(&["shutdown", "--control", control]).await.0, 0);
    let (code, _, err) = service.upgrade(&[]).await;
    assert_eq!(code, 75, "{err}");
    assert!(err.contains("shutting down"), "{err}");
}

#[tokio::test]
async fn the_first_process_stays_the_parent_of_a_command() {
    let echo = Upstream::echo().await;
    let script = "trap 'exit 7' TERM; echo $$ > \"$0\"; while :; do sleep 0.05; done";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let behind = ["--", "sh", "-c", script, file.to_str().unwrap()];
    let mut service = Service::start(echo.address, &behind, &[]).await;
    let pid_of_command = || {
        std::fs::read_to_string(&file)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    // Without probes the wrapper waits for nothing.
    eventually("the command runs", || pid_of_command().is_some()).await;
    let command = pid_of_command().unwrap();
    let first = service.process.pid();
    for generation in 2..=3u64 {
        let (code, _, err) = service.upgrade(&[]).await;
        assert_eq!(code, 0, "{err}");
        assert_eq!(service.status().await["generation"], generation);
        let mut stream = TcpStream::connect(service.address()).await.unwrap();
        ping(&mut stream, b"through the newest").await;
    }
    let newest = service.status().await["pid"].as_u64().unwrap();
    assert_eq!(parent_of(command), u64::from(first));
    assert!(lives(u64::from(first)));
    // A shutdown of the newest ends the command first; its exit code is the first process's.
    let control = service.control.to_str().unwrap();
    assert_eq!(run(&["shutdown", "--control", control]).await.0, 0);
    let status = service.process.wait().await;
    assert_eq!(status.code(), Some(7), "{}", service.process.err());
    // A process closes its sockets, by which the first one knows, a moment before it is gone.
    eventually("both have ended", || !lives(command) && !lives(newest)).await;
}

fn parent_of(pid: u64) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_service_manager_learns_the_new_process() {
    let echo = Upstream::echo().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let env = [
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "2000000"),
    ];
    let service = Service::start(echo.address, &[], &env).await;
    assert_eq!(service.upgrade(&[]).await.0, 0);
    let pid = service.status().await["pid"].as_u64().unwrap();
    let mut messages: Vec<String> = Vec::new();
    let mut buffer = [0; 4096];
    let expected = format!("MAINPID={pid}\nREADY=1");
    let watchdog_goes_on = || {
        while let Ok(length) = manager.recv(&mut buffer) {
            messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        let at = messages.iter().position(|message| *message == expected);
        at.is_some_and(|at| {
            messages[at..]
                .iter()
                .filter(|one| *one == "WATCHDOG=1")
                .count()
                > 2
        })
    };
    eventually("MAINPID, and the watchdog goes on", watchdog_goes_on).await;
    assert!(
        !messages.iter().any(|message| message.contains("STOPPING")),
        "{messages:?}"
    );
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn the_new_process_has_the_port_of_the_faults_api() {
    use crate::harness::client::http;
    let echo = Upstream::echo().await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let faults = free.local_addr().unwrap();
    drop(free);
    let text = faults.to_string();
    let service = Service::start(echo.address, &["--faults", &text], &[]).await;
    let set = "/faults/drill?kind=sleep&ttl=60s";
    assert_eq!(http(faults, "POST", set).await.0, 200);
    let (code, out, err) = service.upgrade(&[]).await;
    assert_eq!(code, 0, "{out}{err}");
    let began = tokio::time::Instant::now();
    // Asked anew each time: the old process closes the port, and then the new one takes it.
    let list = loop {
        assert!(began.elapsed() < LONG, "{}", service.process.err());
        if TcpStream::connect(faults).await.is_ok() {
            let (status, list) = http(faults, "GET", "/faults").await;
            if status == 200 && list.contains("\"faults\":[]") {
                break list;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(list.contains("\"deadman_s\":null"), "{list}");
    let status = service.status().await;
    assert_eq!(
        (status["generation"].as_u64(), status["faults"].as_str()),
        (Some(2), Some(text.as_str()))
    );
    assert_eq!(http(faults, "POST", set).await.0, 200);
    let ready = get(service.admin, "/readyz?verbose").await;
    assert!(ready.contains("drill: sleep"), "{ready}");
}
