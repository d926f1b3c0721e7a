//! Fuzzes `tunnel`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| astraforge_sandbox::testing::fuzz::tunnel_beginning(data));
