//! What units say about themselves: INQUIRY, vital product data, mode pages, capacity, lists of units. Bytes behind what
//! a unit gave count as absent.

use alloc::string::String;
use alloc::vec::Vec;

use hal_core::{Error, Result};

/// A direct-access block device.
pub const DISK: u8 = 0;

/// Vital product data pages (SPC-4 section 7.8, SBC-3 section 6.6).
pub mod page {
    /// The pages that there are.
    pub const SUPPORTED: u8 = 0x00;
    /// Serial number.
    pub const SERIAL: u8 = 0x80;
    /// Names of the unit.
    pub const IDENTIFICATION: u8 = 0x83;
    /// Limits of requests.
    pub const LIMITS: u8 = 0xb0;
    /// How blocks are deallocated.
    pub const PROVISIONING: u8 = 0xb2;
}

/// Mode page with the cache's settings (SBC-3 section 6.5.5).
pub const CACHING: u8 = 0x08;
/// All mode pages.
pub const ALL_PAGES: u8 = 0x3f;

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Standard INQUIRY data: the type of a unit that is there, and the version of the standard.
pub fn inquiry(bytes: &[u8]) -> Option<(u8, u8)> {
    let (first, version) = (*bytes.first()?, *bytes.get(2)?);
    // Qualifier 0: a unit is connected.
    (first >> 5 == 0).then_some((first & 0x1f, version))
}

/// The body of a vital product data page, if it is the page asked for.
pub fn vital_page(bytes: &[u8], page: u8) -> Option<&[u8]> {
    if *bytes.get(1)? != page {
        return None;
    }
    let len = usize::from(be16(bytes, 2)?);
    let body = &bytes[4..];
    Some(&body[..len.min(body.len())])
}

/// A serial number: printable characters without the blanks around it.
pub fn serial(body: &[u8]) -> String {
    let text: String = body.iter().take(64).map(|&b| if (0x20..0x7f).contains(&b) { b as char } else { '_' }).collect();
    String::from(text.trim())
}

/// The unit's worldwide name as hexadecimal digits: an NAA or EUI-64 designator of the unit itself.
pub fn worldwide_name(mut body: &[u8]) -> Option<String> {
    while let [_, kind, _, len, rest @ ..] = body {
        let name = rest.get(..usize::from(*len))?;
        // Association 0: the unit. Types 2 and 3: EUI-64 and NAA.
        if kind >> 4 & 3 == 0 && matches!(kind & 0xf, 2 | 3) && !name.is_empty() {
            let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0');
            return Some(name.iter().take(16).flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect());
        }
        body = &rest[usize::from(*len)..];
    }
    None
}

/// Limits of requests, in blocks; 0: not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockLimits {
    /// Longest transfer.
    pub transfer: u32,
    /// Most blocks in an UNMAP.
    pub unmap: u32,
    /// Most blocks in a WRITE SAME.
    pub write_same: u64,
}

/// The page of limits; a short one has no limits for deallocation.
pub fn block_limits(body: &[u8]) -> BlockLimits {
    let unmap = be32(body, 16).unwrap_or(0);
    let ranges = be32(body, 20).unwrap_or(0);
    BlockLimits {
        transfer: be32(body, 4).unwrap_or(0),
        unmap: if ranges == 0 { 0 } else { unmap },
        write_same: be64(body, 32).unwrap_or(0),
    }
}

/// How the unit deallocates blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Provisioning {
    /// By UNMAP.
    pub unmap: bool,
    /// By WRITE SAME (16).
    pub write_same_16: bool,
    /// By WRITE SAME (10).
    pub write_same_10: bool,
}

/// The page of logical block provisioning.
pub fn provisioning(body: &[u8]) -> Provisioning {
    let flags = body.get(1).copied().unwrap_or(0);
    Provisioning { unmap: flags & 1 << 7 != 0, write_same_16: flags & 1 << 6 != 0, write_same_10: flags & 1 << 5 != 0 }
}

/// Size of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Number of blocks.
    pub blocks: u64,
    /// Bytes in each.
    pub block_size: u32,
    /// Blocks can be deallocated.
    pub thin: bool,
}

/// READ CAPACITY (10); `None` if the unit is too large for it.
pub fn capacity_10(bytes: &[u8]) -> Result<Option<Capacity>> {
    let short = Error::Device("a disk's size is cut short");
    let last = be32(bytes, 0).ok_or(short)?;
    let block_size = be32(bytes, 4).ok_or(short)?;
    if last == u32::MAX {
        return Ok(None);
    }
    checked(u64::from(last), block_size, false).map(Some)
}

/// READ CAPACITY (16).
pub fn capacity_16(bytes: &[u8]) -> Result<Capacity> {
    let short = Error::Device("a disk's size is cut short");
    let last = be64(bytes, 0).ok_or(short)?;
    let block_size = be32(bytes, 8).ok_or(short)?;
    let thin = bytes.get(14).is_some_and(|b| b & 1 << 7 != 0);
    checked(last, block_size, thin)
}

fn checked(last: u64, block_size: u32, thin: bool) -> Result<Capacity> {
    if !block_size.is_power_of_two() || !(512..=65536).contains(&block_size) {
        return Err(Error::Device("a disk's block size is absurd"));
    }
    let blocks = last.checked_add(1).ok_or(Error::Device("a disk's size is absurd"))?;
    blocks.checked_mul(u64::from(block_size)).ok_or(Error::Device("a disk's size is absurd"))?;
    Ok(Capacity { blocks, block_size, thin })
}

