//! `entryway load` as a process against small servers whose answers are known.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::child::{BINARY, Process, command, run, stoppable};
use crate::harness::eventually;

/// What a server of these tests does with each request.
#[derive(Clone, Copy, Debug)]
enum Answers {
    /// After this delay: 200 with a body of two bytes.
    Ok(Duration),
    Status(u16),
    /// Closes the connection instead.
    Close,
    /// Says nothing.
    Never,
    /// Promises more bytes than it sends, then closes.
    ShortBody,
    Garbage,
    /// Gives every byte back.
    Echo,
}

async fn server(answers: Answers) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answers));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, answers: Answers) {
    stream.set_nodelay(true).unwrap();
    let mut request = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => request.extend_from_slice(&buffer[..count]),
        }
        if matches!(answers, Answers::Echo) {
            if stream.write_all(&request).await.is_err() {
                return;
            }
            request.clear();
            continue;
        }
        let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        request.drain(..end + 4);
        let answer = match answers {
            Answers::Ok(delay) => {
                tokio::time::sleep(delay).await;
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned()
            }
            Answers::Status(status) => {
                format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n\r\n")
            }
            Answers::ShortBody => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok".to_owned(),
            Answers::Garbage => "\x15\x03\x01\x00\x02\x02\x28".to_owned(),
            Answers::Close => return,
            Answers::Never | Answers::Echo => continue,
        };
        if stream.write_all(answer.as_bytes()).await.is_err()
            || matches!(answers, Answers::ShortBody)
        {
            return;
        }
    }
}

async fn load(target: SocketAddr, flags: &[&str]) -> (i32, Value, String) {
    let target = target.to_string();
    let common = ["load", &target, "--output", "json", "--warmup", "0s"];
    let (code, out, err) = run(&[&common, flags].concat()).await;
    let json = out
        .lines()
        .next()
        .map_or(Value::Null, |line| serde_json::from_str(line).unwrap());
    (code, json, err)
}

fn count(json: &Value, field: &str) -> u64 {
    json["requests"][field].as_u64().unwrap()
}

#[tokio::test]
async fn an_open_loop_accounts_for_every_intended_request() {
    let server = server(Answers::Ok(Duration::from_millis(1))).await;
    for flags in [&["--rate", "200"][..], &["--rate", "200/s", "--poisson"]] {
        let (code, json, err) = load(server, &[flags, &["--duration", "1s"]].concat()).await;
        assert_eq!(code, 0, "{err}");
        assert_eq!(
            count(&json, "ok") + count(&json, "failed") + count(&json, "skipped"),
            200,
            "{json}"
        );
        assert_eq!(count(&json, "failed"), 0, "{json}");
        assert_eq!(
            (&json["mode"], json["rate"]["offered"].as_f64()),
            (&Value::from("open"), Some(200.0))
        );
        assert!(json["latency_ms"]["p50"].as_f64().unwrap() >= 1.0, "{json}");
        let timeline: u64 = json["timeline"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["ok"].as_u64().unwrap())
            .sum();
        assert_eq!(timeline, count(&json, "ok"));
    }
}

/// One connection stalls behind a server that answers after 400 ms: a closed loop sees 400 ms, an open loop whose target
/// serves one request at a time sees the queue.
#[tokio::test]
async fn a_stall_is_seen_by_the_intended_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        // One connection after the other: whoever waits in the queue of the listener waits for its turn.
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    });
    let (code, json, err) = load(
        address,
        &["--rate", "20", "--duration", "1s", "--keepalive", "false"],
    )
    .await;
    assert_eq!(code, 0, "{err}");
    // 20 requests of 100 ms each, one at a time, due within a second: the last waits at least 900 ms.
    let (corrected, plain) = (
        json["latency_ms"]["max"].as_f64().unwrap(),
        json["uncorrected_ms"]["max"].as_f64().unwrap(),
    );
    assert!(corrected >= 900.0, "{json}");
    assert!(corrected + 1.0 >= plain, "{json}");
}

