//! What a disk says of itself (ATA8-ACS, IDENTIFY DEVICE: 256 words).

use alloc::string::String;

use hal_core::{Error, Result};

/// A disk's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Sectors.
    pub sectors: u64,
    /// Bytes per sector.
    pub sector_size: u32,
    /// Queued commands in flight; 0 if it cannot queue.
    pub depth: u32,
    /// It has a volatile write cache that is on.
    pub cached: bool,
    /// Understands trim.
    pub trim: bool,
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
}

impl Identity {
    /// Reads the description.
    pub fn parse(data: &[u8; 512]) -> Result<Self> {
        let word = |n: usize| u16::from_le_bytes([data[2 * n], data[2 * n + 1]]);
        let long = |n: usize| u32::from(word(n)) | u32::from(word(n + 1)) << 16;
        // Words 83 and 84 are valid if bit 14 is set and bit 15 is not.
        let valid = |w: u16| w >> 14 == 1;
        let commands = if valid(word(83)) { word(83) } else { 0 };
        if word(0) & 1 << 15 != 0 {
            return Err(Error::Device("not a disk"));
        }
        if word(49) & 1 << 8 == 0 || commands & 1 << 10 == 0 {
            return Err(Error::Device("a disk without DMA or without 48-bit sector numbers"));
        }
        let sectors = u64::from(long(100)) | u64::from(long(102)) << 32;
        let sector_size =
            if valid(word(106)) && word(106) & 1 << 12 != 0 { long(117).checked_mul(2) } else { Some(512) };
        let sector_size = sector_size
            .filter(|s| s.is_power_of_two() && (512..=65536).contains(s))
            .ok_or(Error::Device("a disk's sector size is absurd"))?;
        if sectors == 0 || sectors >= 1 << 48 {
            return Err(Error::Device("a disk's size is absurd"));
        }
        let queues = word(76) != 0xffff && word(76) & 1 << 8 != 0;
        Ok(Self {
            sectors,
            sector_size,
            depth: if queues { u32::from(word(75) & 0x1f) + 1 } else { 0 },
            // Without FLUSH CACHE EXT there is nothing to be done about it.
            cached: word(85) & 1 << 5 != 0 && commands & 1 << 13 != 0,
            trim: word(169) & 1 != 0,
            serial: text(&data[20..40]),
            model: text(&data[54..94]),
        })
    }
}

/// Text, two characters a word, the first one in the high byte.
fn text(bytes: &[u8]) -> String {
    let swapped = bytes.chunks(2).flat_map(|pair| [pair[1], pair[0]]);
    let text: String = swapped
        .take_while(|&b| b != 0)
        .map(|b| if b.is_ascii_graphic() || b == b' ' { b as char } else { '_' })
        .collect();
    text.trim().into()
}

/// A description, for the fake.
#[cfg(any(test, feature = "fake"))]
pub fn example(sectors: u64, depth: u16) -> [u8; 512] {
    let mut data = [0; 512];
    let mut word = |n: usize, value: u16| data[2 * n..2 * n + 2].copy_from_slice(&value.to_le_bytes());
    word(10, u16::from_be_bytes(*b"S1"));
    word(27, u16::from_be_bytes(*b"Mo"));
    word(49, 1 << 8 | 1 << 9);
    word(75, depth.saturating_sub(1));
    word(76, if depth > 0 { 1 << 8 } else { 0 });
    word(83, 1 << 14 | 1 << 10 | 1 << 13 | 1 << 12);
    word(85, 1 << 5);
    for part in 0..4 {
        word(100 + part, (sectors >> (16 * part)) as u16);
    }
    word(169, 1);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_disk() {
        let disk = Identity::parse(&example(0x1_0000_0001, 32)).unwrap();
        assert_eq!((disk.sectors, disk.sector_size, disk.depth), (0x1_0000_0001, 512, 32));
        assert!(disk.cached && disk.trim);
        assert_eq!((disk.serial.as_str(), disk.model.as_str()), ("S1", "Mo"));
        assert_eq!(Identity::parse(&example(10, 0)).unwrap().depth, 0);
    }

    #[test]
    fn large_sectors_and_absurd_ones() {
        let mut data = example(10, 1);
        data[213] = 0x50;
        data[234..236].copy_from_slice(&2048u16.to_le_bytes());
        assert_eq!(Identity::parse(&data).unwrap().sector_size, 4096);
        data[234] = 1;
        assert!(Identity::parse(&data).is_err());
    }

    #[test]
    fn refuses_what_is_no_disk() {
        assert!(Identity::parse(&[0; 512]).is_err());
        assert!(Identity::parse(&[0xff; 512]).is_err());
        assert!(Identity::parse(&example(0, 1)).is_err());
    }
}
