//! Fuzzes [`punchcast_fuzz::targets::agent`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::agent::run(data));
