//! Sending: the header goes into the packet's own headroom, so that a packet is one descriptor. Sent packets are
//! freed when the next ones are sent; the device interrupts only after the ring was full.

use alloc::collections::VecDeque;

use hal_core::device::NetBuf;
use hal_core::memory::phys_of;

use super::header::{self, LONG, SHORT};
use crate::ring::{Piece, Ring};
use driver_kit::DmaArea;

/// Bytes per header for packets that have no room for their own.
const HEADER_STRIDE: usize = 16;
/// Packets of more pieces are copied together.
const MAX_PIECES: usize = 64;

/// The sending half of a queue pair.
pub(crate) struct Tx {
    pub ring: Ring<NetBuf>,
    headers: DmaArea,
    header_len: usize,
    /// The header and the packet may share a descriptor.
    any_layout: bool,
    checksum: bool,
    tso4: bool,
    tso6: bool,
}

impl Tx {
    /// A sender with this ring and these abilities of the device.
    pub fn new(
        mut ring: Ring<NetBuf>,
        header_len: usize,
        any_layout: bool,
        checksum: bool,
        tso: (bool, bool),
    ) -> hal_core::Result<Self> {
        ring.disable_interrupts();
        Ok(Self {
            headers: DmaArea::new(HEADER_STRIDE * usize::from(ring.size()))?,
            ring,
            header_len,
            any_layout,
            checksum,
            tso4: tso.0,
            tso6: tso.1,
        })
    }

    /// Frees what was sent.
    #[inline]
    pub fn reap(&mut self) {
        while self.ring.pop().is_some() {}
        self.ring.disable_interrupts();
    }

    /// Queues from the front of `packets` what fits; true if the device is to be notified.
    pub fn send(&mut self, packets: &mut VecDeque<NetBuf>) -> bool {
        // Freeing late is cheap, but the packets of a long pause shall not stay: the ring half full is the time.
        if self.ring.in_flight() > self.ring.size() / 2 {
            self.reap();
        }
        while let Some(packet) = packets.pop_front() {
            if !self.allowed(&packet) {
                continue;
            }
            let packet = if packet.more.len() + 2 > self.most_pieces() { joined(packet) } else { packet };
            let pieces = 2 + packet.more.len();
            if !self.ring.has_room(pieces) && !self.make_room(pieces) {
                packets.push_front(packet);
                break;
            }
            self.add(packet);
        }
        self.ring.publish()
    }

    fn most_pieces(&self) -> usize {
        MAX_PIECES.min(usize::from(self.ring.size()) / 2)
    }

    /// Asks only for what the device can do; a packet that asks for more is the stack's mistake and is dropped.
    #[inline]
    fn allowed(&self, packet: &NetBuf) -> bool {
        let segment = packet.offload.segment;
        let tso = segment.is_none_or(|s| if s.ipv6 { self.tso6 } else { self.tso4 });
        tso && (packet.offload.checksum.is_none() || self.checksum) && !packet.is_empty()
    }

    /// The ring is full: frees what was sent, else asks for an interrupt. True if there is room now.
    #[cold]
    fn make_room(&mut self, pieces: usize) -> bool {
        loop {
            self.reap();
            if self.ring.has_room(pieces) {
                return true;
            }
            // What is queued here but not with the device yet is published by the caller.
            let wanted = self.ring.in_flight() - self.ring.in_flight() / 4;
            if !self.ring.enable_interrupts_after(wanted) {
                return false;
            }
        }
    }

    /// Puts a packet, for which there is room, on the ring.
    #[inline]
    fn add(&mut self, mut packet: NetBuf) {
        let header = header::encode(&packet.offload);
        let own = self.any_layout && put_header(&mut packet, &header, self.header_len);
        if own && packet.more.is_empty() {
            // SAFETY: the token owns the memory that the piece names; it is freed after the pop.
            drop(unsafe { self.ring.add_one(&piece(&packet), packet) });
            return;
        }
        let mut pieces = [piece(&packet); MAX_PIECES];
        let mut count = 0;
        if !own {
            let place = HEADER_STRIDE * usize::from(self.ring.next_head());
            self.headers.write(place, &header[..self.header_len]);
            pieces[0] = Piece { address: self.headers.phys(place), len: self.header_len as u32, writable: false };
            count = 1;
        }
        for part in core::iter::once(&packet).chain(&packet.more) {
            if !part.is_empty() {
                pieces[count] = piece(part);
                count += 1;
            }
        }
        // SAFETY: as above; and the header's place belongs to this request until it is popped.
        drop(unsafe { self.ring.add(&pieces[..count], packet) });
    }
}

/// Puts the header before the packet's first byte; false if there is no room.
#[inline]
fn put_header(packet: &mut NetBuf, header: &[u8; LONG], header_len: usize) -> bool {
    // The two lengths apart, so that each is a few moves and no call.
    match packet.push_front(header_len) {
        Some(room) if header_len == LONG => room.copy_from_slice(header),
        Some(room) => room.copy_from_slice(&header[..SHORT]),
        None => return false,
    }
    true
}

#[inline]
fn piece(packet: &NetBuf) -> Piece {
    let bytes = packet.bytes();
    Piece { address: phys_of(bytes.as_ptr()), len: bytes.len() as u32, writable: false }
}

/// The packet in one buffer.
#[cold]
fn joined(packet: NetBuf) -> NetBuf {
    let total = packet.len() + packet.more.iter().map(NetBuf::len).sum::<usize>();
    let mut whole = NetBuf::new(total);
    whole.set_len(total);
    whole.offload = packet.offload;
    let mut at = 0;
    for part in core::iter::once(&packet).chain(&packet.more) {
        whole.bytes_mut()[at..at + part.len()].copy_from_slice(part.bytes());
        at += part.len();
    }
    whole
}
