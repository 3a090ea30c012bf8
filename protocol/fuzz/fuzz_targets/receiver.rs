//! Fuzzes [`punchcast_fuzz::targets::receiver`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::receiver::run(data));
