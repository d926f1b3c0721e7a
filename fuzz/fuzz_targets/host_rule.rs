//! Fuzzes `host_rule`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| astraforge_core::testing::fuzz::host_rule(data));
