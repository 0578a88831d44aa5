#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| entryway_fuzz::hosts_and_resolv_conf(data));
