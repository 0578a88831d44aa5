use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(10);
const BRIEF: Duration = Duration::from_millis(300);

fn mock() -> Mock {
    start(MockConfig {
        admin: Some("127.0.0.1:0".parse().unwrap()),
        ..MockConfig::default()
    })
    .unwrap()
}

async fn open(mock: &Mock, zone: &str) -> TcpStream {
    TcpStream::connect(mock.address(zone).unwrap())
        .await
        .unwrap()
}

/// One request on an open connection; the answer's head and body.
async fn ask(stream: &mut TcpStream, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length: ")
                        .map(str::to_owned)
                })
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return (head.to_owned(), body.to_owned());
            }
        }
        let mut buffer = [0; 4096];
        let read = timeout(LONG, stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "closed early after {text:?}");
        seen.extend_from_slice(&buffer[..read]);
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

async fn post(stream: &mut TcpStream, body: &str) -> (String, String) {
    let length = body.len();
    let head = format!("POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    ask(stream, &(head + body)).await
}

#[tokio::test]
async fn zones_share_a_port_and_answer_like_datomic() {
    let mock = mock();
    let ports: Vec<u16> = mock.zones().iter().map(|z| z.address().port()).collect();
    assert!(ports.iter().all(|port| *port == ports[0]));
    assert_eq!(mock.address("b").unwrap().ip().to_string(), "127.0.0.12");
    let lines = mock.paste_lines();
    assert_eq!(
        lines[2],
        format!("--endpoint '127.0.0.13:{}?zone=c'", ports[0])
    );

    let mut stream = open(&mock, "a").await;
    for _ in 0..2 {
        let (head, body) = ask(&mut stream, GET).await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.contains("Content-Type: text/plain\r\n"), "{head}");
        assert_eq!(body, "{:s3-auth-path \"mock-bucket/mock-system\"}");
    }
    let (head, body) = post(&mut stream, "hello").await;
    assert!(head.contains("application/transit+msgpack"), "{head}");
    assert_eq!(body, "hello");
    let counts = mock.counts("a");
    assert_eq!((counts.accepted, counts.requests, counts.posts), (1, 3, 1));
}

#[tokio::test]
async fn modes_that_speak_act_on_open_connections() {
    let mock = mock();
    let mut stream = open(&mock, "a").await;
    for (mode, status, text) in [
        (
            ZoneMode::Status503,
            "503",
            "Service Temporarily Unavailable",
        ),
        (ZoneMode::Status429, "429", "busy"),
        (ZoneMode::Html, "200", "<!doctype html>"),
        (ZoneMode::OtherIdentity, "200", "\"other-mock-bucket"),
        (ZoneMode::Rst, "200", "\"mock-bucket"),
        (ZoneMode::Fin, "200", "\"mock-bucket"),
        (ZoneMode::Ok, "200", "\"mock-bucket"),
    ] {
        mock.set_mode("a", mode).await.unwrap();
        let (head, body) = ask(&mut stream, GET).await;
        assert!(head.contains(status), "{mode}: {head}");
        assert!(body.contains(text), "{mode}: {body}");
    }
}

#[tokio::test]
async fn freeze_reads_and_answers_only_after_the_thaw() {
    let mock = mock();
    mock.set_mode("a", ZoneMode::Freeze).await.unwrap();
    let mut stream = open(&mock, "a").await;
    stream.write_all(GET.as_bytes()).await.unwrap();
    let mut buffer = [0; 64];
    assert!(timeout(BRIEF, stream.read(&mut buffer)).await.is_err());
    assert_eq!(mock.counts("a").requests, 1);
    mock.set_mode("a", ZoneMode::Ok).await.unwrap();
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
}

#[tokio::test]
async fn slow_delays_every_answer() {
    let config = MockConfig {
        behaviour: Behaviour {
            slow_by: Duration::from_millis(80),
            ..Behaviour::default()
        },
        ..MockConfig::default()
    };
    let mock = start(config).unwrap();
    mock.set_mode("c", ZoneMode::Slow).await.unwrap();
    let mut stream = open(&mock, "c").await;
    let began = tokio::time::Instant::now();
    ask(&mut stream, GET).await;
    assert!(began.elapsed() >= Duration::from_millis(80));
}

