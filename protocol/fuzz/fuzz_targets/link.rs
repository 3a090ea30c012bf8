//! Fuzzes [`punchcast_fuzz::targets::link`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::link::run(data));
