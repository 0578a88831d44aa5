//! What a client does and sees: how its stream ends, requests and their answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use entryway::sys::tcp_info::unsent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::LONG;

/// How a stream of bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A FIN.
    Fin,
    /// A reset.
    Reset,
    /// Not within the time given.
    Open,
}

/// Reads to the end, for as long as it takes.
pub async fn read_out(stream: &mut TcpStream) -> (Vec<u8>, End) {
    read_for(stream, LONG).await
}

/// Reads to the end, or until nothing has come for `quiet`.
pub async fn read_for(stream: &mut TcpStream, quiet: Duration) -> (Vec<u8>, End) {
    let mut got = Vec::new();
    loop {
        match timeout(quiet, stream.read_buf(&mut got)).await {
            Err(_) => return (got, End::Open),
            Ok(Ok(0)) => return (got, End::Fin),
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                return (got, End::Reset);
            }
            Ok(Err(error)) => panic!("{error}"),
        }
    }
}

/// Reads exactly this many bytes.
pub async fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    timeout(LONG, stream.read_exact(&mut bytes))
        .await
        .expect("hangs")
        .expect("ends too early");
    bytes
}

/// Sends and reads back the same.
pub async fn ping(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    assert_eq!(read_exactly(stream, bytes.len()).await, bytes);
}

/// Writes until nothing more is taken for a moment; how many bytes it was. The bytes are those of `pattern`.
pub async fn fill(stream: &mut TcpStream, from: usize) -> usize {
    let mut sent = 0;
    loop {
        let bytes = super::upstream::pattern(from + sent, 64 * 1024);
        match timeout(Duration::from_millis(200), stream.write(&bytes)).await {
            Ok(wrote) => sent += wrote.unwrap(),
            Err(_) => return sent,
        }
    }
}

/// Waits until everything written has been acknowledged.
pub async fn acknowledged(stream: &TcpStream) {
    while unsent(stream).unwrap() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

/// One HTTP request, as written; status and the whole answer.
pub async fn http_raw(address: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The answer may come before everything is taken.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut answer))
        .await
        .expect("no end of the answer");
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    (status, text)
}

/// One HTTP request with the right `Host`; status and body.
pub async fn http(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let (status, text) = http_raw(address, request.as_bytes()).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    (
        status,
        if is_chunked {
            unchunked(body)
        } else {
            body.to_owned()
        },
    )
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// `GET` with status 200.
pub async fn get(address: SocketAddr, path: &str) -> String {
    let (status, body) = http(address, "GET", path).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}