#[tokio::test]
async fn refuse_closes_the_door_and_serves_on() {
    let mock = mock();
    let mut stream = open(&mock, "a").await;
    ask(&mut stream, GET).await;
    mock.set_mode("a", ZoneMode::Refuse).await.unwrap();
    let refused = TcpStream::connect(mock.address("a").unwrap())
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(post(&mut stream, "still").await.1, "still");
    mock.set_mode("a", ZoneMode::Ok).await.unwrap();
    ask(&mut open(&mock, "a").await, GET).await;
    assert_eq!(mock.counts("a").accepted, 2);
}

#[tokio::test]
async fn silent_leaves_connects_unanswered_and_serves_on() {
    let mock = mock();
    let mut stream = open(&mock, "a").await;
    ask(&mut stream, GET).await;
    for from in [ZoneMode::Ok, ZoneMode::Refuse] {
        mock.set_mode("a", from).await.unwrap();
        mock.set_mode("a", ZoneMode::Silent).await.unwrap();
        let address = mock.address("a").unwrap();
        let tries = (0..5).map(|_| tokio::spawn(timeout(BRIEF, TcpStream::connect(address))));
        for attempt in tries.collect::<Vec<_>>() {
            assert!(attempt.await.unwrap().is_err(), "answered after {from}");
        }
        assert_eq!(post(&mut stream, "still").await.1, "still");
    }
    mock.set_mode("a", ZoneMode::Ok).await.unwrap();
    ask(&mut open(&mock, "a").await, GET).await;
    assert_eq!(
        mock.counts("a").accepted,
        2,
        "our own filling is not counted"
    );
}

#[tokio::test]
async fn silent_then_refuse_then_ok() {
    let mock = mock();
    for mode in [
        ZoneMode::Silent,
        ZoneMode::Refuse,
        ZoneMode::Silent,
        ZoneMode::Silent,
    ] {
        mock.set_mode("a", mode).await.unwrap();
    }
    mock.set_mode("a", ZoneMode::Ok).await.unwrap();
    ask(&mut open(&mock, "a").await, GET).await;
}

