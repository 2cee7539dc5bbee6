//! A TCP header, parsed: RFC 9293, 3.1, and the options of RFC 7323 (window scale) and RFC 2018 (SACK).

use hal_core::device::NetBuf;

use crate::packet;

/// Control bits.
pub(crate) mod flag {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
}

/// Sequence number comparison: `a` is before `b` in the circle of 2^32.
#[inline]
pub(crate) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Most SACK blocks in a header.
pub(crate) const MAX_SACKS: usize = 4;

/// What the header says. The buffer is moved to the payload by [`parse`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Segment {
    pub src_port: u16,
    pub dst_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub payload: u32,
    /// Maximum segment size option; 0: absent.
    pub mss: u16,
    pub scale: Option<u8>,
    pub sack_permitted: bool,
    pub sack_count: u8,
    pub sacks: [(u32, u32); MAX_SACKS],
}

impl Segment {
    /// True if all bits of `mask` are set.
    #[inline]
    pub fn has(&self, mask: u8) -> bool {
        self.flags & mask == mask
    }
    /// Space that it takes in the sequence.
    #[inline]
    pub fn span(&self) -> u32 {
        self.payload + u32::from(self.flags & flag::FIN != 0) + u32::from(self.flags & flag::SYN != 0)
    }
}

/// Reads a header and moves the packet's start to the payload. The checksum is the caller's business.
#[inline]
pub(crate) fn parse(buf: &mut NetBuf) -> Option<Segment> {
    let b = buf.bytes();
    let h: &[u8; 20] = b.first_chunk()?;
    let header_len = usize::from(h[12] >> 4) * 4;
    if header_len < 20 || header_len > b.len() {
        return None;
    }
    let mut s = Segment {
        src_port: u16::from_be_bytes([h[0], h[1]]),
        dst_port: u16::from_be_bytes([h[2], h[3]]),
        seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
        ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
        flags: h[13] & 0x3f,
        window: u16::from_be_bytes([h[14], h[15]]),
        ..Segment::default()
    };
    if header_len > 20 {
        options(&mut s, &b[20..header_len]);
    }
    buf.pull_front(header_len);
    let payload = if buf.more.is_empty() { buf.len() } else { packet::total_len(buf) };
    s.payload = u32::try_from(payload).ok()?;
    Some(s)
}

// A malformed option ends the list, as on other systems: what was read before it counts.
fn options(s: &mut Segment, mut o: &[u8]) {
    while let Some(&kind) = o.first() {
        match kind {
            0 => return,
            1 => {
                o = &o[1..];
                continue;
            }
            _ => {}
        }
        let Some(&len) = o.get(1) else { return };
        let len = usize::from(len);
        if len < 2 || len > o.len() {
            return;
        }
        let body = &o[2..len];
        match (kind, body) {
            (2, [a, b]) => s.mss = u16::from_be_bytes([*a, *b]),
            (3, [shift]) => s.scale = Some((*shift).min(14)),
            (4, []) => s.sack_permitted = true,
            (5, blocks) => {
                for block in blocks.as_chunks::<8>().0.iter().take(MAX_SACKS) {
                    let [a, b, c, d, e, f, g, h] = *block;
                    s.sacks[usize::from(s.sack_count)] =
                        (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
                    s.sack_count += 1;
                    if usize::from(s.sack_count) == MAX_SACKS {
                        break;
                    }
                }
            }
            _ => {}
        }
        o = &o[len..];
    }
}
