//! The split virtqueue (virtio 1.2, section 2.7): descriptors, available ring, used ring.
//!
//! Everything that matters for safety is kept in the driver's own memory (`slots`, `next`); what the device writes
//! is checked against it, and the first lie makes the ring broken for good: nothing more is
//! popped, and the owner fails its device. Locking is the owner's.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use hal_core::memory::phys_of;
use hal_core::{Error, PAGE_SIZE, PhysAddr, Result};

use crate::dma::DmaArea;

/// A piece of memory of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Its first byte.
    pub address: PhysAddr,
    /// Its bytes.
    pub len: u32,
    /// The device writes to it, else it reads from it. Pieces that it writes come last.
    pub writable: bool,
}

/// Where the parts of a ring are, for the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingAddresses {
    /// Number of descriptors.
    pub size: u16,
    /// Descriptor table; for a legacy device the ring's first page, from which the rest follows.
    pub descriptors: PhysAddr,
    /// Available ring.
    pub available: PhysAddr,
    /// Used ring.
    pub used: PhysAddr,
}

/// What was agreed on for a ring.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RingOptions {
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
    /// Legacy devices are known to report wrong lengths (section 2.7.8.2): cut them instead of refusing.
    pub lenient: bool,
}

#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// More pieces than this in a request always go to an indirect table if there can be one.
const DIRECT_PIECES: usize = 2;

struct Slot<T> {
    /// What was given with the request that starts at this descriptor; `None` if none does.
    token: Option<T>,
    /// Bytes that the device may write.
    writable: u32,
    /// Descriptors in the ring.
    count: u16,
    /// Kept for the next request.
    table: Box<[Descriptor]>,
}

/// One virtqueue; `T` owns, or stands for, the memory of a request.
pub(crate) struct Ring<T> {
    memory: DmaArea,
    mask: u16,
    available_at: usize,
    used_at: usize,
    slots: Box<[Slot<T>]>,
    /// Links of the free list and of the chains in flight.
    next: Box<[u16]>,
    free_head: u16,
    free: u16,
    in_flight: u16,
    /// Index of the next entry of the available ring; not yet shown to the device beyond `shown`.
    available: u16,
    shown: u16,
    /// Next entry of the used ring, and how far the device is known to be.
    used: u16,
    used_seen: u16,
    options: RingOptions,
    broken: Option<&'static str>,
}

impl<T> Ring<T> {
    /// A ring of `size` descriptors, a power of two up to 32768.
    pub fn new(size: u16, options: RingOptions) -> Result<Self> {
        if !size.is_power_of_two() {
            return Err(Error::Device("a queue's size is not a power of two"));
        }
        let n = usize::from(size);
        let available_at = 16 * n;
        let used_at = (available_at + 6 + 2 * n).next_multiple_of(PAGE_SIZE);
        let memory = DmaArea::new(used_at + 6 + 8 * n)?;
        let slots = (0..n).map(|_| Slot { token: None, writable: 0, count: 0, table: Box::default() }).collect();
        Ok(Self {
            memory,
            mask: size - 1,
            available_at,
            used_at,
            slots,
            next: (1..=size).collect(),
            free_head: 0,
            free: size,
            in_flight: 0,
            available: 0,
            shown: 0,
            used: 0,
            used_seen: 0,
            options,
            broken: None,
        })
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.mask + 1
    }

    /// For [`crate::transport::Transport::start_queue`].
    pub fn addresses(&self) -> RingAddresses {
        RingAddresses {
            size: self.size(),
            descriptors: self.memory.phys(0),
            available: self.memory.phys(self.available_at),
            used: self.memory.phys(self.used_at),
        }
    }

    /// Requests that the device has.
    #[inline]
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// True if a request of so many pieces can be added now.
    #[inline]
    pub fn has_room(&self, pieces: usize) -> bool {
        self.descriptors_for(pieces) <= usize::from(self.free)
    }

    #[inline]
    fn descriptors_for(&self, pieces: usize) -> usize {
        if self.options.indirect && pieces > DIRECT_PIECES { 1 } else { pieces }
    }

    /// The number (below `size`) under which the next request goes: no request in flight has it.
    #[inline]
    pub fn next_head(&self) -> u16 {
        self.free_head
    }

