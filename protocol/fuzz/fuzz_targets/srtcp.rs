//! Fuzzes [`punchcast_fuzz::targets::srtcp`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::srtcp::run(data));
