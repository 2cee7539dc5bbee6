//! The drivers of Xen's split devices against a backend that does anything at all.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xen::fuzz::run(data));
