//! The fuzz targets of `tests/fuzz` on a few inputs: they compile with the crate, and what once was a bug stays mended.

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
