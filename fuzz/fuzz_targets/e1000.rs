//! The driver of Intel's network interfaces against a device that does anything at all.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| intel::fuzz::run(data));
