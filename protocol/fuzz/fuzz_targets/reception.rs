//! Fuzzes [`punchcast_fuzz::targets::reception`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::reception::run(data));
