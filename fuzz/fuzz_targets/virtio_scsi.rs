//! Disks behind a virtio SCSI adapter that lies.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    virtio::scsi_fake::fuzz(&driver_kit::random::Choices::from_input(data));
});
