//! The first bytes of a client, as SOCKS4, SOCKS4a, SOCKS5 or HTTP CONNECT. Pure functions over bytes.

use crate::addr::HostPort;

/// The longest request; a CONNECT with its headers, above all.
pub const MAX_REQUEST: usize = 16 << 10;
/// Headers of a CONNECT that are looked at; none is needed.
const MAX_HEADERS: usize = 64;

/// Which protocol the client speaks, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Socks4,
    Socks5,
    Connect,
}

/// What bytes say so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// More bytes are needed.
    Incomplete,
    /// With the number of bytes it takes; what follows is the client's own.
    Complete(T, usize),
    /// It cannot become a request.
    Bad(Bad),
}

/// Why bytes are no request that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// A command other than CONNECT.
    Command,
    /// A login method that is not offered.
    Method,
    /// Not the protocol.
    Protocol,
}

/// The protocol of a client, by its first bytes; `None`: neither of ours.
pub fn detect(bytes: &[u8]) -> Parsed<Option<Protocol>> {
    const CONNECT: &[u8] = b"CONNECT ";
    match bytes.first() {
        None => Parsed::Incomplete,
        Some(4) => Parsed::Complete(Some(Protocol::Socks4), 0),
        Some(5) => Parsed::Complete(Some(Protocol::Socks5), 0),
        Some(_) if bytes.starts_with(CONNECT) => Parsed::Complete(Some(Protocol::Connect), 0),
        Some(_) if CONNECT.starts_with(bytes) => Parsed::Incomplete,
        Some(_) => Parsed::Complete(None, 0),
    }
}

/// The greeting of SOCKS5 (RFC 1928): whether a connection without login is offered.
pub fn socks5_greeting(bytes: &[u8]) -> Parsed<()> {
    const NO_LOGIN: u8 = 0;
    let Some(&count) = bytes.get(1) else {
        return Parsed::Incomplete;
    };
    let length = 2 + usize::from(count);
    match bytes.get(2..length) {
        None => Parsed::Incomplete,
        Some(methods) if methods.contains(&NO_LOGIN) => Parsed::Complete((), length),
        Some(_) => Parsed::Bad(Bad::Method),
    }
}

/// The request of SOCKS5.
pub fn socks5_request(bytes: &[u8]) -> Parsed<HostPort> {
    let &[version, command, _reserved, kind, ref rest @ ..] = bytes else {
        return match bytes.first() {
            Some(5) | None => Parsed::Incomplete,
            Some(_) => Parsed::Bad(Bad::Protocol),
        };
    };
    if version != 5 {
        return Parsed::Bad(Bad::Protocol);
    }
    if command != 1 {
        return Parsed::Bad(Bad::Command);
    }
    let (start, length) = match (kind, rest.first()) {
        (1, _) => (0, 4),
        (4, _) => (0, 16),
        (3, Some(&length)) => (1, usize::from(length)),
        (3, None) => return Parsed::Incomplete,
        _ => return Parsed::Bad(Bad::Protocol),
    };
    let end = start + length;
    let Some([high, low]) = rest.get(end..end + 2) else {
        return Parsed::Incomplete;
    };
    let address = &rest[start..end];
    let host = match *address {
        [a, b, c, d] if kind == 1 => std::net::Ipv4Addr::new(a, b, c, d).to_string(),
        _ if kind == 4 => match <[u8; 16]>::try_from(address) {
            Ok(bytes) => std::net::Ipv6Addr::from(bytes).to_string(),
            Err(_) => return Parsed::Bad(Bad::Protocol),
        },
        _ => match name(address) {
            Some(name) => name,
            None => return Parsed::Bad(Bad::Protocol),
        },
    };
    let port = u16::from_be_bytes([*high, *low]);
    Parsed::Complete(HostPort { host, port }, 4 + end + 2)
}

/// The request of SOCKS4 and SOCKS4a.
pub fn socks4_request(bytes: &[u8]) -> Parsed<HostPort> {
    let &[_version, command, high, low, a, b, c, d, ref rest @ ..] = bytes else {
        return Parsed::Incomplete;
    };
    if command != 1 {
        return Parsed::Bad(Bad::Command);
    }
    let Some(user_end) = rest.iter().position(|byte| *byte == 0) else {
        return Parsed::Incomplete;
    };
    let port = u16::from_be_bytes([high, low]);
    let after_user = 8 + user_end + 1;
    // 0.0.0.x stands for a name behind the user: SOCKS4a.
    if [a, b, c] != [0, 0, 0] || d == 0 {
        let host = std::net::Ipv4Addr::new(a, b, c, d).to_string();
        return Parsed::Complete(HostPort { host, port }, after_user);
    }
    let rest = &bytes[after_user..];
    let Some(name_end) = rest.iter().position(|byte| *byte == 0) else {
        return Parsed::Incomplete;
    };
    match name(&rest[..name_end]) {
        Some(host) => Parsed::Complete(HostPort { host, port }, after_user + name_end + 1),
        None => Parsed::Bad(Bad::Protocol),
    }
}

/// The request of HTTP CONNECT.
pub fn connect_request(bytes: &[u8]) -> Parsed<HostPort> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Parsed::Incomplete,
        Err(_) => return Parsed::Bad(Bad::Protocol),
    };
    let authority = request.path.unwrap_or_default();
    let Some((host, port)) = authority.rsplit_once(':') else {
        return Parsed::Bad(Bad::Protocol);
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match (name(host.as_bytes()), port.parse()) {
        (Some(host), Ok(port)) => Parsed::Complete(HostPort { host, port }, length),
        _ => Parsed::Bad(Bad::Protocol),
    }
}

