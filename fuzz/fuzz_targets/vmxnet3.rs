//! The vmxnet3 driver against a device that lies.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmware::fuzz::vmxnet3(data));
