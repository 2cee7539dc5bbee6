//! Sending: a packet is a descriptor or more, of which the first gets its generation last, so that the device sees them all
//! at once. Sent packets are freed when the next ones are sent; the interrupt is on only while the ring is full.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use driver_kit::DmaArea;
use hal_core::device::NetBuf;
use hal_core::memory::phys_of;
use hal_core::{PhysAddr, Result};

use super::abi::*;
use super::completions::Completions;

/// Descriptors; a multiple of 32. One stays free.
pub(crate) const RING: u16 = 512;

/// The sender of a queue.
pub(crate) struct Tx {
    area: DmaArea,
    pub completions: Completions,
    /// Packets with the device, each at its last descriptor.
    slots: Box<[Option<NetBuf>]>,
    /// Oldest descriptor with the device, and how many there are.
    next: u16,
    used: u16,
    /// Where the next one goes, and the generation there.
    fill: u16,
    generation: bool,
    /// Packets added since the device was told.
    added: u32,
    broken: Option<&'static str>,
}

impl Tx {
    /// An empty ring.
    pub fn new() -> Result<Self> {
        Ok(Self {
            area: DmaArea::new(usize::from(RING) * DESCRIPTOR)?,
            completions: Completions::new(RING)?,
            slots: (0..RING).map(|_| None).collect(),
            next: 0,
            used: 0,
            fill: 0,
            generation: true,
            added: 0,
            broken: None,
        })
    }

    /// Where the ring is.
    pub fn phys(&self) -> PhysAddr {
        self.area.phys(0)
    }

    /// Where the next descriptor goes, for the device.
    pub fn producer(&self) -> u32 {
        u32::from(self.fill)
    }

    /// Why the device is not to be believed any more.
    #[inline]
    pub fn broken(&self) -> Option<&'static str> {
        self.broken
    }

    /// Frees what was sent.
    #[inline]
    pub fn reap(&mut self) {
        while self.broken.is_none()
            && let Some(words) = self.completions.pop()
        {
            let last = (words[0] & INDEX) as u16;
            let count = (last + RING).wrapping_sub(self.next) % RING + 1;
            // A completion names the last descriptor of a packet, and is for all before it, too.
            if last >= RING || count > self.used || self.slots[usize::from(last)].is_none() {
                self.broken = Some("a completion of a packet that the device does not have");
                return;
            }
            for _ in 0..count {
                self.slots[usize::from(self.next)] = None;
                self.next = (self.next + 1) % RING;
            }
            self.used -= count;
        }
    }

    /// Queues from the front of `packets` what fits. `wait` asks for an interrupt when something was sent.
    pub fn send(&mut self, packets: &mut VecDeque<NetBuf>, wait: impl Fn()) {
        // Freeing late is cheap, but the packets of a long pause shall not stay: the ring half full is the time.
        if self.used > RING / 2 {
            self.reap();
        }
        while let Some(packet) = packets.pop_front() {
            if !is_allowed(&packet) {
                continue;
            }
            let packet = if pieces(&packet) > TX_MAX_PIECES { joined(packet) } else { packet };
            let needed = pieces(&packet) as u16;
            if self.room() < needed {
                self.reap();
                if self.room() < needed {
                    wait();
                    // Something may have been sent between the look and the wish.
                    self.reap();
                }
            }
            if self.room() < needed {
                packets.push_front(packet);
                break;
            }
            self.add(packet);
        }
    }

    fn room(&self) -> u16 {
        if self.broken.is_some() { 0 } else { RING - 1 - self.used }
    }

    /// True if the device is to be told of what was added. `deferred` and `threshold` are shared with it.
    pub fn wants_kick(&mut self, deferred: &AtomicU32, threshold: &AtomicU32) -> bool {
        if self.added == 0 {
            return false;
        }
        let waiting = deferred.load(Ordering::Relaxed).wrapping_add(self.added);
        self.added = 0;
        fence(Ordering::SeqCst);
        let kick = waiting >= threshold.load(Ordering::Relaxed);
        deferred.store(if kick { 0 } else { waiting }, Ordering::Relaxed);
        kick
    }

    /// Puts a packet, for which there is room, on the ring.
    #[inline]
    fn add(&mut self, mut packet: NetBuf) {
        let Some((options, offset)) = offload(&mut packet) else {
            return;
        };
        let first = self.fill;
        let count = pieces(&packet);
        let mut first_word = 0;
        let mut done = 0;
        for part in core::iter::once(&packet).chain(&packet.more) {
            for piece in part.bytes().chunks(TX_PIECE) {
                done += 1;
                let mut word = piece.len() as u32 & (TX_PIECE as u32 - 1);
                word |= if self.generation { TX_GENERATION } else { 0 };
                let mut flags = 0;
                if done == 1 {
                    flags = options;
                    word |= offset << TX_OFFSET_SHIFT;
                    first_word = word;
                    // Not the device's yet.
                    word ^= TX_GENERATION;
                }
                if done == count {
                    flags |= TX_END | TX_COMPLETE;
                }
                let at = usize::from(self.fill) * DESCRIPTOR;
                self.area.put(at, phys_of(piece.as_ptr()).0);
                self.area.put(at + 12, flags);
                self.area.put(at + 8, word);
                self.fill += 1;
                if self.fill == RING {
                    self.fill = 0;
                    self.generation = !self.generation;
                }
            }
        }
        self.used += count as u16;
        let last = (self.fill + RING - 1) % RING;
        self.slots[usize::from(last)] = Some(packet);
        fence(Ordering::Release);
        let place = self.area.at::<u32>(usize::from(first) * DESCRIPTOR + 8);
        // SAFETY: inside the area and aligned. From here on the descriptors are the device's; the packet stays in its slot
        // until the device is done with it.
        unsafe { place.write_volatile(first_word) };
        self.added += 1;
    }

    /// As at the start: the device is not active, and what it had is lost.
    pub fn reset(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = None);
        for index in 0..usize::from(RING) {
            self.area.put(index * DESCRIPTOR + 8, 0u32);
        }
        self.completions.reset();
        (self.next, self.used, self.fill, self.generation, self.added) = (0, 0, 0, true, 0);
        self.broken = None;
    }
}

