//! Fuzzes [`punchcast_fuzz::targets::stun`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::stun::run(data));
