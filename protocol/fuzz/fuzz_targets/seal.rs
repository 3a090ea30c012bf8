//! Fuzzes [`punchcast_fuzz::targets::seal`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::seal::run(data));
