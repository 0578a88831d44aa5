//! The parts without a network: answer heads, chunked bodies, arrival times, histogram logs.

use std::time::{Duration, SystemTime};

use super::connection::{Bytes, Connection, Failure};
use super::engine::RequestOutcome;
use super::pacer::Arrivals;
use super::recorder::{Recorder, Timing, Window};
use super::workload::{BodyEnd, Chunks, read_head};
use super::{LoadPlan, LoadTarget, Pace, REQUEST_TIMEOUT, Ramp, Report, Workload, hlog};
use crate::clock;

#[test]
fn heads_say_how_their_body_ends() {
    let cases: [(&str, bool, u16, BodyEnd, bool); 9] = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            false,
            200,
            BodyEnd::Length(5),
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nConnection: close\r\n\r\n",
            false,
            200,
            BodyEnd::Length(5),
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
            200,
            BodyEnd::Chunked,
            false,
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", false, 200, BodyEnd::Close, true),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
            false,
            200,
            BodyEnd::Length(1),
            true,
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n",
            false,
            200,
            BodyEnd::Length(1),
            false,
        ),
        (
            "HTTP/1.1 204 No Content\r\n\r\n",
            false,
            204,
            BodyEnd::Length(0),
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            true,
            200,
            BodyEnd::Length(0),
            false,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\n",
            false,
            100,
            BodyEnd::Length(0),
            false,
        ),
    ];
    for (text, head_only, status, body, closes) in cases {
        for cut in 0..text.len() {
            assert_eq!(
                read_head(&text.as_bytes()[..cut], head_only),
                Ok(None),
                "{text:?} cut at {cut}"
            );
        }
        let head = read_head(text.as_bytes(), head_only).unwrap().unwrap();
        assert_eq!(
            (head.status, head.len, head.body, head.closes),
            (status, text.len(), body, closes),
            "{text:?}"
        );
    }
    for (bytes, why) in [
        (&b"\x15\x03\x01\x00\x02\x02\x28"[..], "TLS"),
        (b"SSH-2.0-OpenSSH_9\r\n", "not HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "two different",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "unreadable",
        ),
    ] {
        let error = read_head(bytes, false).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn chunked_bodies_end_where_they_say_at_any_cut() {
    let body = b"5\r\nhello\r\n1;name=value\r\n!\r\n0\r\nTrailer: x\r\n\r\nHTTP/1.1";
    let end = body.len() - "HTTP/1.1".len();
    for cut in 0..end {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.take(&body[..cut]), Ok(None), "cut at {cut}");
        let rest = chunks.take(&body[cut..]).unwrap().unwrap();
        assert_eq!(cut + rest.end, end, "cut at {cut}");
    }
    for bad in [&b"x\r\n"[..], b"\r\n", b"1\r\nab", b"fffffffffffffffff\r\n"] {
        assert!(Chunks::default().take(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn arrivals_are_complete_in_order_and_within_their_stage() {
    let length = Duration::from_secs(2);
    for poisson in [false, true] {
        let mut all: Vec<Duration> = (0..3)
            .flat_map(|index| Arrivals::new(500.0, length, poisson, index, 3))
            .collect();
        assert_eq!(all.len(), 1000);
        assert!(all.iter().all(|at| *at < length));
        for index in 0..3 {
            assert!(Arrivals::new(500.0, length, poisson, index, 3).is_sorted());
        }
        all.sort();
        let early = all.iter().filter(|at| **at < length / 2).count();
        assert!(
            early.abs_diff(500) < if poisson { 100 } else { 2 },
            "{early} in the first half"
        );
        if !poisson {
            let gap = all[501].saturating_sub(all[500]);
            assert!(
                gap.abs_diff(Duration::from_millis(2)) < Duration::from_micros(1),
                "{gap:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_never_answers_is_given_up_after_its_time() {
    // Connections to it stay in its queue.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let target = LoadTarget {
        authority: address.to_string(),
        addresses: vec![address],
        path: "/".to_owned(),
    };
    let workload = Workload::http(&target.authority, "/", None, 0, true);
    let mut connection = Connection::open(&target).await.unwrap();
    let began = tokio::time::Instant::now();
    let outcome = connection.exchange(&workload, &mut Bytes::default()).await;
    assert_eq!(outcome, Err(Failure::Timeout));
    assert!(began.elapsed() >= REQUEST_TIMEOUT && !connection.is_reusable());
}

fn plan(ramp: Option<Ramp>, pace: Pace) -> LoadPlan {
    LoadPlan {
        target: LoadTarget {
            authority: "h:1".to_owned(),
            addresses: Vec::new(),
            path: "/".to_owned(),
        },
        workload: Workload::Connect,
        pace,
        ramp,
        duration: Duration::from_secs(1),
        warmup: Duration::ZERO,
        threads: 1,
        repeats_lost: false,
    }
}

/// A generator that is too slow sends late; what was due in the measured time has not been sent in it.
#[test]
fn a_rate_that_is_not_kept_up_with_is_not_reached() {
    let pace = Pace::Rate {
        per_second: 10.0,
        poisson: false,
    };
    for (late, achieved) in [(Duration::ZERO, 10.0), (Duration::from_secs(4), 2.041)] {
        let start = clock::now();
        let window = Window {
            start,
            length: Duration::from_secs(1),
        };
        let (finished, _intervals) = std::sync::mpsc::channel();
        let mut recorder = Recorder::new(window, finished, None);
        for index in 0..10 {
            let intended = start + Duration::from_millis(100) * index;
            let sent = intended + late;
            let timing = Timing {
                intended,
                sent,
                done: sent,
            };
            recorder.record(timing, Bytes::default(), Ok(()));
        }
        let outcome = RequestOutcome {
            results: recorder.results,
            timeline: Vec::new(),
            elapsed: window.length,
            interrupted: false,
            stopped: Duration::ZERO,
        };
        let summary = Report::new(&plan(None, pace), outcome).summary;
        assert_eq!(summary.rate.achieved, achieved);
        let said = format!("10/s were asked for and {achieved:.0}/s reached");
        let is_said = summary.warnings.iter().any(|one| one.contains(&said));
        assert_eq!(is_said, !late.is_zero(), "{:?}", summary.warnings);
    }
}

#[test]
fn ramps_climb_by_their_step_and_end_at_their_last_rate() {
    let ramp: Ramp = "100..350/100".parse().unwrap();
    let climbing = plan(
        Some(ramp),
        Pace::Rate {
            per_second: 0.0,
            poisson: false,
        },
    );
    let rates: Vec<f64> = climbing
        .stages()
        .into_iter()
        .map(|(rate, _)| rate)
        .collect();
    assert_eq!(rates, [100.0, 200.0, 300.0, 350.0]);
    assert_eq!(climbing.measured(), Duration::from_secs(4));
    assert!(!plan(None, Pace::Connections(3)).is_open());
    for bad in [
        "",
        "1..2",
        "2..1/1",
        "0..1/1",
        "1..9/0",
        "a..b/c",
        "1..1000000/0.001",
    ] {
        assert!(bad.parse::<Ramp>().is_err(), "{bad}");
    }
}

#[test]
fn histogram_logs_add_up_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let mut report = super::Report::empty_for_test();
    for micros in [100u64, 250, 250, 9_000] {
        report.corrected.record(micros * 1000).unwrap();
    }
    report.summary.requests.ok = 4;
    report.summary.requests.failed = 1;
    report.summary.requests.skipped = 2;
    report
        .summary
        .requests
        .by_error
        .insert("timeout".to_owned(), 1);
    report.summary.duration_s = 2.0;
    let one = folder.path().join("a.hlog");
    std::fs::write(
        &one,
        hlog::write(&report, SystemTime::UNIX_EPOCH + Duration::from_secs(99)).unwrap(),
    )
    .unwrap();
    let merged = hlog::merge(&[&one, &one, &one]).unwrap();
    let requests = &merged.summary.requests;
    assert_eq!((requests.ok, requests.failed, requests.skipped), (12, 3, 6));
    assert_eq!(requests.by_error["timeout"], 3);
    assert_eq!(merged.corrected.len(), 12);
    let p50 = merged.summary.latency_ms.p50.unwrap();
    assert!((p50 - 0.25).abs() < 0.001, "{p50}");
    let bad = folder.path().join("bad.hlog");
    std::fs::write(&bad, "0.0,1.0,1.0,notbase64!\n").unwrap();
    assert!(
        hlog::merge(&[&bad])
            .unwrap_err()
            .to_string()
            .contains("bad.hlog")
    );
    assert!(
        hlog::merge(&[folder.path()])
            .unwrap_err()
            .to_string()
            .contains("regular file")
    );
}
