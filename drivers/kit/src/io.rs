//! A device's 32-bit registers, as a driver reaches them that shall also run against a fake.

use crate::Registers;

/// 32-bit registers at byte offsets. What is not there reads as all ones.
pub trait Io: Send + Sync {
    /// Reads the register at `offset`, a multiple of 4.
    fn read(&self, offset: usize) -> u32;
    /// Writes it.
    fn write(&self, offset: usize, value: u32);
}

impl Io for Registers {
    fn read(&self, offset: usize) -> u32 {
        self.read32(offset)
    }
    fn write(&self, offset: usize, value: u32) {
        self.write32(offset, value);
    }
}
