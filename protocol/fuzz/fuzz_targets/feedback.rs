//! Fuzzes [`punchcast_fuzz::targets::feedback`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::feedback::run(data));