/// A packet that is nonsense is the stack's mistake, and is dropped.
#[inline]
fn is_allowed(packet: &NetBuf) -> bool {
    !packet.is_empty() && packet.offload.segment.is_none_or(|s| s.size > 0 && packet.offload.checksum.is_some())
}

/// Descriptors that a packet needs.
#[inline]
fn pieces(packet: &NetBuf) -> usize {
    core::iter::once(packet).chain(&packet.more).map(|part| part.len().div_ceil(TX_PIECE)).sum()
}

/// The options of the first descriptor: fourth word, and the offset field of the third. `None` if the headers make no sense.
#[inline]
fn offload(packet: &mut NetBuf) -> Option<(u32, u32)> {
    let Some((start, field)) = packet.offload.checksum else {
        return Some((0, 0));
    };
    let (start, field) = (u32::from(start), u32::from(start) + u32::from(field));
    let Some(segment) = packet.offload.segment else {
        return (field < TX_MAX_HEADER).then_some((TX_CHECKSUM | start, field));
    };
    let header = u32::from(segment.header_len);
    if header >= TX_MAX_HEADER || u32::from(segment.size) >= TX_PIECE as u32 {
        return None;
    }
    let total = packet.len() + packet.more.iter().map(NetBuf::len).sum::<usize>();
    // The device adds the length of each segment to the pseudo-header's sum, so the whole's length must not be in it.
    let len = u16::try_from(total.checked_sub(start as usize)?).ok()?;
    let place: &mut [u8; 2] = packet.bytes_mut().get_mut(field as usize..)?.first_chunk_mut()?;
    let sum = u32::from(u16::from_be_bytes(*place)) + u32::from(!len);
    *place = ((sum & 0xffff) as u16 + (sum >> 16) as u16).to_be_bytes();
    Some((TX_SEGMENT | header, u32::from(segment.size)))
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