/// Whether the unit refuses writes, from MODE SENSE (6) data.
pub fn write_protected(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|b| b & 1 << 7 != 0)
}

/// Whether the unit has a volatile write cache, from MODE SENSE (6) data with the caching page; `None` if the page is not
/// there.
pub fn write_cache(bytes: &[u8]) -> Option<bool> {
    let descriptors = usize::from(*bytes.get(3)?);
    let page = bytes.get(4 + descriptors..)?;
    let (code, flags) = (page.first()? & 0x3f, *page.get(2)?);
    (code == CACHING).then_some(flags & 1 << 2 != 0)
}

/// The units in a REPORT LUNS answer: those with a plain number (SAM-5 section 4.7; peripheral and flat addressing).
pub fn luns(bytes: &[u8]) -> Vec<u16> {
    let told = be32(bytes, 0).unwrap_or(0) as usize;
    let list = bytes.get(8..).unwrap_or(&[]);
    let entries = list[..told.min(list.len())].chunks_exact(8);
    let mut luns: Vec<u16> = entries
        .filter_map(|e| match (e[0] >> 6, e[0]) {
            (0, 0) => Some(u16::from(e[1])),
            (1, high) => Some(u16::from(high & 0x3f) << 8 | u16::from(e[1])),
            _ => None,
        })
        .collect();
    luns.sort_unstable();
    luns.dedup();
    luns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(inquiry(&[0, 0, 5, 2]), Some((DISK, 5)));
        assert_eq!(inquiry(&[0x7f, 0, 5]), None, "no unit there");
        assert_eq!(inquiry(&[5, 0x80, 5]), Some((5, 5)));
        assert_eq!(inquiry(&[0]), None);
    }

    #[test]
    fn names() {
        assert_eq!(vital_page(&[0, 0x80, 0, 3, b'a', b'b', b'c', b'd'], 0x80), Some(&b"abc"[..]));
        assert_eq!(vital_page(&[0, 0x80, 0xff, 0xff, b'a'], 0x80), Some(&b"a"[..]), "a length that lies");
        assert_eq!(vital_page(&[0, 0x81, 0, 1, 1], 0x80), None);
        assert_eq!(serial(b"  VB-1\x07 \0"), "VB-1_ _");
        let mut body = alloc::vec![2, 1, 0, 4, b'Q', b'E', b'M', b'U'];
        body.extend([1, 3, 0, 8, 0x60, 0, 0xc2, 0x9a, 1, 2, 3, 4]);
        assert_eq!(worldwide_name(&body).as_deref(), Some("6000c29a01020304"));
        assert_eq!(worldwide_name(&body[..15]), None);
        assert_eq!(worldwide_name(&[1, 3, 0, 200, 1]), None);
    }

    #[test]
    fn sizes_are_checked() {
        let mut c = [0; 32];
        c[6..8].copy_from_slice(&0x0fffu16.to_be_bytes());
        c[8..12].copy_from_slice(&512u32.to_be_bytes());
        c[14] = 0x80;
        assert_eq!(capacity_16(&c), Ok(Capacity { blocks: 0x1000, block_size: 512, thin: true }));
        for bad in [0, 1, 511, 513, 1 << 17] {
            c[8..12].copy_from_slice(&u32::to_be_bytes(bad));
            assert!(capacity_16(&c).is_err());
        }
        c[..8].fill(0xff);
        c[8..12].copy_from_slice(&512u32.to_be_bytes());
        assert!(capacity_16(&c).is_err(), "2^64 blocks");
        c[0] = 0x7f;
        assert!(capacity_16(&c).is_err(), "more bytes than 64 bits");
        assert!(capacity_16(&c[..8]).is_err());
        assert_eq!(capacity_10(&[0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]), Ok(None));
        assert_eq!(
            capacity_10(&[0, 0, 0, 9, 0, 0, 16, 0]),
            Ok(Some(Capacity { blocks: 10, block_size: 4096, thin: false }))
        );
    }

    #[test]
    fn mode_pages() {
        let mut m = [0; 24];
        (m[2], m[4], m[6]) = (0x80, 8, 4);
        assert!(write_protected(&m));
        assert_eq!(write_cache(&m), Some(true));
        m[3] = 8;
        assert_eq!(write_cache(&m), None, "behind a block descriptor there is no such page");
        (m[12], m[14]) = (0x88, 0);
        assert_eq!(write_cache(&m), Some(false));
        m[3] = 255;
        assert_eq!(write_cache(&m), None);
    }

    #[test]
    fn lists_of_units() {
        let mut b = alloc::vec![0, 0, 0, 32, 0, 0, 0, 0];
        for lun in [[0u8, 3], [0, 0], [0x41, 5], [0xc1, 1]] {
            b.extend(lun);
            b.extend([0; 6]);
        }
        assert_eq!(luns(&b), [0, 3, 261]);
        b[..4].fill(0xff);
        assert_eq!(luns(&b), [0, 3, 261], "a length that lies");
        assert_eq!(luns(&b[..12]), []);
        assert_eq!(luns(&[]), []);
    }
}
