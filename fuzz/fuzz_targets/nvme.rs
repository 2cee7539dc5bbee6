//! The driver of NVMe controllers against a device that does anything at all.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nvme::fuzz::run(data));
