//! SOCKS5 as a client (RFC 1928, passwords by RFC 1929): the name is sent as it is, so that the proxy resolves it.

use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Credentials, HopFault, Refusal};
use crate::addr::HostPort;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xff;
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;

/// Agrees on how we log in, and logs in. What fails here is the proxy's fault.
pub(super) async fn greet<S>(stream: &mut S, login: Option<&Credentials>) -> Result<(), HopFault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let greeting: &[u8] = match login {
        None => &[VERSION, 1, NO_AUTHENTICATION],
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, PASSWORD],
    };
    stream.write_all(greeting).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen[..1]).await?;
    if chosen[0] != VERSION {
        return Err(HopFault::not_the_protocol("SOCKS5", &chosen[..1]));
    }
    stream.read_exact(&mut chosen[1..]).await?;
    match (chosen[1], login) {
        (NO_AUTHENTICATION, _) => Ok(()),
        (PASSWORD, Some(login)) => log_in(stream, login).await,
        (NONE_ACCEPTABLE, None) => Err(HopFault::new(
            "the SOCKS5 proxy wants a login: set USER in the URL and credentials_file",
        )),
        (NONE_ACCEPTABLE, Some(_)) => Err(HopFault::new(
            "the SOCKS5 proxy accepts neither a password nor no login",
        )),
        (method, _) => Err(HopFault::new(format!(
            "the SOCKS5 proxy chose login method {method}, which was not offered"
        ))),
    }
}

async fn log_in<S>(stream: &mut S, login: &Credentials) -> Result<(), HopFault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut message = vec![PASSWORD_VERSION];
    for part in [login.user(), login.password()] {
        // Credentials are checked to be at most 255 bytes each when they are read.
        message.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        message.extend_from_slice(part.as_bytes());
    }
    stream.write_all(&message).await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    match answer[1] {
        0 => Ok(()),
        _ => Err(HopFault::new(
            "the SOCKS5 proxy refused the user or the password",
        )),
    }
}

/// Asks for a connection to `to`; on `Ok` every following byte is the target's.
pub(super) async fn connect<S>(stream: &mut S, to: &HostPort) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = request(to)?;
    let mut head = [0; 4];
    let asked = async {
        stream.write_all(&request).await?;
        stream.read_exact(&mut head).await
    };
    asked.await.map_err(|error| Refusal::no_answer(&error))?;
    if head[0] != VERSION {
        return Err(HopFault::not_the_protocol("SOCKS5", &head).into());
    }
    if head[1] != 0 {
        return Err(refusal(head[1]));
    }
    // The address that the proxy connects from: of no use to us, but it stands before the target's bytes.
    let mut bound = [0; 255 + 2];
    let bound_length = match head[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await.map_err(HopFault::from)?),
        _ => return Err(HopFault::not_the_protocol("SOCKS5", &head).into()),
    };
    stream
        .read_exact(&mut bound[..bound_length + 2])
        .await
        .map_err(HopFault::from)?;
    Ok(())
}

fn request(to: &HostPort) -> Result<Vec<u8>, HopFault> {
    let mut message = vec![VERSION, CONNECT, 0];
    match to.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            message.push(1);
            message.extend_from_slice(&ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            message.push(4);
            message.extend_from_slice(&ip.octets());
        }
        Err(_) => {
            let length = u8::try_from(to.host.len())
                .map_err(|_| HopFault::new("the host name is longer than 255 bytes"))?;
            message.extend_from_slice(&[3, length]);
            message.extend_from_slice(to.host.as_bytes());
        }
    }
    message.extend_from_slice(&to.port.to_be_bytes());
    Ok(message)
}

