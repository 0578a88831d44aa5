//! `run -- CMD…`: the child's environment, its exit code, its signals.

use std::time::Duration;

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::harness::child::{Process, command, run};
use crate::harness::eventually;
use crate::harness::namespace::{as_process_one, children, first_child, in_a_namespace, prepared};
use crate::harness::upstream::{Upstream, datomic, hung, refused};

/// What a parent may have done to the signal mask.
const TERM_BLOCKED: &str = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])";

/// `run` in front of an endpoint, without probes, on free ports, with this shell script as the child.
fn words<'a>(endpoint: &'a str, script: &'a str) -> Vec<&'a str> {
    let target = [
        "run",
        "--endpoint",
        endpoint,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--control",
        "off",
    ];
    [
        &target[..],
        &["--zone", "none", "--probe", "off", "--", "sh", "-c", script],
    ]
    .concat()
}

#[tokio::test]
async fn the_childs_code_is_ours() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
    ] {
        let (got, _, err) = run(&words(&endpoint, script)).await;
        assert_eq!(got, code, "{script}: {err}");
    }
}

#[tokio::test]
async fn the_child_is_told_where_to_go() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let script = "echo url=$ENTRYWAY_URL port=$ENTRYWAY_PORT admin=$ENTRYWAY_ADMIN";
    let (code, out, err) = run(&words(&endpoint, script)).await;
    assert_eq!(code, 0, "{err}");
    let port = out
        .split("port=")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    assert!(
        out.contains(&format!("url=http://127.0.0.1:{port}")),
        "{out}"
    );
    assert!(out.contains("admin=127.0.0.1:"), "{out}");
    // Standard output is the child's; the line to paste goes to standard error.
    assert!(
        !out.contains("listening") && err.contains("listening http://"),
        "{out}\n{err}"
    );
}

/// The same words for a shell that can trap every signal: a script's background job (`cargo test &`) ignores QUIT, one
/// under `nohup` HUP, and what a shell finds ignored it cannot trap.
fn with_traps(mut words: Vec<&str>) -> Vec<&str> {
    let shell = words.len() - 3;
    words.splice(shell..shell, ["env", "--default-signal=HUP,QUIT"]);
    words
}

#[tokio::test]
async fn signals_go_to_the_child() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let script = "trap 'echo got term; exit 5' TERM; trap 'echo got hup' HUP; echo up; while :; do sleep 0.05; done";
    let mut process = Process::spawn(command(&with_traps(words(&endpoint, script))));
    eventually("the child is up", || process.out().contains("up")).await;
    process.signal(Signal::HUP);
    eventually("HUP", || process.out().contains("got hup")).await;
    assert_eq!(process.term().await, 5);
    eventually("TERM", || process.out().contains("got term")).await;
}

