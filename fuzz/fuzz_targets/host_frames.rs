//! Fuzzes `host_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| astraforge_sandbox::testing::fuzz::host_frames(data));
