//! Fuzzes [`punchcast_fuzz::targets::control`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::control::run(data));