    /// Why the ring is broken.
    #[inline]
    pub fn broken(&self) -> Option<&'static str> {
        self.broken
    }

    /// Adds a request; the device sees it after [`Ring::publish`]. Gives the token back if there is no room.
    ///
    /// # Safety
    /// The memory of `pieces` stays valid, and what the device writes is not otherwise used, until the token
    /// comes out of [`Ring::pop`], or out of [`Ring::drain`] after a reset of the device.
    #[inline]
    pub unsafe fn add(&mut self, pieces: &[Piece], token: T) -> core::result::Result<(), T> {
        if pieces.is_empty() || !self.has_room(pieces.len()) || self.broken.is_some() {
            return Err(token);
        }
        let head = self.free_head;
        let count = match pieces {
            [one] => {
                self.write_descriptor(head, one, 0);
                self.free_head = self.next[usize::from(head)];
                1
            }
            _ if self.options.indirect && pieces.len() > DIRECT_PIECES => {
                self.write_table(head, pieces);
                self.free_head = self.next[usize::from(head)];
                1
            }
            _ => {
                let mut index = head;
                for (i, piece) in pieces.iter().enumerate() {
                    let more = if i + 1 < pieces.len() { NEXT } else { 0 };
                    self.write_descriptor(index, piece, more);
                    index = self.next[usize::from(index)];
                }
                self.free_head = index;
                pieces.len() as u16
            }
        };
        self.free -= count;
        let slot = &mut self.slots[usize::from(head)];
        slot.token = Some(token);
        slot.count = count;
        slot.writable = pieces.iter().filter(|p| p.writable).fold(0, |sum: u32, p| sum.saturating_add(p.len));
        let entry = self.available_at + 4 + 2 * usize::from(self.available & self.mask);
        // SAFETY: an entry of the available ring that the device has consumed (at most `size` chains are in flight).
        unsafe { self.memory.at::<u16>(entry).write_volatile(head) };
        self.available = self.available.wrapping_add(1);
        self.in_flight += 1;
        Ok(())
    }

    #[inline]
    fn write_descriptor(&mut self, index: u16, piece: &Piece, more: u16) {
        let descriptor = Descriptor {
            address: piece.address.0,
            len: piece.len,
            flags: more | if piece.writable { WRITE } else { 0 },
            next: self.next[usize::from(index)],
        };
        // SAFETY: `index` comes from the free list, so the device does not have this descriptor.
        unsafe { self.memory.at::<Descriptor>(16 * usize::from(index)).write_volatile(descriptor) };
    }

    fn write_table(&mut self, head: u16, pieces: &[Piece]) {
        let slot = &mut self.slots[usize::from(head)];
        if slot.table.len() < pieces.len() {
            let empty = Descriptor { address: 0, len: 0, flags: 0, next: 0 };
            // Capacities of 8, 16, ...: requests of one kind differ little.
            slot.table = alloc::vec![empty; pieces.len().next_power_of_two().max(8)].into_boxed_slice();
        }
        for (i, piece) in pieces.iter().enumerate() {
            let more = if i + 1 < pieces.len() { NEXT } else { 0 };
            slot.table[i] = Descriptor {
                address: piece.address.0,
                len: piece.len,
                flags: more | if piece.writable { WRITE } else { 0 },
                next: i as u16 + 1,
            };
        }
        let descriptor = Descriptor {
            address: phys_of(slot.table.as_ptr()).0,
            len: (pieces.len() * size_of::<Descriptor>()) as u32,
            flags: INDIRECT,
            next: 0,
        };
        // SAFETY: as in `write_descriptor`.
        unsafe { self.memory.at::<Descriptor>(16 * usize::from(head)).write_volatile(descriptor) };
    }

    #[inline]
    fn atomic(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: inside the area, aligned to 2 (all offsets used are even), and only accessed
        // atomically, by us and by the device.
        unsafe { &*self.memory.at::<AtomicU16>(offset) }
    }

    fn used_event(&self) -> &AtomicU16 {
        self.atomic(self.available_at + 4 + 2 * usize::from(self.size()))
    }

    /// Shows the added requests to the device; true if it wants to be notified of them.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.shown == self.available {
            return false;
        }
        self.atomic(self.available_at + 2).store(self.available, Ordering::Release);
        // The device first sets its wish and then looks for requests; we the other way round.
        fence(Ordering::SeqCst);
        let old = core::mem::replace(&mut self.shown, self.available);
        if self.options.event_idx {
            let event = self.atomic(self.used_at + 4 + 8 * usize::from(self.size())).load(Ordering::Relaxed);
            crossed(event, self.available, old)
        } else {
            self.atomic(self.used_at).load(Ordering::Relaxed) & NO_NOTIFY == 0
        }
    }

    /// Takes the next request that the device is done with, and how many bytes it wrote. `None` if there is none
    /// now, or if the ring is broken.
    #[inline]
    pub fn pop(&mut self) -> Option<(T, u32)> {
        if self.used == self.used_seen && !self.look() {
            return None;
        }
        let element = self.used_at + 4 + 8 * usize::from(self.used & self.mask);
        // SAFETY: elements of the used ring; reading them is harmless whatever the device does.
        let (id, len) = unsafe {
            (self.memory.at::<u32>(element).read_volatile(), self.memory.at::<u32>(element + 4).read_volatile())
        };
        let size = u32::from(self.size());
        let Some(slot) = self.slots.get_mut(id as usize).filter(|_| id < size) else {
            return self.fail("a used id is out of range");
        };
        let Some(token) = slot.token.take() else {
            return self.fail("a used id is not in flight");
        };
        // A request without a writable byte has no length to lie about: devices put anything there.
        let written = len.min(slot.writable);
        if len > written && slot.writable != 0 && !self.options.lenient {
            // The memory was the device's; it stays so until the reset.
            slot.token = Some(token);
            return self.fail("a used length is greater than the buffer");
        }
        let head = id as u16;
        let mut tail = head;
        for _ in 1..slot.count {
            tail = self.next[usize::from(tail)];
        }
        self.free += slot.count;
        self.next[usize::from(tail)] = self.free_head;
        self.free_head = head;
        self.in_flight -= 1;
        self.used = self.used.wrapping_add(1);
        Some((token, written))
    }

    #[cold]
    fn fail(&mut self, why: &'static str) -> Option<(T, u32)> {
        self.broken = Some(why);
        self.used_seen = self.used;
        None
    }

    /// Looks how far the device is; true if there is something to pop.
    #[inline]
    fn look(&mut self) -> bool {
        let index = self.atomic(self.used_at + 2).load(Ordering::Acquire);
        if index == self.used || self.broken.is_some() {
            return false;
        }
        if index.wrapping_sub(self.used) > self.in_flight {
            self.fail("the used index jumped");
            return false;
        }
        self.used_seen = index;
        true
    }

    /// Asks the device not to interrupt for this ring. A hint.
    #[inline]
    pub fn disable_interrupts(&mut self) {
        if self.options.event_idx {
            // An index that the device has passed already: it comes round only after 65536 requests.
            self.used_event().store(self.used.wrapping_sub(1), Ordering::Relaxed);
        } else {
            self.atomic(self.available_at).store(NO_INTERRUPT, Ordering::Relaxed);
        }
    }

    /// Asks for an interrupt after the next used request; true if some came in the meantime, so that the
    /// caller must pop again.
    #[inline]
    pub fn enable_interrupts(&mut self) -> bool {
        self.enable_interrupts_after(1)
    }

    /// Asks for an interrupt once `n` more requests are used (without event indices: the next one); true
    /// if they are already.
    #[inline]
    pub fn enable_interrupts_after(&mut self, n: u16) -> bool {
        let n = n.max(1);
        if self.options.event_idx {
            self.used_event().store(self.used.wrapping_add(n - 1), Ordering::Relaxed);
        } else {
            self.atomic(self.available_at).store(0, Ordering::Relaxed);
        }
        // The device first publishes, then looks at our wish; we the other way round.
        fence(Ordering::SeqCst);
        let index = self.atomic(self.used_at + 2).load(Ordering::Acquire);
        let wanted = if self.options.event_idx { n } else { 1 };
        self.broken.is_none() && index.wrapping_sub(self.used) >= wanted
    }

    /// Every token that the device still has, after it was reset: the ring is broken from now on.
    pub fn drain(&mut self, why: &'static str) -> Vec<T> {
        self.broken.get_or_insert(why);
        self.used_seen = self.used;
        self.slots.iter_mut().filter_map(|s| s.token.take()).collect()
    }
}

// The fake device of the tests is known to be done when its driver goes.
#[cfg(not(any(test, feature = "fake")))]
impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // The device may still know the requests: their memory must not get a new owner.
        for slot in &mut self.slots {
            if let Some(token) = slot.token.take() {
                core::mem::forget(token);
                core::mem::forget(core::mem::take(&mut slot.table));
            }
        }
    }
}

/// True if going from `old` to `new` passed `event` (section 2.7.7.2).
#[inline]
fn crossed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
