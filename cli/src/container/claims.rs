//! Which parts of a file are in use: a table that leads twice to the same place, or into itself, is corrupt.

use anyhow::{Result, bail};

/// Units of a file, each free or claimed.
pub struct Claims {
    unit: u64,
    size: u64,
    bits: Vec<u64>,
}

impl Claims {
    /// For a file of `size` bytes in units of `unit`.
    pub fn new(size: u64, unit: u64) -> Self {
        let words = size.div_ceil(unit).div_ceil(64);
        Self { unit, size, bits: vec![0; words as usize] }
    }

    /// Claims the units that the range touches; fails if it leaves the file or one is claimed already.
    pub fn take(&mut self, at: u64, len: u64, what: &str) -> Result<()> {
        let Some(end) = at.checked_add(len).filter(|end| *end <= self.size) else {
            bail!("{what} at {at} lies outside the file of {} bytes: it is truncated or corrupt", self.size);
        };
        for unit in at / self.unit..end.div_ceil(self.unit) {
            let (word, bit) = ((unit / 64) as usize, 1 << (unit % 64));
            if self.bits[word] & bit != 0 {
                bail!("{what} at {at} lies over something else: the file is corrupt");
            }
            self.bits[word] |= bit;
        }
        Ok(())
    }
}
