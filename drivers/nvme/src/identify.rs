//! What controllers and namespaces say of themselves (NVM Express 1.4, figures 247 and 245).

use alloc::string::String;

use hal_core::{Error, Result};

fn long(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

/// A controller.
#[derive(Clone, Debug)]
pub(crate) struct Controller {
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
    /// Largest transfer in bytes, as a power of two of pages; `None` if there is no limit.
    pub max_transfer: Option<u8>,
    /// Number of namespaces.
    pub namespaces: u32,
    /// There is a volatile write cache.
    pub cached: bool,
    /// Understands data set management.
    pub deallocate: bool,
}

impl Controller {
    /// Reads the description.
    pub fn parse(data: &[u8; 4096]) -> Self {
        Self {
            serial: text(&data[4..24]),
            model: text(&data[24..64]),
            max_transfer: (data[77] != 0).then_some(data[77]),
            namespaces: long(data, 516),
            cached: data[525] & 1 != 0,
            deallocate: data[520] & 1 << 2 != 0,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let text: String = bytes
        .iter()
        .take_while(|&&b| b != 0)
        .map(|&b| if b.is_ascii_graphic() || b == b' ' { b as char } else { '_' })
        .collect();
    text.trim().into()
}

/// A namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Blocks.
    pub blocks: u64,
    /// Bytes in a block, as a power of two.
    pub shift: u8,
    /// Refuses writes.
    pub read_only: bool,
}

impl Namespace {
    /// Reads the description; `None` if there is no such namespace.
    pub fn parse(data: &[u8; 4096]) -> Result<Option<Self>> {
        let blocks = u64::from(long(data, 0)) | u64::from(long(data, 4)) << 32;
        if blocks == 0 {
            return Ok(None);
        }
        // Bits 5 and 6 are the upper ones of the format's number.
        let format = usize::from(data[26] & 0xf | data[26] >> 1 & 0x30);
        let format = long(data, 128 + 4 * format);
        let shift = (format >> 16) as u8;
        if format & 0xffff != 0 {
            return Err(Error::Device("a namespace with metadata, which is not supported"));
        }
        if !(9..=16).contains(&shift) || blocks > u64::MAX >> 17 {
            return Err(Error::Device("a namespace's block size or size is absurd"));
        }
        Ok(Some(Self { blocks, shift, read_only: data[99] & 1 != 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces() {
        let mut data = [0; 4096];
        assert_eq!(Namespace::parse(&data), Ok(None));
        data[0] = 100;
        assert!(Namespace::parse(&data).is_err(), "blocks of one byte");
        data[26] = 0x21;
        data[128 + 4 * 17 + 2] = 12;
        data[99] = 1;
        assert_eq!(Namespace::parse(&data), Ok(Some(Namespace { blocks: 100, shift: 12, read_only: true })));
        data[128 + 4 * 17] = 8;
        assert!(Namespace::parse(&data).is_err(), "metadata");
        assert!(Namespace::parse(&[0xff; 4096]).is_err());
    }

    #[test]
    fn controllers() {
        let mut data = [0; 4096];
        data[4..8].copy_from_slice(b"ab\x01 ");
        data[77] = 5;
        (data[516], data[520], data[525]) = (3, 4, 1);
        let c = Controller::parse(&data);
        assert_eq!((c.serial.as_str(), c.max_transfer, c.namespaces), ("ab_", Some(5), 3));
        assert!(c.cached && c.deallocate);
    }
}