#[tokio::test]
async fn a_closed_loop_measures_plain_latency() {
    let server = server(Answers::Ok(Duration::from_millis(5))).await;
    let (code, json, err) = load(server, &["--connections", "2", "--duration", "500ms"]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(json["mode"], "closed");
    assert!(json["rate"]["offered"].is_null());
    assert_eq!(json["latency_ms"], json["uncorrected_ms"]);
    assert!(json["latency_ms"]["min"].as_f64().unwrap() >= 5.0, "{json}");
    assert!(count(&json, "ok") > 10, "{json}");
}

#[tokio::test]
async fn failures_are_named_by_their_cause() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    for (server, cause, code) in [
        (server(Answers::Status(500)).await, "status 500", 0),
        (server(Answers::Close).await, "closed", 0),
        (server(Answers::ShortBody).await, "closed", 0),
        (
            server(Answers::Garbage).await,
            "bad answer: TLS instead of HTTP",
            0,
        ),
        (closed, "connect refused", 1),
    ] {
        let (got, json, err) = load(server, &["--rate", "50", "--duration", "400ms"]).await;
        assert_eq!(got, code, "{cause}: {err}");
        assert_eq!(
            (count(&json, "ok"), count(&json, "failed")),
            (0, 20),
            "{cause}: {json}"
        );
        assert_eq!(json["requests"]["by_error"][cause], 20, "{json}");
        // No answer has no latency.
        assert!(err.contains("20 failed, p99 -"), "{err}");
        assert!(json["latency_ms"]["p50"].is_null());
    }
}

#[tokio::test]
async fn a_target_that_hangs_up_at_once_answers_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let (code, json, err) = load(address, &["--rate", "50", "--duration", "400ms"]).await;
    assert_eq!(code, 0, "{err}");
    // Whether a request was on its way already decides between the two.
    let by_error = &json["requests"]["by_error"];
    let both = ["closed", "reset"].map(|cause| by_error[cause].as_u64().unwrap_or(0));
    assert_eq!((count(&json, "ok"), both.iter().sum()), (0, 20), "{json}");
}

#[tokio::test]
async fn a_rate_beyond_the_machine_is_said_with_the_one_reached() {
    let server = server(Answers::Ok(Duration::ZERO)).await;
    let flags = ["--rate", "1000000", "--duration", "300ms"];
    let (code, json, err) = load(server, &flags).await;
    assert_eq!(code, 0, "{err}");
    let counted = ["ok", "failed", "skipped"].map(|field| count(&json, field));
    assert_eq!(counted.iter().sum::<u64>(), 300_000, "{json}");
    let achieved = json["rate"]["achieved"].as_f64().unwrap();
    assert!(achieved < 900_000.0, "{json}");
    let said = json["warnings"].to_string();
    let reached = format!("1000000/s were asked for and {achieved:.0}/s reached");
    assert!(said.contains(&reached), "{json}");
}

#[tokio::test]
async fn a_generator_that_stood_still_says_so() {
    let server = server(Answers::Ok(Duration::ZERO)).await.to_string();
    let words = ["load", &server, "--rate", "100", "--duration", "3s"];
    let more = ["--warmup", "0s", "--output", "json"];
    let mut process = Process::spawn(stoppable(&[&words[..], &more].concat()));
    eventually("a second of progress", || process.err().contains("ok/s")).await;
    process.signal(Signal::STOP);
    // The pause is what is measured.
    tokio::time::sleep(Duration::from_millis(1300)).await;
    process.signal(Signal::CONT);
    let status = process.wait().await;
    assert_eq!(status.code(), Some(0), "{}", process.err());
    let json: Value = serde_json::from_str(process.out().lines().next().unwrap()).unwrap();
    let said = json["warnings"].to_string();
    assert!(said.contains("was stopped for 1."), "{json}");
    assert!(
        json["latency_ms"]["max"].as_f64().unwrap() >= 1000.0,
        "{json}"
    );
}

