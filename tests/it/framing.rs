//! HTTP framing in the whole program: early closing between answers and never inside one, phases, counts, and the
//! shapes of answers that servers give.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use entryway::app::StopRequest;
use entryway::types::EndpointName;
use entryway::upstream::input::{Input, Intent};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Channel, Empty, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::harness::client::{End, get, read_exactly, read_out};
use crate::harness::upstream::{Upstream, http_answer, pattern};
use crate::harness::{BULK_LANE, Conf, Entryway, PIPES, Stage, eventually, no_leaks, stays};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

fn framed(at: SocketAddr) -> Conf {
    Conf::to(&[at]).upstream(r#"framing = "http""#)
}

/// The phase of the only connection, as `/v1/connections` shows it.
async fn phase(entryway: &Entryway) -> Value {
    let text = get(entryway.admin.unwrap(), "/v1/connections").await;
    let all: Value = serde_json::from_str(&text).unwrap();
    all["connections"][0]["phase"].clone()
}

async fn phase_is(entryway: &Entryway, wanted: &str) {
    let start = Instant::now();
    loop {
        let phase = phase(entryway).await;
        if phase == wanted {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{phase}, not {wanted}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads one answer of known or chunked length; `None` where the connection ends before its first byte.
async fn read_answer(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut answer = Vec::new();
    loop {
        if let Some(end) = answer_end(&answer)
            && answer.len() >= end
        {
            assert_eq!(answer.len(), end, "bytes behind the answer");
            return Some(answer);
        }
        match client.read_buf(&mut answer).await {
            Ok(0) if answer.is_empty() => return None,
            Ok(got) => assert!(got > 0, "cut: {:?}", String::from_utf8_lossy(&answer)),
            Err(error) => panic!("{error} behind {} bytes", answer.len()),
        }
    }
}

fn answer_end(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    if text.contains("chunked") {
        let last = answer.windows(5).position(|five| five == b"0\r\n\r\n")?;
        return Some(last + 5);
    }
    let length = text.split("content-length:").nth(1)?;
    let length: usize = length.split("\r\n").next()?.trim().parse().ok()?;
    Some(head + length)
}

#[tokio::test]
async fn phases_are_shown_and_answers_counted() {
    let stage = Stage::new().await;
    let entryway = Entryway::start(&framed(stage.address())).await;
    let (mut client, mut server) = stage.pair(entryway.address()).await;
    let from = client.local_addr().unwrap();
    phase_is(&entryway, "idle").await;
    client
        .write_all(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n")
        .await
        .unwrap();
    phase_is(&entryway, "request").await;
    client.write_all(b"ab").await.unwrap();
    phase_is(&entryway, "waiting").await;
    server
        .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        .await
        .unwrap();
    phase_is(&entryway, "answer").await;
    server.write_all(b"0\r\n\r\n").await.unwrap();
    phase_is(&entryway, "idle").await;
    let labels = [("upstream", "default"), ("endpoint", "e0"), ("zone", "")];
    assert_eq!(entryway.metric("entryway_answers_total", &labels), 1.0);
    let metrics = get(entryway.admin.unwrap(), "/metrics").await;
    let count = "entryway_answer_first_byte_seconds_count{upstream=\"default\",endpoint=\"e0\",zone=\"\"} 1";
    assert!(metrics.contains(count), "{metrics}");

    client.write_all(GET).await.unwrap();
    phase_is(&entryway, "waiting").await;
    drop(client);
    let line = entryway.close_of(from).await;
    assert_eq!(line["http.requests"], 2, "{line}");
    assert_eq!(line["http.phase"], "waiting", "{line}");
    drop(server);
    no_leaks(entryway).await;
}

#[tokio::test]
async fn without_framing_there_is_no_phase() {
    let stage = Stage::new().await;
    let entryway = Entryway::start(&Conf::to(&[stage.address()])).await;
    let (client, server) = stage.pair(entryway.address()).await;
    eventually("there", || entryway.sum("entryway_connections") == 1.0).await;
    assert_eq!(phase(&entryway).await, Value::Null);
    let from = client.local_addr().unwrap();
    drop(client);
    drop(server);
    assert_eq!(entryway.close_of(from).await.get("http.requests"), None);
}

#[tokio::test]
async fn what_is_not_http_is_unknown_and_silence_decides() {
    let echo = Upstream::echo().await;
    let conf = framed(echo.address).rest(r#"shutdown.max_delay = "5s""#);
    let entryway = Entryway::start(&conf).await;
    let mut client = entryway.connect().await;
    client.write_all(b"\x16\x03\x01").await.unwrap();
    read_exactly(&mut client, 3).await;
    phase_is(&entryway, "unknown").await;
    let began = Instant::now();
    entryway.handles.stop(StopRequest::Signal);
    assert_eq!(read_out(&mut client).await, (Vec::new(), End::Fin));
    let took = began.elapsed();
    drop(client);
    // Not before the last fifth, where a second of quiet is enough.
    assert!(took >= Duration::from_millis(3900), "{took:?}");
    let (ended, _, past) = entryway.end().await;
    assert_eq!(ended.cut, 0);
    past.check();
}

/// A chunked answer that pauses, an upload that pauses: a shutdown waits for them, and closes right behind them.
#[tokio::test]
async fn a_shutdown_closes_behind_the_answer_and_never_inside_it() {
    let stage = Stage::new().await;
    let entryway = Entryway::start(&framed(stage.address())).await;
    let (mut answered, mut answering) = stage.pair(entryway.address()).await;
    answered.write_all(GET).await.unwrap();
    read_exactly(&mut answering, GET.len()).await;
    let half = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    answering.write_all(half).await.unwrap();
    read_exactly(&mut answered, half.len()).await;

    let (mut sending, mut receiving) = stage.pair(entryway.address()).await;
    let head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    sending.write_all(head).await.unwrap();
    read_exactly(&mut receiving, head.len()).await;
    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
    receiving.write_all(go_on).await.unwrap();
    read_exactly(&mut sending, go_on.len()).await;

    entryway.handles.stop(StopRequest::Signal);
    stays("both wait", Duration::from_secs(2), || {
        entryway.handles.registry.len() == 2
    })
    .await;
    let began = Instant::now();
    answering.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(
        read_out(&mut answered).await,
        (b"0\r\n\r\n".to_vec(), End::Fin)
    );
    println!("closed {:?} behind the last byte", began.elapsed());
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    drop(answered);
    sending.write_all(b"abc").await.unwrap();
    read_exactly(&mut receiving, 3).await;
    receiving.write_all(&http_answer("done")).await.unwrap();
    assert_eq!(
        read_out(&mut sending).await,
        (http_answer("done"), End::Fin)
    );
    drop(sending);
    let (ended, _, past) = entryway.end().await;
    assert_eq!(ended.cut, 0);
    for line in past.events("conn.close") {
        assert_eq!(line["conn.reason"], "drain_idle", "{line}");
        assert_eq!(line.get("http.phase"), None, "{line}");
    }
    past.check();
}

#[tokio::test]
async fn an_answer_that_is_cut_at_the_deadline_says_in_which_phase() {
    let stage = Stage::new().await;
    let conf = framed(stage.address()).rest(r#"shutdown.max_delay = "500ms""#);
    let entryway = Entryway::start(&conf).await;
    let (mut client, mut server) = stage.pair(entryway.address()).await;
    client.write_all(GET).await.unwrap();
    read_exactly(&mut server, GET.len()).await;
    server
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        .await
        .unwrap();
    phase_is(&entryway, "answer").await;
    let (ended, _, past) = entryway.drain().await;
    assert_eq!(ended.cut, 1);
    let lines = past.events("conn.close");
    assert_eq!(lines[0]["conn.reason"], "drain_deadline");
    assert_eq!(lines[0]["http.phase"], "answer");
    past.check();
}

/// Clients that never pause are closed between two answers: no answer is cut, and each request that is not answered is
/// counted.
#[tokio::test]
async fn busy_keep_alive_connections_are_closed_between_answers() {
    let upstream = Upstream::start("127.0.0.1:0", |mut stream, _| async move {
        let mut request = [0; 4096];
        while stream.read(&mut request).await.is_ok_and(|got| got > 0) {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..10))).await;
            if stream
                .write_all(&http_answer(&"x".repeat(300)))
                .await
                .is_err()
            {
                break;
            }
        }
    })
    .await;
    let entryway = Entryway::start(&framed(upstream.address)).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (mut client, asked) = (entryway.connect().await, Arc::clone(&asked));
        clients.spawn(async move {
            loop {
                if client.write_all(GET).await.is_err() {
                    return 1;
                }
                match read_answer(&mut client).await {
                    Some(_) => asked.fetch_add(1, Relaxed),
                    None => return 1,
                };
                // As clients with a pool do: a connection that has ended is not used again.
                if matches!(client.try_read(&mut [0; 1]), Ok(0)) {
                    return 0;
                }
            }
        });
    }
    eventually("under load", || asked.load(Relaxed) > 400).await;
    let (ended, took, past) = entryway.drain().await;
    assert_eq!(ended.cut, 0);
    println!("drain of 40 busy connections: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let unanswered: u32 = clients.join_all().await.into_iter().sum();
    let dropped = past.handles.metrics.sum("entryway_requests_dropped_total");
    println!("{unanswered} requests met the close");
    assert_eq!(f64::from(unanswered), dropped);
    let lines = past.events("conn.close");
    let said = lines.iter().filter(|line| line["http.dropped"] == true);
    assert_eq!(said.count() as f64, dropped);
    past.check();
}

#[tokio::test]
async fn an_endpoints_drain_moves_busy_connections_between_answers() {
    let serve = |mut stream: TcpStream, read: crate::harness::upstream::Counter| async move {
        let mut request = [0; 4096];
        while stream.read(&mut request).await.is_ok_and(|got| got > 0) {
            read.fetch_add(1, Relaxed);
            if stream.write_all(&http_answer("ok")).await.is_err() {
                break;
            }
        }
    };
    let near = Upstream::start("127.0.0.1:0", serve).await;
    let far = Upstream::start("127.0.0.1:0", serve).await;
    let endpoints = [
        format!("{}?zone=a&name=near", near.address),
        format!("{}?zone=b&name=far", far.address),
    ];
    let conf = Conf::to(&endpoints)
        .upstream(r#"framing = "http""#)
        .upstream(r#"zone = "a""#);
    let entryway = Entryway::start(&conf).await;
    let mut client = entryway.connect().await;
    let mut moved = false;
    let began = Instant::now();
    for round in 0.. {
        assert!(began.elapsed() < Duration::from_secs(10), "never moved");
        if round == 20 {
            entryway.handles.tell_all(&Input::Intent {
                endpoint: EndpointName::new("near"),
                intent: Intent::Drain,
            });
        }
        // One request at a time, without a pause; a GET that met the close is sent once more.
        let sent = client.write_all(GET).await;
        if sent.is_ok() && read_answer(&mut client).await.is_some() {
            if far.bytes() > 0 {
                break;
            }
            continue;
        }
        moved = true;
        client = entryway.connect().await;
    }
    assert!(moved);
    assert!(near.bytes() >= 20);
    drop(client);
    let lines = entryway.logged("conn.close").await;
    assert_eq!(lines[0]["conn.reason"], "drain_idle", "{lines:?}");
    no_leaks(entryway).await;
}

/// Large bodies of known length go through the pipe up to their end, and framing goes on behind them.
#[tokio::test]
async fn bodies_are_spliced_up_to_their_end() {
    const SIZE: usize = 8 << 20;
    let stage = Stage::new().await;
    let entryway = Entryway::start(&framed(stage.address())).await;
    let (mut client, mut server) = stage.pair(entryway.address()).await;
    let body = Arc::new(pattern(0, SIZE));
    for round in 0..3 {
        let request = format!("POST /{round} HTTP/1.1\r\nContent-Length: {SIZE}\r\n\r\n");
        let (sent, received) = tokio::join!(
            async {
                client.write_all(request.as_bytes()).await?;
                client.write_all(&body).await
            },
            read_exactly(&mut server, request.len() + SIZE)
        );
        sent.unwrap();
        assert!(received[request.len()..] == body[..]);
        phase_is(&entryway, "waiting").await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
        let (sent, received) = tokio::join!(
            async {
                server.write_all(head.as_bytes()).await?;
                server.write_all(&body).await
            },
            read_exactly(&mut client, head.len() + SIZE)
        );
        sent.unwrap();
        assert!(received[head.len()..] == body[..]);
        phase_is(&entryway, "idle").await;
        client.write_all(GET).await.unwrap();
        read_exactly(&mut server, GET.len()).await;
        server.write_all(&http_answer("small")).await.unwrap();
        read_exactly(&mut client, http_answer("small").len()).await;
        phase_is(&entryway, "idle").await;
    }
    let spliced = entryway.sum("entryway_bytes_spliced_total");
    if PIPES {
        assert!(spliced > (3 * SIZE) as f64, "{spliced}");
    } else {
        assert_eq!(spliced, 0.0);
    }
    let from = client.local_addr().unwrap();
    drop(client);
    drop(server);
    let line = entryway.close_of(from).await;
    assert_eq!(
        (&line["http.requests"], &line["conn.lane"]),
        (&6.into(), &BULK_LANE.into())
    );
    no_leaks(entryway).await;
}

type Body = BoxBody<Bytes, Infallible>;

/// Answers in the shapes that its path asks for.
async fn shapes(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let sent = request.into_body().collect().await.unwrap().to_bytes();
    let mut response = Response::builder();
    let body: Body = match path.as_str() {
        "/chunked" => {
            let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
            tokio::spawn(async move {
                for part in ["some", "thing"] {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let _ = sender.send_data(Bytes::from_static(part.as_bytes())).await;
                }
            });
            body.boxed()
        }
        "/none" => {
            response = response.status(StatusCode::NO_CONTENT);
            Empty::new().boxed()
        }
        "/same" => {
            response = response.status(StatusCode::NOT_MODIFIED);
            Empty::new().boxed()
        }
        "/error" => {
            response = response.status(StatusCode::INTERNAL_SERVER_ERROR);
            Full::from("oh").boxed()
        }
        _ => Full::from(sent).boxed(),
    };
    Ok(response.body(body).unwrap())
}

/// A real server on one connection after another: every exchange ends between answers.
#[tokio::test]
async fn hyper_is_understood() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serve = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), hyper::service::service_fn(shapes));
            tokio::spawn(serve);
        }
    });
    let entryway = Entryway::start(&framed(address)).await;
    let mut client = entryway.connect().await;
    let chunked = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n";
    let requests = [
        ("GET /chunked HTTP/1.1\r\nHost: x\r\n\r\n", false),
        ("HEAD /chunked HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ("GET /none HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ("GET /same HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ("GET /error HTTP/1.1\r\nHost: x\r\n\r\n", false),
        (
            "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            false,
        ),
        (chunked, false),
        (
            "GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            false,
        ),
    ];
    for (number, (request, bodiless)) in (1..).zip(requests) {
        client.write_all(request.as_bytes()).await.unwrap();
        if bodiless {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert!(client.read_buf(&mut head).await.unwrap() > 0);
            }
        } else {
            read_answer(&mut client).await.unwrap();
        }
        phase_is(&entryway, "idle").await;
        let counted = || entryway.sum("entryway_answers_total") == f64::from(number);
        eventually(request, counted).await;
    }
    // The last of HTTP/1.0 ends with the connection.
    let from = client.local_addr().unwrap();
    client
        .write_all(b"GET /echo HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let (answer, end) = read_out(&mut client).await;
    assert!(answer.starts_with(b"HTTP/1.0 200 OK") && end == End::Fin);
    drop(client);
    let line = entryway.close_of(from).await;
    assert_eq!(line["http.requests"], 9, "{line}");
    assert_eq!(line.get("http.phase"), None, "{line}");
    server.abort();
    no_leaks(entryway).await;
}
