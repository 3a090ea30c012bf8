//! Fuzzes [`punchcast_fuzz::targets::text`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::text::run(data));
