//! The driver of AHCI controllers against a device that does anything at all.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahci::fuzz::run(data));
