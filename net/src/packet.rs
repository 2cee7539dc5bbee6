//! Received packets up to the transport header: Ethernet, IPv4, IPv6 with its extension headers.
//!
//! Everything is read by checked or constant-size access; a packet that lies about a length is dropped.

use alloc::vec::Vec;

use hal_core::device::NetBuf;

use crate::addr::Ip;
use crate::checksum;

/// EtherType values.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// See [`ETHERTYPE_IPV4`].
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// See [`ETHERTYPE_IPV4`].
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;

/// IP protocol numbers.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// What the headers before the transport say.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Index of the interface it came in on.
    pub interface: u32,
    /// Sender.
    pub src: Ip,
    /// Destination.
    pub dst: Ip,
    /// Transport protocol.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// The transport checksum is known to be good.
    pub valid: bool,
    /// Bytes of IP headers, which lie directly before the transport header.
    pub header_len: u16,
}

/// A fragment's place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment {
    pub id: u32,
    pub offset: u32,
    pub more: bool,
}

/// Bytes of a frame over all of its buffers.
pub(crate) fn total_len(buf: &NetBuf) -> usize {
    buf.len() + buf.more.iter().map(NetBuf::len).sum::<usize>()
}

/// Cuts a packet to `len` bytes.
pub(crate) fn truncate(buf: &mut NetBuf, len: usize) {
    if buf.len() >= len {
        buf.set_len(len);
        if !buf.more.is_empty() {
            buf.more = Vec::new();
        }
        return;
    }
    let mut left = len - buf.len();
    let mut keep = 0;
    for part in &mut buf.more {
        if left == 0 {
            break;
        }
        part.set_len(part.len().min(left));
        left -= part.len();
        keep += 1;
    }
    buf.more.truncate(keep);
}

/// The one's complement sum of a packet's bytes over all of its buffers.
pub(crate) fn sum(buf: &NetBuf, start: u64) -> u64 {
    let mut sum = checksum::add(start, buf.bytes());
    let mut odd = buf.len() % 2 == 1;
    for part in &buf.more {
        sum = checksum::add_at(sum, part.bytes(), odd);
        odd ^= part.len() % 2 == 1;
    }
    sum
}

/// A packet's bytes in one piece.
pub(crate) fn flatten(buf: &NetBuf) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(total_len(buf));
    bytes.extend_from_slice(buf.bytes());
    for part in &buf.more {
        bytes.extend_from_slice(part.bytes());
    }
    bytes
}

/// Reads the IP header at the packet's start, cuts link padding off and moves the packet's start to the
/// transport header. `None`: malformed.
pub(crate) fn parse_ip(buf: &mut NetBuf, interface: u32) -> Option<(Meta, Option<Fragment>)> {
    match buf.bytes().first()? >> 4 {
        4 => parse_v4(buf, interface),
        6 => parse_v6(buf, interface),
        _ => None,
    }
}

