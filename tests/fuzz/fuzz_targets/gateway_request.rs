#![no_main]

#[path = "../src/gateway_request.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::gateway_request(data));
