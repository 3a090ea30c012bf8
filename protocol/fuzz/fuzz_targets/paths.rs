//! Fuzzes [`punchcast_fuzz::paths`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::paths::run(data));