/// What a reply code says, and about whom.
fn refusal(code: u8) -> Refusal {
    match code {
        1 => Refusal::rules("the SOCKS5 proxy answers: general failure (1)"),
        2 => Refusal::rules("the SOCKS5 proxy's rules do not allow this target (2)"),
        3 => Refusal::unreachable("the SOCKS5 proxy answers: network unreachable (3)"),
        4 => Refusal::unreachable("the SOCKS5 proxy answers: host unreachable (4)"),
        5 => Refusal::refused("the SOCKS5 proxy answers: connection refused (5)"),
        6 => Refusal::unreachable("the SOCKS5 proxy answers: TTL expired (6)"),
        7 => HopFault::new("the SOCKS5 proxy does not support CONNECT (7)").into(),
        8 => HopFault::new("the SOCKS5 proxy does not support this kind of address (8)").into(),
        code => HopFault::new(format!("the SOCKS5 proxy answers with unknown code {code}")).into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use crate::dial::hop::About;

    fn target(host: &str) -> HostPort {
        HostPort {
            host: host.to_owned(),
            port: 8182,
        }
    }

    /// Plays the proxy: reads `wants`, then answers.
    async fn asked(host: &str, answer: &[u8], wants: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (mut ours, mut proxy) = duplex(1024);
        let to = target(host);
        let played = async {
            let mut got = vec![0; wants.len()];
            proxy.read_exact(&mut got).await.unwrap();
            assert_eq!(got, wants);
            proxy.write_all(answer).await.unwrap();
            drop(proxy);
        };
        let (outcome, ()) = tokio::join!(connect(&mut ours, &to), played);
        outcome?;
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        Ok(rest)
    }

    #[tokio::test]
    async fn names_go_as_names_and_what_follows_the_answer_is_kept() {
        let wants = b"\x05\x01\x00\x03\x04name\x1f\xf6";
        for bound in [&b"\x01\x7f\0\0\x01\0\x01"[..], b"\x03\x02ab\0\x01"] {
            let answer = [b"\x05\0\0", bound, b"hello"].concat();
            assert_eq!(asked("name", &answer, wants).await.unwrap(), b"hello");
        }
        let v6 = [&b"\x05\x01\x00\x04"[..], &[0; 15], &[1], &[0x1f, 0xf6]].concat();
        let answer = [&b"\x05\0\0\x04"[..], &[0; 18]].concat();
        assert_eq!(asked("::1", &answer, &v6).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn who_is_to_blame() {
        let wants = b"\x05\x01\x00\x01\x0a\0\0\x01\x1f\xf6";
        for (code, about) in [
            (1, About::Rules),
            (2, About::Rules),
            (3, About::Address),
            (4, About::Address),
            (5, About::Address),
            (6, About::Address),
            (7, About::Hop),
            (8, About::Hop),
            (99, About::Hop),
        ] {
            let refused = asked("10.0.0.1", &[5, code, 0, 1], wants)
                .await
                .unwrap_err();
            assert_eq!(refused.about(), about, "{code}: {refused}");
        }
        let refused = asked("10.0.0.1", b"", wants).await.unwrap_err();
        assert_eq!(refused.about(), About::Address);
        for garbage in [&b"HTTP/1.1 400"[..], b"\x05\0\0\x03"] {
            let refused = asked("10.0.0.1", garbage, wants).await.unwrap_err();
            assert_eq!(refused.about(), About::Hop, "{garbage:?}");
        }
    }

    #[tokio::test]
    async fn logs_in_only_where_asked() {
        let login = Credentials::new("me", "secret");
        for (login, answers, ok) in [
            (None, vec![&b"\x05\0"[..]], true),
            (None, vec![b"\x05\xff"], false),
            (None, vec![b"\x05\x02"], false),
            (None, vec![b"HTTP"], false),
            (Some(&login), vec![b"\x05\0"], true),
            (Some(&login), vec![b"\x05\x02", b"\x01\0"], true),
            (Some(&login), vec![b"\x05\x02", b"\x01\x01"], false),
            (Some(&login), vec![b"\x05\xff"], false),
        ] {
            let (mut ours, mut proxy) = duplex(1024);
            for answer in &answers {
                proxy.write_all(answer).await.unwrap();
            }
            let outcome = greet(&mut ours, login).await;
            assert_eq!(outcome.is_ok(), ok, "{answers:?}: {outcome:?}");
            if let Err(fault) = outcome {
                assert!(!fault.to_string().contains("secret"));
            }
        }
    }
}
