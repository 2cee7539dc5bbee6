//! Sending: packets are copied into pages that stay granted, so that a buffer is free again at once and the backend never sees memory
//! beside it. The backend's answers are looked at when the ring gets full.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use hal_core::PAGE_SIZE;
use hal_core::device::NetBuf;

use super::abi::{
    EXTRA_GSO, Extra, GSO_TCPV4, GSO_TCPV6, TX_CHECKSUM_BLANK, TX_EXTRA, TX_MORE, TX_VALID, TxRequest, TxResponse,
};
use crate::pages::{Page, Pool};
use crate::ring::FrontRing;

/// Status of a slot that was no request.
const NO_RESPONSE: i16 = 1;
/// Longest packet: the field of its size has 16 bits.
const LONGEST: usize = 0xffff;

/// What the backend does for packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    pub checksum: bool,
    /// Packets of several parts.
    pub scatter: bool,
    pub tso4: bool,
    pub tso6: bool,
}

/// The sending half of a queue.
pub(super) struct Tx {
    pub ring: FrontRing,
    /// The page of each request that the backend has, by id.
    sent: Vec<Option<Page>>,
    free: Vec<u16>,
    abilities: Abilities,
}

impl Tx {
    /// Over a fresh ring.
    pub fn new(ring: FrontRing, abilities: Abilities) -> Self {
        let size = ring.size() as u16;
        let mut sent = Vec::new();
        sent.resize_with(usize::from(size), || None);
        Self { ring, sent, free: (0..size).rev().collect(), abilities }
    }

    /// Takes pages back that were sent.
    pub fn reap(&mut self, pool: &mut Pool) {
        while let Some(response) = self.ring.take::<TxResponse>() {
            // The slot of an extra part is answered by "no response", and has no id.
            if response.status == NO_RESPONSE {
                continue;
            }
            match self.sent.get_mut(usize::from(response.id)).and_then(Option::take) {
                Some(page) => {
                    self.free.push(response.id);
                    pool.put(page);
                }
                None => return self.ring.fail("the backend has sent what it was not given"),
            }
        }
    }

    /// Queues from the front of `packets` what fits; true if the backend is to be notified.
    pub fn send(&mut self, pool: &mut Pool, packets: &mut VecDeque<NetBuf>) -> bool {
        if self.ring.in_flight() > self.ring.size() / 2 {
            self.reap(pool);
        }
        while let Some(packet) = packets.front() {
            let len = packet.len() + packet.more.iter().map(NetBuf::len).sum::<usize>();
            if !self.allowed(packet, len) {
                // It asks for more than the device said it can: the stack's mistake.
                packets.pop_front();
                continue;
            }
            let pages = len.div_ceil(PAGE_SIZE);
            let slots = pages as u32 + u32::from(packet.offload.segment.is_some());
            if !self.has_room(pool, pages, slots) {
                break;
            }
            if let Some(packet) = packets.pop_front() {
                self.add(pool, &packet, len);
            }
        }
        self.ring.publish()
    }

    #[inline]
    fn allowed(&self, packet: &NetBuf, len: usize) -> bool {
        let able = self.abilities;
        let segments = packet.offload.segment.is_none_or(|s| if s.ipv6 { able.tso6 } else { able.tso4 });
        let parts = if able.scatter { LONGEST } else { PAGE_SIZE };
        (1..=parts).contains(&len) && segments && (packet.offload.checksum.is_none() || able.checksum)
    }

    #[inline]
    fn has_room(&mut self, pool: &mut Pool, pages: usize, slots: u32) -> bool {
        (self.ring.free() >= slots && self.free.len() >= pages && pool.reserve(pages))
            || self.make_room(pool, pages, slots)
    }

    /// The ring is full: takes back what was sent, else asks for an event when a part of it was. True if there is room.
    #[cold]
    fn make_room(&mut self, pool: &mut Pool, pages: usize, slots: u32) -> bool {
        loop {
            self.reap(pool);
            if self.ring.free() >= slots && self.free.len() >= pages && pool.reserve(pages) {
                return true;
            }
            // What is not shown yet will be, by the caller.
            let wanted = (self.ring.in_flight() * 3 / 4).max(slots.saturating_sub(self.ring.free()));
            if self.ring.broken().is_some() || !self.ring.ask_event(wanted.saturating_sub(1)) {
                return false;
            }
        }
    }

    /// Puts a packet of `len` bytes, for which there is room, on the ring.
    fn add(&mut self, pool: &mut Pool, packet: &NetBuf, len: usize) {
        let mut parts = core::iter::once(packet).chain(&packet.more).map(NetBuf::bytes).filter(|p| !p.is_empty());
        let mut part: &[u8] = parts.next().unwrap_or_default();
        let mut left = len;
        while left > 0 {
            let (Ok(page), Some(id)) = (pool.take(), self.free.pop()) else { return };
            let size = left.min(PAGE_SIZE);
            let mut filled = 0;
            while filled < size {
                let count = part.len().min(size - filled);
                // SAFETY: `part` has at least `count` bytes.
                unsafe { page.fill(filled, part.as_ptr(), count) };
                (filled, part) = (filled + count, &part[count..]);
                if part.is_empty() {
                    part = parts.next().unwrap_or_default();
                    if part.is_empty() {
                        break;
                    }
                }
            }
            let first = left == len;
            left -= size;
            let mut flags = if left > 0 { TX_MORE } else { 0 };
            if first && packet.offload.checksum.is_some() {
                flags |= TX_CHECKSUM_BLANK | TX_VALID;
            }
            let segment = packet.offload.segment.filter(|_| first);
            if segment.is_some() {
                flags |= TX_EXTRA;
            }
            let told = if first { len } else { size } as u16;
            self.ring.put(TxRequest { reference: page.reference, offset: 0, flags, id, size: told });
            self.sent[usize::from(id)] = Some(page);
            if let Some(segment) = segment {
                let gso = if segment.ipv6 { GSO_TCPV6 } else { GSO_TCPV4 };
                self.ring.put(Extra { kind: EXTRA_GSO, flags: 0, size: segment.size, gso, pad: 0, features: 0 });
            }
        }
    }

    /// Ends it: gives the pages back.
    pub fn into_parts(self) -> (FrontRing, impl Iterator<Item = Page>) {
        (self.ring, self.sent.into_iter().flatten())
    }
}
