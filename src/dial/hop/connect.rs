//! HTTP CONNECT as a client (RFC 9110, section 9.3.6), over plain TCP or TLS.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Credentials, HopFault, Refusal};
use crate::addr::HostPort;

/// The longest head of an answer that is read.
const MAX_HEAD: usize = 64 << 10;
/// Headers of an answer that are looked at.
const MAX_HEADERS: usize = 128;

const PROTOCOL: &[u8] = b"HTTP/";

/// Asks for a connection to `to`; on `Ok` every following byte is the target's.
///
/// The head of the answer is read byte by byte, so that nothing behind it is taken from the socket: a tunnel through a
/// plain proxy stays a plain socket, which the relay may splice.
pub(super) async fn connect<S>(
    stream: &mut S,
    to: &HostPort,
    login: Option<&Credentials>,
) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let asked = stream.write_all(request(to, login).as_bytes()).await;
    asked.map_err(|error| Refusal::no_answer(&error))?;
    loop {
        let status = read_status(stream).await?;
        match status {
            // An interim answer; the one that counts follows.
            100..=199 => {}
            200..=299 => return Ok(()),
            status => return Err(refusal(status)),
        }
    }
}

async fn read_status<S: AsyncRead + Unpin>(stream: &mut S) -> Result<u16, Refusal> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if head.is_empty() => return Err(Refusal::no_answer(&error)),
            Err(_) => return Err(HopFault::not_the_protocol("an HTTP proxy", &head).into()),
        }
        if head.len() == PROTOCOL.len() && head != PROTOCOL {
            return Err(HopFault::not_the_protocol("an HTTP proxy", &head).into());
        }
        if head.len() >= MAX_HEAD {
            return Err(HopFault::new("the HTTP proxy's answer has a head above 64 KiB").into());
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    match answer.parse(&head) {
        Ok(httparse::Status::Complete(_)) => Ok(answer.code.unwrap_or_default()),
        _ => Err(HopFault::not_the_protocol("an HTTP proxy", &head).into()),
    }
}

fn request(to: &HostPort, login: Option<&Credentials>) -> String {
    let authority = to.to_string();
    let login = login.map_or_else(String::new, |login| {
        format!("Proxy-Authorization: Basic {}\r\n", login.basic())
    });
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{login}\r\n")
}

/// What a status says, and about whom.
fn refusal(status: u16) -> Refusal {
    let says = |what: &str| format!("the HTTP proxy answers {status}: {what}");
    match status {
        407 => HopFault::new(says(
            "it wants a login (USER in the URL and credentials_file), or the one given is wrong",
        ))
        .into(),
        400 => HopFault::new(says("it did not understand CONNECT")).into(),
        405 => HopFault::new(says("it does not allow CONNECT")).into(),
        403 => Refusal::rules(says("its rules do not allow this target")),
        502 => Refusal::unreachable(says("it cannot reach the target")),
        503 => Refusal::unreachable(says("the target is not available")),
        504 => Refusal::timed_out(says("the target did not answer in time")),
        other if (400..600).contains(&other) => {
            Refusal::unreachable(says("it does not connect to the target"))
        }
        _ => HopFault::new(says("no answer to CONNECT")).into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use crate::dial::hop::About;

    async fn asked(answer: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (mut ours, mut proxy) = duplex(256 << 10);
        proxy.write_all(answer).await.unwrap();
        let to = HostPort {
            host: "entry.prod.us-east-1.datomic.net".to_owned(),
            port: 8182,
        };
        let login = Credentials::new("me", "secret");
        let played = async {
            let mut got = vec![0; 4096];
            let length = proxy.read(&mut got).await.unwrap();
            let text = String::from_utf8(got[..length].to_vec()).unwrap();
            assert!(text.starts_with("CONNECT entry.prod.us-east-1.datomic.net:8182 HTTP/1.1\r\n"));
            assert!(text.contains("\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n"));
            drop(proxy);
        };
        let (outcome, ()) = tokio::join!(connect(&mut ours, &to, Some(&login)), played);
        outcome?;
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        Ok(rest)
    }

    #[tokio::test]
    async fn any_2xx_is_a_tunnel_and_its_bytes_are_kept() {
        for (answer, rest) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], &b""[..]),
            (
                b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\nhello",
                b"hello",
            ),
            (b"HTTP/1.1 204 No Content\r\n\r\n\r\n", b"\r\n"),
            (
                b"HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx",
                b"x",
            ),
            // Transfer-Encoding means nothing in an answer to CONNECT: what follows is the tunnel's.
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
                b"5\r\n",
            ),
        ] {
            assert_eq!(asked(answer).await.unwrap(), rest);
        }
    }

    #[tokio::test]
    async fn who_is_to_blame() {
        for (status, about) in [
            (400, About::Hop),
            (403, About::Rules),
            (404, About::Address),
            (405, About::Hop),
            (407, About::Hop),
            (500, About::Address),
            (502, About::Address),
            (503, About::Address),
            (504, About::Address),
            (302, About::Hop),
        ] {
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 3\r\n\r\nabc");
            let refused = asked(answer.as_bytes()).await.unwrap_err();
            assert_eq!(refused.about(), about, "{status}: {refused}");
            assert!(!refused.to_string().contains("secret"));
        }
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n", "x".repeat(70_000));
        for garbage in [long.as_bytes(), b"SSH-2.0-OpenSSH_9.2\r\n", b"\x05\xff"] {
            let refused = asked(garbage).await.unwrap_err();
            assert_eq!(refused.about(), About::Hop);
        }
        assert_eq!(asked(b"").await.unwrap_err().about(), About::Address);
    }
}
