//! Any bytes as a disk with a partition table: what is found lies inside the disk.
#![no_main]

use base::Result;
use fs::partition::{Medium, read};
use libfuzzer_sys::fuzz_target;

struct Bytes<'a>(&'a [u8], u32);

impl Medium for Bytes<'_> {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn block_size(&self) -> u32 {
        self.1
    }
    fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        to.copy_from_slice(&self.0[at as usize..][..to.len()]);
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    for block in [512, 4096] {
        let table = read(&Bytes(data, block)).expect("the medium does not fail");
        for p in &table.partitions {
            assert!(p.len > 0 && p.start + p.len <= data.len() as u64);
        }
    }
});
