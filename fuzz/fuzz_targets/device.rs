//! The drivers against a device that does anything at all.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| virtio::fuzz::run(data));
