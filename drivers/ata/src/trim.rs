//! Ranges that hold nothing any more (ATA8-ACS, DATA SET MANAGEMENT).

use hal_core::{Error, Result};

/// Most sectors of one range of a trim, and most ranges in a block.
const RANGE: u64 = 0xffff;
const RANGES: usize = 64;
/// Most sectors of a trim.
pub const MOST_TRIM: u64 = RANGE * RANGES as u64;

/// The block of ranges that covers `count` sectors from `sector` on (ATA8-ACS, DATA SET MANAGEMENT: 48 bits of
/// position, 16 bits of count).
pub fn trim_block(sector: u64, count: u64) -> Result<[u8; 512]> {
    if count > MOST_TRIM {
        return Err(Error::Invalid);
    }
    let mut block = [0; 512];
    let (mut at, mut left) = (sector, count);
    for entry in block.chunks_mut(8) {
        let n = left.min(RANGE);
        if n == 0 {
            break;
        }
        entry.copy_from_slice(&(at | n << 48).to_le_bytes());
        (at, left) = (at + n, left - n);
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trim_is_cut_into_ranges() {
        let block = trim_block(5, 0xffff + 3).unwrap();
        assert_eq!(block[..8], (5u64 | 0xffff << 48).to_le_bytes());
        assert_eq!(block[8..16], ((5u64 + 0xffff) | 3 << 48).to_le_bytes());
        assert!(block[16..].iter().all(|&b| b == 0));
        assert!(trim_block(0, MOST_TRIM).is_ok() && trim_block(0, MOST_TRIM + 1).is_err());
    }
}
