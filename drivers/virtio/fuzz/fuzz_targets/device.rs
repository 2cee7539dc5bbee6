//! A device that does anything at all: `cargo fuzz run device` in `drivers/virtio`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| virtio::fuzz::run(data));
