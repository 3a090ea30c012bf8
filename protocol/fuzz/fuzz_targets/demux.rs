//! Fuzzes [`punchcast_fuzz::targets::demux`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punchcast_fuzz::targets::demux::run(data));
