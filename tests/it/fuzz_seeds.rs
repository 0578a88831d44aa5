//! The fuzz targets of `tests/fuzz` on a few inputs: they compile with the crate, and what once was a bug stays mended.

#[cfg(feature = "gateway")]
#[path = "../fuzz/src/gateway_request.rs"]
mod gateway_request;
#[path = "../fuzz/src/lib.rs"]
mod targets;

const SEEDS: &[&[u8]] = &[
    b"",
    b"\xff\xfe\x00\x00",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 25\r\n\r\n{:s3-auth-path \"bucket/x\"}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"{:system \"prod\" :region \"us-east-1\" #_ :x :endpoint \"http://h:8182\"}",
    b"{:endpoint \"http://h:8182\" :proxy-port 8182, :a #inst \"x\" \\u0041 1N}",
    b"[[[[[[[[[[[[[[[[[[[[{{{{{{{{",
    b"127.0.0.1 localhost\n::1 # c\n\0nameserver 10.0.0.2\nsearch a bad..name\noptions ndots:99999999999\n",
    b"schema = 1\n[[upstream]]\nname = \"a\"\nendpoint = [{address = \"h:8182\"}]\n",
    b"[upstream]\nname = [\n",
    b"\x05\x01\x00\x03\x05entry\x1f\xf6early",
    b"\x04\x01\x1f\xf6\0\0\0\x01me\0entry\0early",
    b"CONNECT [::1]:8182 HTTP/1.1\r\nHost: x\r\n\r\nearly",
    b"\x01GET /a HTTP/1.1\r\nHost: x\r\n\r\nHEAD /b HT\x01TP/1.1\r\n\r\n\x02HTTP/1.1 200 OK\r\nContent-Le\x02ngth: 5\r\n\r\nhel\x02loHTTP/1.1 200 OK\r\n\r\n",
    b"\x01POST / HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n\x02HTTP/1.1 100 Continue\r\n\r\n\x013;a=b\r\nab\x01c\r\n0\r\nX: y\r\n\r\n\x04HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"\x01POST / HTTP/1.1\nContent-Length: 4\n\nab\x02HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n\x03cd",
    b"\x01GET / HTTP/1.1\r\nUpgrade: x\r\n fold\r\n\r\n\x02HTTP/1.1 101 Switching Protocols\r\n\r\nanything",
];

/// What proxies answer, behind the byte that says which kind of proxy it is, and what is asked of a gateway.
const CONVERSATIONS: &[&[u8]] = &[
    b"\0\x05\0\x05\0\0\x01\0\0\0\0\0\0early",
    b"\0\x05\0\x05\0\0\x03\x05entry\x1f\xf6early",
    b"\0\x05\0\x05\x04\0\x01",
    b"\0\x05\xff",
    b"\0HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x01HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly",
    b"\x01HTTP/1.1 103 Early\r\n\r\nHTTP/1.0 200\r\n\r\nearly",
    b"\x01HTTP/1.1 407 Login\nContent-Length: 3\n\nabc",
    b"CONNECT entry:8182 HTTP/1.1\r\nHost: entry:8182\r\n\r\nearly",
    b"CONNECT default:8182 HTTP/1.0\r\n\r\n",
    b"CONNECT [::1]:8182 HTTP/1.1\r\nContent-Length: 4294967297\r\n\r\n",
    b"GET http://entry:8182/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

/// Changes so many, each time the same: bytes changed, left out, doubled, cut off.
fn changed(number: u64, seed: &[u8]) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    let mut bytes = seed.to_vec();
    for _ in 0..=next(4) {
        let at = next(bytes.len());
        match next(5) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => drop(bytes.remove(at)),
            2 => bytes.insert(at, next(256) as u8),
            3 => bytes.extend_from_within(at..),
            _ if !bytes.is_empty() => bytes[at] = next(256) as u8,
            _ => {}
        }
    }
    bytes
}

/// These two have a connection for each input: fewer of them, changed here, in place of a fuzzer's many.
#[test]
fn no_conversation_is_too_odd() {
    for seed in CONVERSATIONS.iter().chain(SEEDS) {
        let rounds = (0..20).map(|number| changed(number, seed));
        for bytes in rounds.chain([seed.to_vec()]) {
            for kind in [0, 1] {
                targets::proxy_answer(&[&[kind], &bytes[..]].concat());
            }
            targets::proxy_answer(&bytes);
            #[cfg(feature = "gateway")]
            gateway_request::gateway_request(&bytes);
        }
    }
}

#[test]
fn every_target_takes_every_seed() {
    for seed in SEEDS {
        targets::edn(seed);
        targets::settings_report(seed);
        targets::hosts_and_resolv_conf(seed);
        targets::probe_response(seed);
        targets::front_request(seed);
        targets::http_framing(seed);
    }
}
