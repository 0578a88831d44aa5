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
];

#[test]
fn every_target_takes_every_seed() {
    for seed in SEEDS {
        targets::edn(seed);
        targets::settings_report(seed);
        targets::hosts_and_resolv_conf(seed);
        targets::probe_response(seed);
        targets::front_request(seed);
    }
}
