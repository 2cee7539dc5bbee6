//! The fake devices, and fuzz targets' bodies: the input decides what the device does, in turn with what a kernel asks of the driver.

use driver_kit::random::Choices;

pub use crate::pvscsi::fake::Adapter;
pub use crate::vmxnet3::fake::{Fake, Sent};

/// Disks behind a pvscsi adapter.
pub fn pvscsi(data: &[u8]) {
    crate::pvscsi::fake::fuzz(&Choices::from_input(data));
}

/// A vmxnet3 interface.
pub fn vmxnet3(data: &[u8]) {
    crate::vmxnet3::fake::fuzz(&Choices::from_input(data));
}

#[cfg(test)]
mod tests {
    use driver_kit::random::Random;

    /// Random inputs; the fuzzer finds more, but this runs every time.
    #[test]
    fn random_inputs_do_no_harm() {
        let mut random = Random(7);
        for _ in 0..500 {
            let len = random.below(600) as usize;
            let data: alloc::vec::Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            super::pvscsi(&data);
            super::vmxnet3(&data);
        }
    }
}