/// A host name or an address as text; what else may stand there is of no use to us.
fn name(bytes: &[u8]) -> Option<String> {
    let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:%".contains(byte);
    let is_name = !bytes.is_empty() && bytes.len() <= 255 && bytes.iter().all(fine);
    is_name.then(|| String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str, port: u16) -> HostPort {
        HostPort {
            host: host.to_owned(),
            port,
        }
    }

    /// Every beginning of a request is incomplete, and what follows it is not touched.
    fn whole(parse: impl Fn(&[u8]) -> Parsed<HostPort>, request: &[u8], expected: HostPort) {
        for length in 0..request.len() {
            assert_eq!(parse(&request[..length]), Parsed::Incomplete, "{length}");
        }
        let more = [request, b"more"].concat();
        assert_eq!(parse(&more), Parsed::Complete(expected, request.len()));
    }

    #[test]
    fn the_protocol_is_told_by_the_first_bytes() {
        let told = |protocol| Parsed::Complete(protocol, 0);
        assert_eq!(detect(b""), Parsed::Incomplete);
        assert_eq!(detect(b"\x04"), told(Some(Protocol::Socks4)));
        assert_eq!(detect(b"\x05\x01\x00"), told(Some(Protocol::Socks5)));
        assert_eq!(detect(b"CONN"), Parsed::Incomplete);
        assert_eq!(detect(b"CONNECT x:1"), told(Some(Protocol::Connect)));
        for plain in [
            &b"GET http://x/ HTTP/1.1"[..],
            b"COPY /",
            b"connect x",
            b"\x16\x03",
            b"\0",
        ] {
            assert_eq!(detect(plain), told(None));
        }
    }

    #[test]
    fn requests_of_every_kind() {
        whole(
            socks5_request,
            b"\x05\x01\0\x03\x04name\x1f\xf6",
            target("name", 8182),
        );
        whole(
            socks5_request,
            b"\x05\x01\0\x01\x7f\0\0\x01\0\x50",
            target("127.0.0.1", 80),
        );
        let v6 = [&b"\x05\x01\0\x04"[..], &[0; 15], &[1, 0, 80]].concat();
        whole(socks5_request, &v6, target("::1", 80));
        whole(
            socks4_request,
            b"\x04\x01\x1f\xf6\x0a\0\0\x01me\0",
            target("10.0.0.1", 8182),
        );
        whole(
            socks4_request,
            b"\x04\x01\x1f\xf6\0\0\0\x01\0name\0",
            target("name", 8182),
        );
        whole(
            connect_request,
            b"CONNECT name:8182 HTTP/1.1\r\nHost: name:8182\r\n\r\n",
            target("name", 8182),
        );
        whole(
            connect_request,
            b"CONNECT [::1]:80 HTTP/1.0\r\n\r\n",
            target("::1", 80),
        );
        assert_eq!(socks5_greeting(b"\x05\x02\x02"), Parsed::Incomplete);
        assert_eq!(
            socks5_greeting(b"\x05\x02\x02\0\x05"),
            Parsed::Complete((), 4)
        );
        assert_eq!(socks5_greeting(b"\x05\x01\x02"), Parsed::Bad(Bad::Method));
    }

    #[test]
    fn what_is_no_request() {
        let bad = |bad| Parsed::Bad(bad);
        assert_eq!(socks5_request(b"\x05\x02\0\x01"), bad(Bad::Command));
        assert_eq!(socks5_request(b"\x05\x03\0\x01"), bad(Bad::Command));
        assert_eq!(socks5_request(b"\x05\x01\0\x09"), bad(Bad::Protocol));
        assert_eq!(socks5_request(b"\x04"), bad(Bad::Protocol));
        assert_eq!(
            socks5_request(b"\x05\x01\0\x03\0\0\x50"),
            bad(Bad::Protocol)
        );
        assert_eq!(
            socks4_request(b"\x04\x02\0\x50\x0a\0\0\x01\0"),
            bad(Bad::Command)
        );
        assert_eq!(
            connect_request(b"CONNECT name HTTP/1.1\r\n\r\n"),
            bad(Bad::Protocol)
        );
        assert_eq!(
            connect_request(b"CONNECT na\0me:1 HTTP/1.1\r\n\r\n"),
            bad(Bad::Protocol)
        );
        assert_eq!(
            connect_request(b"CONNECT name:99999 HTTP/1.1\r\n\r\n"),
            bad(Bad::Protocol)
        );
    }

    #[test]
    fn no_bytes_make_a_parser_panic_or_take_more_than_there_are() {
        let mut state = 0x9e37_79b9_u32;
        for round in 0..20_000 {
            let mut bytes: Vec<u8> = (0..round % 40)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    state as u8
                })
                .collect();
            if let Some(first) = bytes.first_mut() {
                *first = [4, 5, b'C', *first][round % 4];
            }
            for parse in [socks4_request, socks5_request, connect_request] {
                if let Parsed::Complete(_, length) = parse(&bytes) {
                    assert!(length <= bytes.len());
                }
            }
            let _ = (detect(&bytes), socks5_greeting(&bytes));
        }
    }
}
