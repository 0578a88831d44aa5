#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entryway_fuzz::proxy_answer(data));