#[tokio::test]
async fn a_result_that_finds_no_room_fails_the_run_and_not_the_result() {
    let server = server(Answers::Ok(Duration::ZERO)).await;
    let folder = tempfile::tempdir().unwrap();
    for ending in ["json", "hlog", "html", "csv"] {
        let file = folder.path().join(format!("full.{ending}"));
        std::os::unix::fs::symlink("/dev/full", &file).unwrap();
        let file = file.to_str().unwrap();
        let flags = ["--rate", "100", "--duration", "100ms", "--out", file];
        let (code, json, err) = load(server, &flags).await;
        assert_eq!(code, 71, "{err}");
        assert_eq!(count(&json, "ok"), 10, "{json}");
        assert!(
            err.contains(file) && err.contains("only this file is missing"),
            "{err}"
        );
    }
}

#[tokio::test]
async fn too_few_descriptors_are_said_before_the_start() {
    let mut shell = tokio::process::Command::new("sh");
    shell.arg("-c").arg("ulimit -n 1024; exec \"$0\" \"$@\"");
    shell.arg(BINARY).args(["load", "127.0.0.1:1"]);
    let output = shell.args(["--connections", "10000"]).output().await;
    let output = output.unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(71), "{err}");
    assert!(err.contains("and 1024 are allowed"), "{err}");
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn echo_and_connect_speak_plain_tcp() {
    let echo = server(Answers::Echo).await;
    let (code, json, err) = load(
        echo,
        &[
            "--workload",
            "echo",
            "--body",
            "100KiB",
            "--rate",
            "20",
            "--duration",
            "500ms",
        ],
    )
    .await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(count(&json, "ok"), 10, "{json}");
    assert_eq!(
        json["bytes"]["received"].as_u64(),
        Some(10 * 100 * 1024),
        "{json}"
    );
    let silent = server(Answers::Never).await;
    let (code, json, err) = load(
        silent,
        &[
            "--workload",
            "connect",
            "--rate",
            "50",
            "--duration",
            "400ms",
        ],
    )
    .await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        (count(&json, "ok"), json["bytes"]["sent"].as_u64()),
        (20, Some(0)),
        "{json}"
    );
}

#[tokio::test]
async fn objectives_decide_the_exit_code() {
    let server = server(Answers::Ok(Duration::from_millis(20))).await;
    let flags = ["--rate", "50", "--duration", "400ms", "--slo"];
    let (code, json, _) = load(server, &[&flags[..], &["p50>=20ms,errors==0"]].concat()).await;
    assert_eq!(code, 0, "{json}");
    let (code, json, _) = load(server, &[&flags[..], &["p50<20ms,errors<0.1%"]].concat()).await;
    assert_eq!(code, 99, "{json}");
    assert_eq!(
        (&json["slo"][0]["ok"], &json["slo"][1]["ok"]),
        (&Value::from(false), &Value::from(true))
    );
}

