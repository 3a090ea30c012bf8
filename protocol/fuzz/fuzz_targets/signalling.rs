//! Fuzzes [`punchcast_fuzz::targets::signalling`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::signalling::run(data));
