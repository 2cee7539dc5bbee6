//! Disks behind a pvscsi adapter that lies.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmware::fuzz::pvscsi(data));
