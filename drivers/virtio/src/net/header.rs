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
    let mut h = [0; LONG];
    if let Some((start, offset)) = offload.checksum {
        h[0] = NEEDS_CSUM;
        h[6..8].copy_from_slice(&start.to_le_bytes());
        h[8..10].copy_from_slice(&offset.to_le_bytes());
    }
    if let Some(segment) = offload.segment {
        h[1] = if segment.ipv6 { GSO_TCPV6 } else { GSO_TCPV4 };
        h[2..4].copy_from_slice(&segment.header_len.to_le_bytes());
        h[4..6].copy_from_slice(&segment.size.to_le_bytes());
    }
    h
}

/// What a received header says about a frame of `len` bytes; `None` if it contradicts the frame: then the
/// frame is dropped.
#[inline]
pub(crate) fn decode(h: &[u8; SHORT], len: usize) -> Option<Offload> {
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
        offload.segment =
            Some(Segment { ipv6: kind == GSO_TCPV6, size, header_len: (usize::from(header_len)).min(len) as u16 });
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
        let short = h[..SHORT].try_into().unwrap();
        assert_eq!(decode(&short, 2000), Some(offload));
        assert_eq!(decode(&short, 40), None, "the checksum lies outside");
        assert_eq!(encode(&Offload::default()), [0; LONG]);
    }

    #[test]
    fn nonsense_is_dropped() {
        let mut h = [0; SHORT];
        h[1] = 3; // UDP fragmentation, which was never agreed on.
        assert_eq!(decode(&h, 1000), None);
        h[1] = GSO_TCPV4; // Segments of no bytes.
        assert_eq!(decode(&h, 1000), None);
    }
}
