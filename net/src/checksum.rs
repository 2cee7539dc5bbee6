//! The Internet checksum (RFC 1071), added up 8 bytes at a time.
//!
//! A running sum is a `u64` of little-endian words: one's complement addition does not care about byte order
//! as long as the result is stored in the same one.

use crate::addr::Ip;

#[inline]
fn add64(sum: u64, value: u64) -> u64 {
    let (sum, carry) = sum.overflowing_add(value);
    sum + u64::from(carry)
}

/// Adds `data`, which starts at an even offset of the packet.
#[inline]
pub fn add(mut sum: u64, data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        sum = add64(sum, u64::from_le_bytes(*word));
    }
    if rest.is_empty() {
        return sum;
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    add64(sum, u64::from_le_bytes(last))
}

/// Adds a piece that starts at an offset of this parity: an odd one has its bytes swapped.
pub fn add_at(sum: u64, data: &[u8], odd: bool) -> u64 {
    if odd {
        let piece = u64::from(fold(add(0, data)).swap_bytes());
        add64(sum, piece)
    } else {
        add(sum, data)
    }
}

/// The 16-bit one's complement sum, in the byte order of the packet read as little endian.
#[inline]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field for a finished sum: write it with `to_le_bytes`.
#[inline]
pub fn finish(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_le_bytes()
}

/// The sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1) without the length.
pub fn pseudo(local: Ip, remote: Ip, protocol: u8) -> u64 {
    let sum = if local.is_v4() {
        add(add(0, &local.v4_bytes()), &remote.v4_bytes())
    } else {
        add(add(0, &local.v6_bytes()), &remote.v6_bytes())
    };
    add64(sum, u64::from(u16::from(protocol).to_be()))
}

/// Adds the length of the transport packet to a pseudo-header's sum.
#[inline]
pub fn add_len(sum: u64, len: usize) -> u64 {
    add64(sum, u64::from((len as u32).swap_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition() {
        let data: [u8; 61] = core::array::from_fn(|i| (i * 37 + 11) as u8);
        for len in 0..data.len() {
            let mut slow = 0u32;
            for (i, b) in data[..len].iter().enumerate() {
                slow += u32::from(*b) << if i % 2 == 0 { 8 } else { 0 };
            }
            while slow > 0xffff {
                slow = (slow & 0xffff) + (slow >> 16);
            }
            assert_eq!(u16::from_be_bytes(finish(add(0, &data[..len]))), !(slow as u16));
            for cut in 0..len {
                let sum = add_at(add_at(0, &data[..cut], false), &data[cut..len], cut % 2 == 1);
                assert_eq!(fold(sum), fold(add(0, &data[..len])), "{cut} of {len}");
            }
        }
    }
}
