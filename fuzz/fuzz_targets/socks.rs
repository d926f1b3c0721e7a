//! Fuzzes `socks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| astraforge_sandbox::testing::fuzz::socks_messages(data));
