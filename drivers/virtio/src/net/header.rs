//! The header before every frame (virtio 1.2, section 5.1.6): what is to be done, or was done, for it.

use hal_core::device::{Offload, Segment};

/// Its length with the count of merged buffers, which every 1.0 device has.
pub(crate) const LONG: usize = 12;
/// Its length without.
pub(crate) const SHORT: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// The header for a frame to send; the first [`SHORT`] bytes are the short form.
#[inline]
pub(crate) fn encode(offload: &Offload) -> [u8; LONG] {
    let (mut flags, mut kind, mut header_len, mut size, mut start, mut offset) = (0, GSO_NONE, 0, 0, 0, 0);
    if let Some(checksum) = offload.checksum {
        flags = NEEDS_CSUM;
        (start, offset) = checksum;
    }
    if let Some(segment) = offload.segment {
        kind = if segment.ipv6 { GSO_TCPV6 } else { GSO_TCPV4 };
        (header_len, size) = (segment.header_len, segment.size);
    }
    let low = u64::from(flags)
        | u64::from(kind) << 8
        | u64::from(header_len) << 16
        | u64::from(size) << 32
        | u64::from(start) << 48;
    let mut h = [0; LONG];
    h[..8].copy_from_slice(&low.to_le_bytes());
    h[8..].copy_from_slice(&u32::from(offset).to_le_bytes());
    h
}

/// What a received header (in the long form, of which the count is not looked at) says about a frame of `len` bytes;
/// `None` if it contradicts the frame: then the frame is dropped.
#[inline]
pub(crate) fn decode(h: &[u8; LONG], len: usize) -> Option<Offload> {
    // Nothing done and nothing to do: flags and kind are 0.
    if h[0] | h[1] == 0 {
        return Some(Offload::default());
    }
    decode_offload(h, len)
}

fn decode_offload(h: &[u8; LONG], len: usize) -> Option<Offload> {
    let word = |at: usize| u16::from_le_bytes([h[at], h[at + 1]]);
    let mut offload = Offload { checksum_valid: h[0] & (DATA_VALID | NEEDS_CSUM) != 0, ..Offload::default() };
    if h[0] & NEEDS_CSUM != 0 {
        let (start, offset) = (word(6), word(8));
        if usize::from(start) + usize::from(offset) + 2 > len {
            return None;
        }
        offload.checksum = Some((start, offset));
    }
    let kind = h[1] & !GSO_ECN;
    if kind != GSO_NONE {
        let (header_len, size) = (word(2), word(4));
        // `header_len` is only a hint; `size` has a meaning only if it is not 0.
        if !matches!(kind, GSO_TCPV4 | GSO_TCPV6) || size == 0 {
            return None;
        }
        let header_len = usize::from(header_len).min(len) as u16;
        offload.segment = Some(Segment { ipv6: kind == GSO_TCPV6, size, header_len });
    }
    Some(offload)
}

/// How many buffers hold the frame, from the long form.
#[inline]
pub(crate) fn buffers(h: &[u8; LONG]) -> u16 {
    u16::from_le_bytes([h[10], h[11]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_can_be_read() {
        let offload = Offload {
            checksum_valid: true,
            checksum: Some((34, 16)),
            segment: Some(Segment { ipv6: true, size: 1440, header_len: 74 }),
        };
        let h = encode(&offload);
        assert_eq!(decode(&h, 2000), Some(offload));
        assert_eq!(decode(&h, 40), None, "the checksum lies outside");
        assert_eq!(encode(&Offload::default()), [0; LONG]);
    }

    #[test]
    fn nonsense_is_dropped() {
        let mut h = [0; LONG];
        h[1] = 3; // UDP fragmentation, which was never agreed on.
        assert_eq!(decode(&h, 1000), None);
        h[1] = GSO_TCPV4; // Segments of no bytes.
        assert_eq!(decode(&h, 1000), None);
    }
}
