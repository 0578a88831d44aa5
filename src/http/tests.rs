use std::path::PathBuf;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::client::{Bounds, Error, HttpTarget, get, post, request};
use super::*;
use crate::drain::{self, DrainTrigger};

const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(10),
    body: 1 << 20,
};

const CONNECTIONS: usize = 16;

async fn echo(request: Request) -> Reply {
    match request.path.as_str() {
        "/slices" => {
            let slices = (0..1000).map(|n| format!("{n:05}"));
            reply(StatusCode::OK, "text/plain", Body::slices(slices))
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(200)).await;
            text(StatusCode::OK, "slow")
        }
        _ => {
            let line = format!(
                "{} {} {:?} {}",
                request.method,
                request.path,
                request.query,
                request.body.len()
            );
            text(StatusCode::OK, line)
        }
    }
}

async fn start() -> (String, DrainTrigger, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (trigger, watch) = drain::channel();
    let task = tokio::spawn(serve(
        HttpListener::Tcp(listener),
        CONNECTIONS,
        BODY_MAX,
        watch,
        echo,
    ));
    (address, trigger, task)
}

async fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer and leave before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_request_on_its_way_at_the_stop_is_answered() {
    let (address, mut trigger, task) = start().await;
    let mut early = TcpStream::connect(&address).await.unwrap();
    // Accepted after the other one.
    let served = raw(&address, b"GET /a HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(served.starts_with("HTTP/1.1 200"), "{served}");
    trigger.fire();
    trigger.finished().await;
    early.write_all(b"GET /b HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    early.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    task.await.unwrap();
}

#[tokio::test]
async fn get_post_and_slices() {
    let (address, _trigger, _task) = start().await;
    let target = HttpTarget::Tcp(address);
    let answer = get(&target, "/a%20b?x=1&y", BOUNDS).await.unwrap();
    assert_eq!(answer.text(), r#"GET /a%20b [("x", "1"), ("y", "")] 0"#);
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert!(
        post(&target, "/", &[], BOUNDS)
            .await
            .unwrap()
            .text()
            .starts_with("POST /")
    );
    let slices = get(&target, "/slices", BOUNDS).await.unwrap();
    assert_eq!(slices.body.len(), 5000);
    let short = Bounds {
        body: 100,
        ..BOUNDS
    };
    assert!(matches!(
        get(&target, "/slices", short).await,
        Err(Error::TooLong(_, 100))
    ));
    let quick = Bounds {
        time: Duration::from_millis(20),
        ..BOUNDS
    };
    assert!(matches!(
        get(&target, "/slow", quick).await,
        Err(Error::Timeout(..))
    ));
    let put = request(&target, Method::PUT, "/", &[("x-a", "b")], BOUNDS)
        .await
        .unwrap();
    assert!(put.text().starts_with("PUT /"));
}

#[tokio::test]
async fn unix_sockets_and_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("listener.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let (_trigger, watch) = drain::channel();
    let task = tokio::spawn(serve(
        HttpListener::Unix(listener),
        CONNECTIONS,
        BODY_MAX,
        watch,
        |request: Request| async move { text(StatusCode::OK, format!("{:?}", request.caller)) },
    ));
    let answer = get(&HttpTarget::Unix(path.clone()), "/", BOUNDS)
        .await
        .unwrap();
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&path).unwrap());
    assert_eq!(answer.text(), format!("Unix(Some({own}))"));
    task.abort();
    let gone = folder.path().join("nobody.sock");
    assert!(matches!(
        get(&HttpTarget::Unix(gone), "/", BOUNDS).await,
        Err(Error::Connect(..))
    ));
}

#[tokio::test]
async fn the_end_waits_for_answers_under_way() {
    let (address, trigger, task) = start().await;
    let target = HttpTarget::Tcp(address.clone());
    let mut idle = TcpStream::connect(&address).await.unwrap();
    let slow = tokio::spawn({
        let target = target.clone();
        async move { get(&target, "/slow", BOUNDS).await }
    });
    // The echo proves that the accept loop has seen the connections before this one.
    get(&target, "/", BOUNDS).await.unwrap();
    trigger.fire();
    assert_eq!(slow.await.unwrap().unwrap().text(), "slow");
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    task.await.unwrap();
    assert!(matches!(
        get(&target, "/", BOUNDS).await,
        Err(Error::Connect(..))
    ));
}

#[tokio::test]
async fn a_header_has_five_seconds_and_16_kib() {
    let (address, _trigger, _task) = start().await;
    let started = tokio::time::Instant::now();
    let slow_loris = tokio::spawn({
        let address = address.clone();
        async move { raw(&address, b"GET / HTTP/1.1\r\nHost: a\r\nX-").await }
    });
    let silent = tokio::spawn({
        let address = address.clone();
        async move { raw(&address, b"").await }
    });
    for (length, status) in [(15 * 1024, "200"), (17 * 1024, "431")] {
        let long = "x".repeat(length);
        let request =
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Long: {long}\r\n\r\n");
        let answer = raw(&address, request.as_bytes()).await;
        assert_eq!(answer.get(9..12), Some(status), "{length}");
    }
    let mut huge = b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: ".to_vec();
    huge.resize(1 << 20, b'x');
    let answer = raw(&address, &huge).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    slow_loris.await.unwrap();
    silent.await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(4900));
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn bodies_are_bounded() {
    let (address, _trigger, _task) = start().await;
    let small = raw(
        &address,
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
    )
    .await;
    assert!(small.ends_with("POST / [] 5"), "{small}");
    let mut long =
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n"
            .to_vec();
    long.resize(long.len() + 100_000, b'x');
    let answer = raw(&address, &long).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 413"),
        "{answer}"
    );
}

#[tokio::test]
async fn idle_connections_cannot_lock_others_out() {
    let (address, _trigger, _task) = start().await;
    let mut crowd = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        crowd.push(TcpStream::connect(&address).await.unwrap());
    }
    assert!(get(&HttpTarget::Tcp(address), "/", BOUNDS).await.is_ok());
    // The oldest gave way.
    assert_eq!(crowd[0].read(&mut [0; 1]).await.unwrap_or(0), 0);
}
