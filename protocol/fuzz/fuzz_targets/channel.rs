//! Fuzzes [`punchcast_fuzz::targets::channel`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::channel::run(data));
