//! The headers of a packet that the device shall cut: what it must find in them, and where it finds them.

use hal_core::device::{NetBuf, Segment};

use crate::registers::{TX_DEXT, TX_IPV4, TX_TCP, TX_TSE};
use crate::tx::Context;

const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const IP_LENGTH: usize = 2;
const IP_CHECKSUM: usize = 10;

/// Prepares an IPv4 packet for segmentation: the device sums each segment's length into the pseudo-header's sum
/// itself, and makes length and checksum of the IP header (8254x manual, section 3.5.4). `None` if this is no such packet.
pub(crate) fn segmentation(packet: &mut NetBuf, checksum: (u16, u16), cut: Segment) -> Option<Context> {
    let total = packet.len() + packet.more.iter().map(NetBuf::len).sum::<usize>();
    let (start, field) = (usize::from(checksum.0), usize::from(checksum.0) + usize::from(checksum.1));
    let headers = usize::from(cut.header_len);
    let bytes = packet.bytes_mut();
    let fits = cut.size > 0
        && headers <= usize::from(u8::MAX)
        && start >= ETHERNET + 20
        && field + 2 <= headers
        && headers <= bytes.len()
        && total - headers < 1 << 20;
    if !fits || bytes[12..14] != ETHERTYPE_IPV4 {
        return None;
    }
    let sum =
        u32::from(u16::from_be_bytes([bytes[field], bytes[field + 1]])) + u32::from(!fold((total - start) as u32));
    bytes[field..field + 2].copy_from_slice(&fold(sum).to_be_bytes());
    bytes[ETHERNET + IP_LENGTH..][..2].fill(0);
    bytes[ETHERNET + IP_CHECKSUM..][..2].fill(0);
    Some(Context {
        ip: ETHERNET as u32 | ((ETHERNET + IP_CHECKSUM) as u32) << 8 | (start as u32 - 1) << 16,
        transport: start as u32 | (field as u32) << 8,
        command: (total - headers) as u32 | TX_TCP | TX_IPV4 | TX_TSE | TX_DEXT,
        cut: (headers as u32) << 8 | u32::from(cut.size) << 16,
    })
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