#[tokio::test]
async fn a_command_that_does_not_exist() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let mut words = words(&endpoint, "");
    words.truncate(words.len() - 3);
    words.push("no-such-program-here");
    // It is looked up first: nobody waits for the health of a proxy that has nothing to serve.
    let nowhere = refused().await.to_string();
    let mut probed = words.clone();
    for (flag, value) in [("--endpoint", nowhere.as_str()), ("--probe", "datomic")] {
        let place = probed.iter().position(|word| *word == flag).unwrap();
        probed[place + 1] = value;
    }
    for words in [words, probed] {
        let began = Instant::now();
        let (code, _, err) = run(&words).await;
        assert_eq!(code, 71, "{err}");
        assert!(err.contains("no-such-program-here"), "{err}");
        assert!(!err.contains("listening"), "{err}");
        // It would wait ten seconds for health; the machine may be busy.
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

/// Whatever the moment, TERM ends the wrapper: before the command is started it is never started, afterwards it gets the
/// signal, the proxy drains when it has ended, and its code is passed on. Nobody is left behind.
#[tokio::test]
async fn term_at_fifty_moments() {
    // One zone answers at once, the other never: from healthy to all probed it takes a second.
    let (well, silent) = (datomic("b/one").await, hung());
    let targets = [
        format!("{}?zone=a", well.address),
        format!("{}?zone=b", silent.address),
    ];
    let script =
        "trap 'echo told $(date +%s%3N); exit 5' TERM; echo up; while :; do sleep 0.02; done";
    let mut all = JoinSet::new();
    // Ten at a time; the moments are spread over the start, and their exact place does not matter.
    for batch in 0..5 {
        for place in 0..10 {
            let targets = targets.clone();
            let moment = 24 * (10 * (place % 5) + 2 * batch + place / 5);
            all.spawn(async move {
                let mut words = words(&targets[0], script);
                let probe = words.iter().position(|word| *word == "--probe").unwrap();
                words[probe + 1] = "datomic";
                words.splice(1..1, ["--endpoint", &targets[1]]);
                let mut process = Process::spawn(command(&words));
                sleep(Duration::from_millis(moment)).await;
                let installed = process.err().contains("\"event\":\"start\"");
                let code = process.term().await;
                // Without handlers yet, in its first milliseconds, the signal itself ends it (no code).
                let said = format!("{moment}: {code}\n{}\n{}", process.out(), process.err());
                assert!(
                    code == 5 || code == 143 || (!installed && code == -1),
                    "{said}"
                );
                assert_eq!(process.out().contains("up\n"), code == 5, "{said}");
                if code == -1 {
                    return;
                }
                let logged = |name: &str| -> Value {
                    let err = process.err();
                    let lines = err.lines().filter(|line| line.starts_with('{'));
                    let mut lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
                    let line = lines.find(|line| line["event"] == name);
                    line.unwrap_or_else(|| panic!("no {name}: {said}"))
                };
                logged("stop");
                let told = process.out();
                if let Some(told) = told.split("told ").nth(1) {
                    let told: i64 = told.trim().parse().unwrap();
                    let drained = logged("drain.start")["timestamp"].to_string();
                    let drained: jiff::Timestamp = drained.trim_matches('"').parse().unwrap();
                    assert!(told <= drained.as_millisecond(), "{said}");
                }
            });
        }
        while let Some(one) = all.join_next().await {
            one.unwrap();
        }
    }
}

#[tokio::test]
async fn a_requested_shutdown_ends_the_command_first() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("c.sock").display().to_string();
    let script = "trap 'echo got term; exit 6' TERM; echo up; while :; do sleep 0.02; done";
    let mut words = words(&endpoint, script);
    let off = words.iter().position(|word| *word == "off").unwrap();
    words[off] = &control;
    let mut process = Process::spawn(command(&words));
    eventually("the command is up", || process.out().contains("up")).await;
    let (code, _, err) = run(&["shutdown", "--wait", "--control", &control]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(process.wait().await.code(), Some(6), "{}", process.err());
    assert!(process.out().contains("got term"), "{}", process.out());
}

#[tokio::test]
async fn the_command_inherits_what_we_were_given() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit
        .maximum
        .unwrap_or(1 << 20)
        .min(1024)
        .saturating_sub(24);
    let words = words(
        &endpoint,
        "echo limit=$(ulimit -Sn); trap; kill -USR1 $$; echo alive",
    );
    // USR1 ignored by the parent stays ignored, SIGCHLD ignored does not cost the command's code, TERM blocked or not.
    let before = format!(
        "{TERM_BLOCKED}\n\
         signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n\
         signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, ({wanted}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))"
    );
    let Some(mut command) = prepared(&before, &words) else {
        return;
    };
    let output = command.output().await.unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        out.contains(&format!("limit={wanted}")) && out.contains("alive"),
        "{out}"
    );
}

/// A signal that our parent had blocked ends us all the same.
#[tokio::test]
async fn a_signal_blocked_by_the_parent_ends_us_all_the_same() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let wrapped = words(&endpoint, "");
    // Without `-- sh -c SCRIPT`.
    let plain = &wrapped[..wrapped.len() - 4];
    let Some(command) = prepared(TERM_BLOCKED, plain) else {
        return;
    };
    let mut process = Process::spawn(command);
    eventually("it listens", || process.out().contains("listening")).await;
    assert_eq!(process.term().await, 0, "{}", process.err());
}

#[tokio::test]
#[cfg_attr(
    any(not(target_os = "linux"), entryway_portable),
    ignore = "only Linux ends a process with its parent"
)]
async fn a_killed_wrapper_takes_the_command_along() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let mut process = Process::spawn(command(&words(&endpoint, "echo pid=$$; exec sleep 600")));
    eventually("the command is up", || process.out().contains("pid=")).await;
    let pid: i32 = process
        .out()
        .trim()
        .rsplit('=')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    process.signal(Signal::KILL);
    let _ = process.wait().await;
    let pid = Pid::from_raw(pid).unwrap();
    eventually("the command ends", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z"))
    })
    .await;
    let _ = kill_process(pid, Signal::KILL);
}

#[tokio::test]
async fn quit_and_the_user_signals_are_the_commands() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let script = "trap 'echo q' QUIT; trap 'echo u1' USR1; trap 'echo u2; exit 0' USR2; echo up; while :; do sleep 0.02; done";
    let mut process = Process::spawn(command(&with_traps(words(&endpoint, script))));
    eventually("the command is up", || process.out().contains("up")).await;
    for (signal, word) in [
        (Signal::QUIT, "q\n"),
        (Signal::USR1, "u1\n"),
        (Signal::USR2, "u2\n"),
    ] {
        process.signal(signal);
        eventually(word, || process.out().contains(word)).await;
    }
    assert_eq!(process.wait().await.code(), Some(0));
}

#[tokio::test]
async fn no_command_behind_the_dashes_is_a_mistake() {
    let (code, _, err) = run(&["run", "--endpoint", "127.0.0.1:9", "--"]).await;
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("no command after --"), "{err}");
}