#[tokio::test]
async fn rst_and_fin_meet_new_connections() {
    let mock = mock();
    mock.set_mode("a", ZoneMode::Rst).await.unwrap();
    let mut buffer = [0; 8];
    // The reset may be faster than the connect's own end.
    let reset = match TcpStream::connect(mock.address("a").unwrap()).await {
        Ok(mut stream) => stream.read(&mut buffer).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    mock.set_mode("a", ZoneMode::Fin).await.unwrap();
    let mut stream = open(&mock, "a").await;
    stream.write_all(GET.as_bytes()).await.unwrap();
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
}

#[tokio::test]
async fn the_admin_port_switches_and_counts() {
    let mock = mock();
    let mut admin = TcpStream::connect(mock.admin().unwrap()).await.unwrap();
    let (head, body) = ask(
        &mut admin,
        "POST /zones/b?mode=refuse HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    .await;
    assert!(head.contains("200"), "{head}: {body}");
    assert_eq!(mock.zone("b").unwrap().mode(), ZoneMode::Refuse);
    let (_, body) = ask(&mut admin, "GET /zones HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let zones: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(zones[1]["mode"], "refuse");
    assert_eq!(zones[0]["accepted"], 0);
    assert_eq!(zones[0]["address"], mock.address("a").unwrap().to_string());
    for (request, status) in [
        ("POST /zones/x?mode=ok", "404"),
        ("POST /zones/a?mode=bad", "400"),
        ("POST /zones/a", "400"),
        ("POST /zones/a?latency=5", "400"),
        ("POST /zones/a?mode=ok&colour=red", "400"),
        (
            "POST /zones/a?latency=normal(5ms,1ms)&body=4KiB&idle-cut=60s&idle-cut-silent=off",
            "200",
        ),
        ("DELETE /zones", "405"),
        ("GET /", "404"),
    ] {
        let text = format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = ask(&mut admin, &text).await;
        assert!(head.contains(status), "{request}: {head} {body}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let mock = mock();
    let mut stream = open(&mock, "a").await;
    let post = "POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\none";
    stream
        .write_all(format!("{post}{GET}{post}").as_bytes())
        .await
        .unwrap();
    let mut seen = String::new();
    while seen.matches("one").count() < 2 {
        let mut buffer = [0; 4096];
        let read = timeout(LONG, stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    let places = ["one", "s3-auth-path"].map(|text| seen.find(text).unwrap());
    assert!(
        places[0] < places[1] && seen.rfind("one").unwrap() > places[1],
        "{seen}"
    );
}

#[tokio::test]
async fn a_large_post_is_echoed_while_it_comes() {
    let mock = mock();
    let stream = open(&mock, "a").await;
    let (mut read, mut write) = stream.into_split();
    let body: Vec<u8> = (0..10_000_000_u32).map(|at| (at % 251) as u8).collect();
    let head = format!(
        "POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    write.write_all(head.as_bytes()).await.unwrap();
    write.write_all(&body[..1_000_000]).await.unwrap();
    // The answer has begun before the request ended.
    let mut seen = vec![0; 200_000];
    timeout(LONG, read.read_exact(&mut seen))
        .await
        .unwrap()
        .unwrap();
    write.write_all(&body[1_000_000..]).await.unwrap();
    let start = seen
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let mut rest = vec![0; start + body.len() - seen.len()];
    timeout(LONG, read.read_exact(&mut rest))
        .await
        .unwrap()
        .unwrap();
    seen.extend(rest);
    assert!(seen[start..] == body, "the echo differs");
}

#[tokio::test]
async fn a_dead_zone_resets_open_connections_and_refuses_new_ones() {
    let mock = mock();
    let mut stream = open(&mock, "a").await;
    ask(&mut stream, GET).await;
    mock.set_mode("a", ZoneMode::Dead).await.unwrap();
    let error = timeout(LONG, stream.read(&mut [0; 8]))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let error = TcpStream::connect(mock.address("a").unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    mock.set_mode("a", ZoneMode::Ok).await.unwrap();
    ask(&mut open(&mock, "a").await, GET).await;
}

#[tokio::test]
async fn a_dead_silent_zone_answers_nothing_on_open_connections() {
    let mock = mock();
    let mut stream = open(&mock, "a").await;
    ask(&mut stream, GET).await;
    mock.set_mode("a", ZoneMode::DeadSilent).await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    let mut buffer = [0; 8];
    assert!(timeout(BRIEF, stream.read(&mut buffer)).await.is_err());
    let connect = TcpStream::connect(mock.address("a").unwrap());
    assert!(timeout(BRIEF, connect).await.is_err());
    mock.set_mode("a", ZoneMode::Ok).await.unwrap();
    assert!(
        timeout(LONG, stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap()
            > 0
    );
}

#[tokio::test]
async fn a_slow_body_comes_in_pieces_after_its_head() {
    let mock = mock();
    let zone = mock.zone("a").unwrap();
    let slow_by = Duration::from_millis(300);
    zone.set_behaviour(Behaviour {
        slow_by,
        ..Behaviour::default()
    });
    mock.set_mode("a", ZoneMode::SlowBody).await.unwrap();
    let mut stream = open(&mock, "a").await;
    let began = tokio::time::Instant::now();
    stream.write_all(GET.as_bytes()).await.unwrap();
    let mut buffer = [0; 4096];
    let read = timeout(LONG, stream.read(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    let head = String::from_utf8_lossy(&buffer[..read]).into_owned();
    assert!(
        head.starts_with("HTTP/1.1 200") && !head.contains("mock-system\"}"),
        "{head}"
    );
    let mut seen = head;
    while !seen.ends_with("0\r\n\r\n") {
        let read = timeout(LONG, stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        seen.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    // Only the lower bound is a promise; a busy machine may take longer.
    assert!(began.elapsed() >= slow_by, "{:?}", began.elapsed());
}

#[tokio::test]
async fn idle_connections_are_cut_like_load_balancers_do() {
    let mock = mock();
    let limit = Some(Duration::from_millis(100));
    let zone = mock.zone("a").unwrap();
    zone.set_behaviour(Behaviour {
        idle_cut: limit,
        ..Behaviour::default()
    });
    let mut stream = open(&mock, "a").await;
    ask(&mut stream, GET).await;
    let read = timeout(LONG, stream.read(&mut [0; 8])).await.unwrap();
    assert_eq!(read.unwrap(), 0, "a FIN, as an ALB sends it");
    zone.set_behaviour(Behaviour {
        idle_cut_silent: limit,
        ..Behaviour::default()
    });
    let mut stream = open(&mock, "a").await;
    ask(&mut stream, GET).await;
    assert!(
        timeout(BRIEF, stream.read(&mut [0; 8])).await.is_err(),
        "nothing is sent"
    );
    stream.write_all(GET.as_bytes()).await.unwrap();
    let error = timeout(LONG, stream.read(&mut [0; 8]))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        error.kind(),
        io::ErrorKind::ConnectionReset,
        "as an NLB answers"
    );
}

#[tokio::test]
async fn what_is_at_rest_can_be_forgotten_at_once() {
    let mock = mock();
    let zone = mock.zone("a").unwrap();
    zone.set_behaviour(Behaviour {
        latency: "300ms".parse().unwrap(),
        ..Behaviour::default()
    });
    let (mut rests, mut busy) = (open(&mock, "a").await, open(&mock, "a").await);
    ask(&mut rests, GET).await;
    busy.write_all(GET.as_bytes()).await.unwrap();
    while zone.counts().requests < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    zone.forget_idle();
    let answer = timeout(LONG, busy.read(&mut [0; 8])).await.unwrap();
    assert_eq!(answer.unwrap(), 8, "a request under way is answered");
    assert!(
        timeout(BRIEF, rests.read(&mut [0; 8])).await.is_err(),
        "nothing is sent"
    );
    // One that cannot be written to any more has been reset already.
    let _ = rests.write_all(GET.as_bytes()).await;
    let error = timeout(LONG, rests.read(&mut [0; 8])).await.unwrap();
    assert_eq!(
        error.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset,
        "what comes later is answered by a reset"
    );
    // The other has been answered; its next request fares no better.
    let _ = busy.write_all(GET.as_bytes()).await;
    let error = timeout(LONG, async {
        let mut rest = Vec::new();
        busy.read_to_end(&mut rest).await
    });
    let error = error.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let mut new = open(&mock, "a").await;
    ask(&mut new, GET).await;
    ask(&mut new, GET).await;
}

#[tokio::test]
async fn answers_have_the_size_asked_for() {
    let mock = mock();
    let zone = mock.zone("a").unwrap();
    zone.set_behaviour(Behaviour {
        body: Some(4096),
        ..Behaviour::default()
    });
    let mut stream = open(&mock, "a").await;
    let (_, body) = ask(&mut stream, GET).await;
    assert_eq!(body.len(), 4096);
    assert!(
        body.trim_end().ends_with("mock-system\"}"),
        "still the identity"
    );
    let (_, body) = post(&mut stream, "hello").await;
    assert_eq!(body.len(), 4096);
    let (_, body) = ask(&mut stream, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(body.len(), 4096);
}

#[tokio::test]
async fn dropping_the_handle_closes_everything() {
    let mock = mock();
    let address = mock.address("a").unwrap();
    let mut stream = open(&mock, "a").await;
    ask(&mut stream, GET).await;
    drop(mock);
    assert!(!matches!(stream.read(&mut [0; 8]).await, Ok(read) if read > 0));
    assert!(TcpStream::connect(address).await.is_err());
}

#[test]
fn wrong_configurations_are_named() {
    let zones = |names: &[&str]| MockConfig {
        zones: names.iter().map(|&name| name.to_owned()).collect(),
        ..MockConfig::default()
    };
    for names in [&[][..], &["a", "a"], &["a b"], &[""], &["a&b"]] {
        assert!(matches!(start(zones(names)), Err(StartError::Zones(_))));
    }
    let v6 = MockConfig {
        base_ip: "::1".parse().unwrap(),
        ..MockConfig::default()
    };
    assert!(matches!(start(v6), Err(StartError::BaseIp(..))));
    let away = MockConfig {
        base_ip: "192.0.2.1".parse().unwrap(),
        ..MockConfig::default()
    };
    assert!(matches!(start(away), Err(StartError::Bind(..))));
}
