//! Fuzzes [`punchcast_fuzz::targets::volley`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::volley::run(data));
