//! Fuzzes [`punchcast_fuzz::targets::timeline`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::timeline::run(data));