fn parse_v4(buf: &mut NetBuf, interface: u32) -> Option<(Meta, Option<Fragment>)> {
    let offload = buf.offload;
    let b = buf.bytes();
    let h: &[u8; 20] = b.first_chunk()?;
    let header_len = usize::from(h[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
    if header_len < 20 || total < header_len {
        return None;
    }
    if checksum::fold(checksum::add(0, b.get(..header_len)?)) != 0xffff {
        return None;
    }
    let meta = Meta {
        interface,
        src: Ip::from_v4_bytes([h[12], h[13], h[14], h[15]]),
        dst: Ip::from_v4_bytes([h[16], h[17], h[18], h[19]]),
        protocol: h[9],
        ttl: h[8],
        tos: h[1],
        valid: offload.checksum_valid || offload.checksum.is_some(),
        header_len: header_len as u16,
    };
    let flags = u16::from_be_bytes([h[6], h[7]]);
    let fragment = (flags & 0x3fff != 0).then(|| Fragment {
        id: u32::from(u16::from_be_bytes([h[4], h[5]])),
        offset: u32::from(flags & 0x1fff) * 8,
        more: flags & 0x2000 != 0,
    });
    let have = total_len(buf);
    if have != total {
        if have < total {
            return None;
        }
        truncate(buf, total);
    }
    buf.pull_front(header_len);
    Some((meta, fragment))
}

fn parse_v6(buf: &mut NetBuf, interface: u32) -> Option<(Meta, Option<Fragment>)> {
    let offload = buf.offload;
    let h: &[u8; 40] = buf.bytes().first_chunk()?;
    let (src, dst) = (Ip::from_v6_bytes(*h[8..].first_chunk()?), Ip::from_v6_bytes(*h[24..].first_chunk()?));
    if src.is_v4() || dst.is_v4() || src.is_multicast() {
        return None; // mapped addresses never travel (RFC 4942, 2.2)
    }
    let total = 40 + usize::from(u16::from_be_bytes([h[4], h[5]]));
    let (mut next, ttl) = (h[6], h[7]);
    let tos = h[0] << 4 | h[1] >> 4;
    let have = total_len(buf);
    if have != total {
        if have < total {
            return None;
        }
        truncate(buf, total);
    }
    let b = buf.bytes();
    let mut at = 40;
    let mut fragment = None;
    for _ in 0..8 {
        match next {
            // Hop-by-hop, routing, destination options: the length is in units of 8 bytes beyond the first.
            0 | 43 | 60 => {
                let e: &[u8; 2] = b.get(at..)?.first_chunk()?;
                if next == 43 && *b.get(at + 3)? != 0 {
                    return None; // source routing with segments left is not for an end host
                }
                next = e[0];
                at += 8 + usize::from(e[1]) * 8;
            }
            44 => {
                let e: &[u8; 8] = b.get(at..)?.first_chunk()?;
                let offset = u16::from_be_bytes([e[2], e[3]]);
                next = e[0];
                at += 8;
                if offset & 0xfff9 != 0 {
                    fragment = Some(Fragment {
                        id: u32::from_be_bytes([e[4], e[5], e[6], e[7]]),
                        offset: u32::from(offset & 0xfff8),
                        more: offset & 1 != 0,
                    });
                    break; // what follows belongs to the whole packet
                }
            }
            _ => break,
        }
    }
    if at > b.len() {
        return None;
    }
    let meta = Meta {
        interface,
        src,
        dst,
        protocol: next,
        ttl,
        tos,
        valid: offload.checksum_valid || offload.checksum.is_some(),
        header_len: at as u16,
    };
    buf.pull_front(at);
    Some((meta, fragment))
}

/// Writes an IPv4 header without options at the front of `to` (20 bytes). Returns false if there is no room.
pub(crate) fn write_v4(to: &mut [u8], src: Ip, dst: Ip, protocol: u8, payload: usize, how: Ipv4How) -> bool {
    let Some(h) = to.first_chunk_mut::<20>() else {
        return false;
    };
    h[0] = 0x45;
    h[1] = how.tos;
    h[2..4].copy_from_slice(&((20 + payload) as u16).to_be_bytes());
    h[4..6].copy_from_slice(&how.id.to_be_bytes());
    h[6..8].copy_from_slice(&how.flags.to_be_bytes());
    h[8] = how.ttl;
    h[9] = protocol;
    h[10..12].fill(0);
    h[12..16].copy_from_slice(&src.v4_bytes());
    h[16..20].copy_from_slice(&dst.v4_bytes());
    let sum = checksum::finish(checksum::add(0, h));
    h[10..12].copy_from_slice(&sum);
    true
}

/// The rarer fields of an IPv4 header.
#[derive(Clone, Copy)]
pub(crate) struct Ipv4How {
    pub ttl: u8,
    pub tos: u8,
    pub id: u16,
    /// Flags and fragment offset as on the wire; 0x4000 is "don't fragment".
    pub flags: u16,
}

/// Writes an IPv6 header at the front of `to` (40 bytes). Returns false if there is no room.
pub(crate) fn write_v6(to: &mut [u8], src: Ip, dst: Ip, protocol: u8, payload: usize, ttl: u8, tos: u8) -> bool {
    let Some(h) = to.first_chunk_mut::<40>() else {
        return false;
    };
    h[0] = 0x60 | tos >> 4;
    h[1] = tos << 4;
    h[2..4].fill(0);
    h[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
    h[6] = protocol;
    h[7] = ttl;
    h[8..24].copy_from_slice(&src.v6_bytes());
    h[24..40].copy_from_slice(&dst.v6_bytes());
    true
}
