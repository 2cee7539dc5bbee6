//! The split virtqueue (virtio 1.2, section 2.7): descriptors, available ring, used ring.
//!
//! Everything that matters for safety is kept in the driver's own memory (`slots`); what the device writes
//! is checked against it, and the first lie makes the ring broken for good: nothing more is
//! popped, and the owner fails its device. Locking is the owner's.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::sync::atomic::{Ordering, compiler_fence, fence};

use hal_core::memory::phys_of;
use hal_core::{Error, PhysAddr, Result};

use crate::shared::{Descriptor, INDIRECT, NEXT, SharedRings, WRITE};

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

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// More pieces than this in a request always go to an indirect table if there can be one.
const DIRECT_PIECES: usize = 2;

/// What the driver knows about a descriptor.
struct Slot<T> {
    /// There while `count` is not 0: what was given with the request that starts here.
    token: MaybeUninit<T>,
    /// Bytes of that request that the device may write.
    writable: u32,
    /// Its descriptors in the ring; 0: no request starts here.
    count: u16,
    /// Link of the free list, or of the chain in flight.
    next: u16,
}

/// One virtqueue; `T` owns, or stands for, the memory of a request.
pub(crate) struct Ring<T> {
    shared: SharedRings,
    slots: Box<[Slot<T>]>,
    /// Per descriptor the indirect table of its last request, kept for the next.
    tables: Box<[Box<[Descriptor]>]>,
    free_head: u16,
    free: u16,
    in_flight: u16,
    /// Index of the next entry of the available ring; not yet shown to the device beyond `shown`.
    available: u16,
    shown: u16,
    /// What was shown when the device was last notified.
    kicked: u16,
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
        let slot = |i| Slot { token: MaybeUninit::uninit(), writable: 0, count: 0, next: i + 1 };
        let tables = if options.indirect { usize::from(size) } else { 0 };
        Ok(Self {
            shared: SharedRings::new(size)?,
            slots: (0..size).map(slot).collect(),
            tables: (0..tables).map(|_| Box::default()).collect(),
            free_head: 0,
            free: size,
            in_flight: 0,
            available: 0,
            shown: 0,
            kicked: 0,
            used: 0,
            used_seen: 0,
            options,
            broken: None,
        })
    }

    /// Number of descriptors.
    #[inline]
    pub fn size(&self) -> u16 {
        self.shared.size()
    }

    /// For [`crate::transport::Transport::start_queue`].
    pub fn addresses(&self) -> RingAddresses {
        self.shared.addresses()
    }

    /// Requests that the device has.
    #[inline]
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// True if a request of so many pieces can be added now.
    #[inline]
    pub fn has_room(&self, pieces: usize) -> bool {
        let needed = if self.options.indirect && pieces > DIRECT_PIECES { 1 } else { pieces };
        needed <= usize::from(self.free)
    }

    /// The number (below `size`) under which the next request goes, if there is room: no request in flight has it.
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
        if let [piece] = pieces {
            // SAFETY: by the caller.
            return unsafe { self.add_one(piece, token) };
        }
        if pieces.is_empty() || !self.has_room(pieces.len()) || self.broken.is_some() {
            return Err(token);
        }
        let head = self.free_head;
        let count = if self.options.indirect && pieces.len() > DIRECT_PIECES {
            self.write_table(head, pieces);
            self.free_head = self.slots[usize::from(head)].next;
            1
        } else {
            let mut index = head;
            for (i, piece) in pieces.iter().enumerate() {
                let next = self.slots[usize::from(index)].next;
                self.shared.set_descriptor(index, describe(piece, i + 1 < pieces.len(), next));
                index = next;
            }
            self.free_head = index;
            pieces.len() as u16
        };
        let writable = pieces.iter().filter(|p| p.writable).fold(0, |sum: u32, p| sum.saturating_add(p.len));
        self.enter(head, count, writable, token);
        Ok(())
    }

    /// As [`Ring::add`], with one piece.
    ///
    /// # Safety
    /// See there.
    #[inline]
    pub unsafe fn add_one(&mut self, piece: &Piece, token: T) -> core::result::Result<(), T> {
        let head = self.free_head;
        if self.free == 0 || self.broken.is_some() {
            return Err(token);
        }
        self.shared.set_descriptor(head, describe(piece, false, 0));
        self.free_head = self.slots[usize::from(head)].next;
        self.enter(head, 1, if piece.writable { piece.len } else { 0 }, token);
        Ok(())
    }

    /// Notes a request whose descriptors are written.
    #[inline]
    fn enter(&mut self, head: u16, count: u16, writable: u32, token: T) {
        self.free -= count;
        let slot = &mut self.slots[usize::from(head)];
        slot.token.write(token);
        slot.count = count;
        slot.writable = writable;
        self.shared.set_available(self.available, head);
        self.available = self.available.wrapping_add(1);
        self.in_flight += 1;
    }

    fn write_table(&mut self, head: u16, pieces: &[Piece]) {
        let table = &mut self.tables[usize::from(head)];
        if table.len() < pieces.len() {
            let empty = Descriptor { address: 0, len: 0, flags: 0, next: 0 };
            // Capacities of 8, 16, ...: requests of one kind differ little.
            *table = alloc::vec![empty; pieces.len().next_power_of_two().max(8)].into_boxed_slice();
        }
        for (i, (entry, piece)) in table.iter_mut().zip(pieces).enumerate() {
            *entry = describe(piece, i + 1 < pieces.len(), i as u16 + 1);
        }
        let len = (pieces.len() * size_of::<Descriptor>()) as u32;
        let address = phys_of(table.as_ptr()).0;
        self.shared.set_descriptor(head, Descriptor { address, len, flags: INDIRECT, next: 0 });
    }

    /// Shows the added requests to the device; true if it wants to be notified of them.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.shown == self.available {
            return false;
        }
        self.shared.show_available(self.available);
        // The device first sets its wish and then looks for requests; we the other way round.
        device_barrier();
        self.shown = self.available;
        self.wants_kick()
    }

    /// True if the device sleeps and does not know of all that was shown to it; it is notified then. A notification that
    /// was lost is made up for by the next one.
    #[inline]
    fn wants_kick(&mut self) -> bool {
        let kick = if self.options.event_idx {
            // Where it sleeps is behind what it was last notified of, and behind what it is done with.
            let unknown = self.shown.wrapping_sub(self.kicked).min(self.in_flight);
            let event = self.shared.available_event();
            self.shown.wrapping_sub(event).wrapping_sub(1) < unknown
        } else {
            self.shared.device_flags() & NO_NOTIFY == 0
        };
        if kick {
            self.kicked = self.shown;
        }
        kick
    }

    /// Takes the next request that the device is done with, and how many bytes it wrote. `None` if there is none
    /// now, or if the ring is broken.
    #[inline]
    pub fn pop(&mut self) -> Option<(T, u32)> {
        if self.used == self.used_seen && !self.look() {
            return None;
        }
        let (id, len) = self.shared.used_element(self.used);
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return self.fail("a used id is out of range");
        };
        let count = slot.count;
        if count == 0 {
            return self.fail("a used id is not in flight");
        }
        let mut written = len;
        if written > slot.writable {
            // A request without a writable byte has no length to lie about: devices put anything there. Else the
            // memory was the device's, and stays so until the reset.
            if slot.writable != 0 && !self.options.lenient {
                return self.fail("a used length is greater than the buffer");
            }
            written = slot.writable;
        }
        // SAFETY: `count` was not 0, so `enter` has written the token; now it is 0, so this is the only reading.
        let token = unsafe { slot.token.assume_init_read() };
        slot.count = 0;
        let head = id as u16;
        self.free += count;
        if count == 1 {
            slot.next = self.free_head;
        } else {
            self.free_chain(head, count);
        }
        self.free_head = head;
        self.in_flight -= 1;
        self.used = self.used.wrapping_add(1);
        Some((token, written))
    }

    /// Links the end of a chain that comes back to the free list.
    fn free_chain(&mut self, head: u16, count: u16) {
        let mut tail = head;
        for _ in 1..count {
            tail = self.slots[usize::from(tail)].next;
        }
        self.slots[usize::from(tail)].next = self.free_head;
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
        let index = self.shared.used_index();
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
            self.shared.set_used_event(self.used.wrapping_sub(1));
        } else {
            self.shared.set_flags(NO_INTERRUPT);
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
            self.shared.set_used_event(self.used.wrapping_add(n - 1));
        } else {
            self.shared.set_flags(0);
        }
        // The device first publishes, then looks at our wish; we the other way round.
        device_barrier();
        let index = self.shared.used_index();
        let wanted = if self.options.event_idx { n } else { 1 };
        self.broken.is_none() && index.wrapping_sub(self.used) >= wanted
    }

    /// Every token that the device still has, after it was reset: the ring is broken from now on.
    pub fn drain(&mut self, why: &'static str) -> Vec<T> {
        self.broken.get_or_insert(why);
        self.used_seen = self.used;
        let in_flight = self.slots.iter_mut().filter(|slot| slot.count != 0);
        in_flight
            .map(|slot| {
                slot.count = 0;
                // SAFETY: as in `pop`.
                unsafe { slot.token.assume_init_read() }
            })
            .collect()
    }
}

/// A full barrier towards the device, which runs on another CPU of the host: what was written before is seen before
/// anything is read after.
///
/// QEMU before 8.1 leaves the guest's barriers out when it emulates one CPU, though its devices run in another thread; then
/// a notification is lost now and then, and the queue stands still for ever. Reading the time stamp counter takes a lock
/// there, which is a barrier of the host; elsewhere it costs some 20 cycles.
#[inline]
fn device_barrier() {
    fence(Ordering::SeqCst);
    core::hint::black_box(hal_core::clock::tsc());
    compiler_fence(Ordering::SeqCst);
}

/// A piece as a descriptor.
#[inline]
fn describe(piece: &Piece, more: bool, next: u16) -> Descriptor {
    let flags = if more { NEXT } else { 0 } | if piece.writable { WRITE } else { 0 };
    Descriptor { address: piece.address.0, len: piece.len, flags, next }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // The device may still know the requests: their memory must not get a new owner. So tokens are forgotten (by
        // themselves), and tables. The fake device of the tests is known to be done when its driver goes.
        if cfg!(any(test, feature = "fake")) {
            drop(self.drain("the driver is gone"));
        } else {
            core::mem::forget(core::mem::take(&mut self.tables));
        }
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
