//! Fuzzes [`punchcast_fuzz::targets::rtp`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::rtp::run(data));