#[tokio::test]
async fn results_are_written_in_every_form_and_merge() {
    let server = server(Answers::Ok(Duration::ZERO)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |ending: &str| {
        folder
            .path()
            .join(format!("run.{ending}"))
            .to_str()
            .unwrap()
            .to_owned()
    };
    let files: Vec<String> = ["json", "hlog", "html", "csv"].map(path).to_vec();
    let mut flags = vec!["--rate", "100", "--duration", "1s"];
    for file in &files {
        flags.extend(["--out", file]);
    }
    let (code, json, err) = load(server, &flags).await;
    assert_eq!(code, 0, "{err}");
    let written: Value =
        serde_json::from_str(&std::fs::read_to_string(&files[0]).unwrap()).unwrap();
    assert_eq!(written["requests"], json["requests"]);
    let page = std::fs::read_to_string(&files[2]).unwrap();
    assert!(
        page.contains("<svg") && !page.contains("<script") && !page.contains("src="),
        "{page}"
    );
    let rows = std::fs::read_to_string(&files[3]).unwrap();
    assert!(
        rows.starts_with("t_s,ok,failed,p50_ms,p99_ms\n1,"),
        "{rows}"
    );
    let (code, out, err) = run(&["load", "merge", &files[1], &files[1], "--output", "json"]).await;
    assert_eq!(code, 0, "{err}");
    let merged: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(count(&merged, "ok"), 2 * count(&json, "ok"));
}

#[tokio::test]
async fn two_targets_are_compared_in_turn() {
    let fast = server(Answers::Ok(Duration::ZERO)).await;
    let slow = server(Answers::Ok(Duration::from_millis(20))).await;
    let other = fast.to_string();
    let flags = ["--connections", "2", "--duration", "4s", "--versus", &other];
    let (code, json, err) = load(slow, &flags).await;
    assert_eq!(code, 0, "{err}");
    let [low, middle, high]: [f64; 3] =
        serde_json::from_value(json["versus"]["delta_ms"]["p50"].clone()).unwrap();
    assert!(low <= middle && middle <= high && low > 10.0, "{json}");
    assert!(
        json["versus"]["verdict"]
            .as_str()
            .unwrap()
            .contains("slower at p50"),
        "{json}"
    );
    assert_eq!(json["versus"]["rounds"], 10);
}

#[tokio::test]
async fn an_interrupted_run_reports_what_was_done() {
    let server = server(Answers::Ok(Duration::ZERO)).await;
    let target = server.to_string();
    let words = [
        "load",
        &target,
        "--rate",
        "100",
        "--duration",
        "60s",
        "--output",
        "json",
    ];
    let mut process = Process::spawn(command(&words));
    // The line of a finished second.
    eventually("a second of progress", || process.err().contains("ok/s")).await;
    process.signal(Signal::INT);
    let status = process.wait().await;
    assert_eq!(status.code(), Some(130), "{}", process.err());
    let json: Value = serde_json::from_str(process.out().lines().next().unwrap()).unwrap();
    assert!(count(&json, "ok") >= 80, "{json}");
    assert!(json["duration_s"].as_f64().unwrap() < 50.0, "{json}");
    assert!(
        json["warnings"][0]
            .as_str()
            .unwrap()
            .contains("ended early"),
        "{json}"
    );
}

#[tokio::test]
async fn what_cannot_be_understood_or_done_is_said_before_the_start() {
    for (words, code, says) in [
        (&["load", "https://localhost:1"][..], 2, "TLS"),
        (&["load", "ftp://localhost"], 2, "only http://"),
        (&["load", "--rate", "0"], 2, "is not a rate"),
        (
            &["load", "--rate", "5", "--connections", "5"],
            2,
            "cannot be used with",
        ),
        (&["load", "--out", "x.txt"], 2, ".hlog"),
        (
            &["load", "--out", "/no/such/x.json"],
            2,
            "folder does not exist",
        ),
        (&["load", "--slo", "p98<5ms"], 2, "p98"),
        (&["load", "--slo", "p99<5"], 2, "p99 is a time"),
        (&["load", "--duration", "soon"], 2, "soon"),
        (&["load", "--workload", "grpc"], 2, "grpc"),
        (
            &["load", "--workload", "echo", "--path", "/x"],
            2,
            "no meaning",
        ),
        (&["load", "--poisson"], 2, "--rate"),
        (&["load", "merge", "/no/such.hlog"], 1, "/no/such.hlog"),
        (
            &["load", "127.0.0.1:1", "--connections", "1000000"],
            71,
            "open files",
        ),
    ] {
        let (got, out, err) = run(words).await;
        assert_eq!(got, code, "{words:?}: {err}");
        assert!(err.contains(says), "{words:?}: {err}");
        assert_eq!(out, "", "{words:?}");
    }
}