/// A pipe nobody reads: the command is started, and health is answered, all the same.
#[tokio::test]
async fn a_full_pipe_stalls_neither_the_command_nor_the_proxy() {
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("started");
    let (_reader, writer) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    while std::io::Write::write(&mut &writer, &[b'x'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
    let script = format!("touch {}; exit 3", mark.display());
    let mut command = command(&words(&endpoint, &script));
    let mut child = command
        .stdout(std::process::Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    eventually("the command is started", || mark.exists()).await;
    let status = tokio::time::timeout(crate::harness::LONG, child.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status.code(), Some(3));
}

/// As the first process of a container nobody else collects orphans, beside a command and without one.
#[tokio::test]
#[cfg_attr(
    any(not(target_os = "linux"), entryway_portable),
    ignore = "only Linux hands orphans to process 1 of a container"
)]
async fn orphans_are_reaped_by_process_one() {
    const ORPHANS: &str = "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 2 &); done";
    let echo = Upstream::echo().await;
    let endpoint = echo.address.to_string();
    let script = format!("echo up; read go; {ORPHANS}; exec sleep 600");
    let wrapped = words(&endpoint, &script);
    // Without `-- sh -c SCRIPT`.
    let plain = &wrapped[..wrapped.len() - 4];
    for words in [&wrapped[..], plain] {
        let Some(mut command) = as_process_one(words).await else {
            return;
        };
        let (go, wait) = std::io::pipe()
            .map(|(reader, writer)| (writer, reader))
            .unwrap();
        command.stdin(wait);
        let mut process = Process::spawn(command);
        let is_wrapper = words.len() == wrapped.len();
        let word = if is_wrapper { "up" } else { "listening" };
        eventually(word, || process.out().contains(word)).await;
        let one = first_child(process.pid()).unwrap();
        let before = children(one).len();
        if is_wrapper {
            std::io::Write::write_all(&mut &go, b"go\n").unwrap();
        } else {
            let (target, enter) = (one.to_string(), ["-U", "--preserve-credentials", "-p"]);
            let mut inside = tokio::process::Command::new("nsenter");
            inside.args(["-t", &target]).args(enter);
            assert!(
                inside
                    .args(["sh", "-c", ORPHANS])
                    .status()
                    .await
                    .unwrap()
                    .success()
            );
        }
        eventually("the orphans are its children", || {
            children(one).len() >= before + 10
        })
        .await;
        eventually("they are reaped", || children(one).len() == before).await;
        kill_process(Pid::from_raw(one.cast_signed()).unwrap(), Signal::TERM).unwrap();
        let code = process.wait().await.code();
        assert_eq!(
            code,
            Some(if is_wrapper { 143 } else { 0 }),
            "{}",
            process.err()
        );
    }
}

/// What a terminal's interrupt key does where standard input is not that terminal: the terminal signals the whole
/// foreground group, and the wrapper passes nothing on. Prints the signals that the command has seen after the key, and
/// after INT to the wrapper alone, which off Linux cannot be told from the key.
const INTERRUPT: &str = r#"
exec python3 - "$0" <<'PYTHON'
import os, pty, signal, sys, time
COMMAND = """
import os, signal
seen = os.open('seen', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
signal.signal(signal.SIGINT, lambda *_: os.write(seen, b'i'))
open('ready', 'w').close()
while True: signal.pause()
"""
process, terminal = pty.fork()
if process == 0:
    null = os.open('/dev/null', os.O_RDONLY)
    os.dup2(null, 0)
    os.execv(sys.argv[1], ['entryway', 'run', '-e', '127.0.0.1:9', '--listen', '127.0.0.1:0', '--admin', 'off',
        '--control', 'off', '--zone', 'none', '--probe', 'off', '--', sys.executable, '-c', COMMAND])
def until(holds):
    end = time.monotonic() + 20
    while not holds():
        if time.monotonic() > end: sys.exit('too late')
        time.sleep(0.01)
def seen():
    return os.path.getsize('seen')
until(lambda: os.path.exists('ready'))
os.write(terminal, b'\x03')
until(lambda: seen() >= 1)
# A second one would have been passed on by now.
time.sleep(0.5)
after_key = seen()
os.kill(process, signal.SIGINT)
if TOLD: until(lambda: seen() > after_key)
print(after_key, seen())
os.kill(process, signal.SIGKILL)
PYTHON
"#;

#[tokio::test]
async fn the_interrupt_key_reaches_the_command_once() {
    let told = cfg!(all(target_os = "linux", not(entryway_portable)));
    let script = INTERRUPT.replace("TOLD", if told { "True" } else { "False" });
    let Some(out) = in_a_namespace(&script).await else {
        return;
    };
    assert_eq!(out.trim(), if told { "1 2" } else { "1 1" });
}
