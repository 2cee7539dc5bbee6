//! What the matrix sends, writes and sums up, the same on both sides: the guest's program includes this file.
//!
//! Only `std`, so that `rustc` alone builds it.

/// Bytes in a block of the pattern.
pub const BLOCK: usize = 64 << 10;

const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut t = [[0; 256]; 8];
    let mut n = 0;
    while n < 256 {
        let mut c = n as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 };
            bit += 1;
        }
        t[0][n] = c;
        n += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut n = 0;
        while n < 256 {
            t[k][n] = (t[k - 1][n] >> 8) ^ t[0][(t[k - 1][n] & 0xff) as usize];
            n += 1;
        }
        k += 1;
    }
    t
}

/// CRC-32 (IEEE 802.3), eight bytes at a time.
#[derive(Clone, Copy)]
pub struct Crc32(u32);

impl Crc32 {
    /// Of nothing so far.
    pub fn new() -> Crc32 {
        Crc32(!0)
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut crc = self.0;
        let (chunks, rest) = bytes.as_chunks::<8>();
        for &[a, b, c, d, e, f, g, h] in chunks {
            let low = crc ^ u32::from_le_bytes([a, b, c, d]);
            let [l0, l1, l2, l3] = low.to_le_bytes();
            crc = TABLES[7][l0 as usize]
                ^ TABLES[6][l1 as usize]
                ^ TABLES[5][l2 as usize]
                ^ TABLES[4][l3 as usize]
                ^ TABLES[3][e as usize]
                ^ TABLES[2][f as usize]
                ^ TABLES[1][g as usize]
                ^ TABLES[0][h as usize];
        }
        for &byte in rest {
            crc = (crc >> 8) ^ TABLES[0][((crc ^ u32::from(byte)) & 0xff) as usize];
        }
        self.0 = crc;
    }

    /// The sum.
    pub fn sum(self) -> u32 {
        !self.0
    }
}

impl Default for Crc32 {
    fn default() -> Self {
        Crc32::new()
    }
}

/// Bytes that do not repeat within a block, and in each block begin with its number: lost, doubled and mixed-up data changes the
/// sum, and making them costs next to nothing.
pub struct Pattern {
    block: Vec<u8>,
}

impl Pattern {
    /// Different for each seed.
    pub fn new(seed: u64) -> Pattern {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut word = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()
        };
        Pattern { block: (0..BLOCK / 8).flat_map(|_| word()).collect() }
    }

    /// Gives the first `count` bytes, in pieces.
    pub fn each<E>(&mut self, count: u64, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let (mut left, mut number) = (count, 0u64);
        while left > 0 {
            self.block[..8].copy_from_slice(&number.to_le_bytes());
            let now = left.min(BLOCK as u64);
            take(&self.block[..now as usize])?;
            left -= now;
            number += 1;
        }
        Ok(())
    }

    /// The sum of the first `count` bytes.
    pub fn sum(&mut self, count: u64) -> u32 {
        let mut crc = Crc32::new();
        let _: Result<(), ()> = self.each(count, |piece| {
            crc.update(piece);
            Ok(())
        });
        crc.sum()
    }
}

/// Seed of what `/bulk` sends.
pub const DOWN: u64 = 1;
/// Seed of what is posted to `/sum`.
pub const UP: u64 = 2;
/// Seed of the image's large file, [`DATA_BYTES`] long.
pub const DATA: u64 = 3;
/// Seed of what `/write` puts on the second disk.
pub const WRITTEN: u64 = 4;
/// Size of the image's large file.
pub const DATA_BYTES: u64 = 24 << 20;
/// Size of the second disk: the guest knows the disk by it.
pub const SECOND_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let mut crc = Crc32::new();
        crc.update(b"123456789"); // the check value of every catalogue of CRCs
        assert_eq!(crc.sum(), 0xcbf4_3926);
        let mut pieces = Crc32::new();
        let mut whole = Vec::new();
        let _: Result<(), ()> = Pattern::new(7).each(200_001, |piece| {
            whole.extend_from_slice(piece);
            Ok(())
        });
        assert_eq!(whole.len(), 200_001);
        for piece in whole.chunks(777) {
            pieces.update(piece);
        }
        assert_eq!(pieces.sum(), Pattern::new(7).sum(200_001));
        assert_ne!(pieces.sum(), Pattern::new(8).sum(200_001));
    }
}
