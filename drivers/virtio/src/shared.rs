//! The memory of a split virtqueue, shared with the device: raw access, nothing decided (virtio 1.2, sections 2.7.5 to
//! 2.7.8). Every index is masked to the ring's size, so no access leaves the area whatever is passed.

use core::sync::atomic::{AtomicU16, Ordering};

use hal_core::{PAGE_SIZE, Result};

use crate::ring::RingAddresses;
use driver_kit::DmaArea;

/// An entry of a descriptor table.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub(crate) struct Descriptor {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// The chain's next descriptor.
    pub next: u16,
}

/// The chain goes on at `next`.
pub(crate) const NEXT: u16 = 1;
/// The device writes.
pub(crate) const WRITE: u16 = 2;
/// It points to a table of descriptors.
pub(crate) const INDIRECT: u16 = 4;

/// Descriptor table, available ring and used ring, laid out as legacy devices want it (section 2.7.2).
pub(crate) struct SharedRings {
    area: DmaArea,
    size: u16,
    descriptors: *mut Descriptor,
    available: *mut AtomicU16,
    used: *mut AtomicU16,
}

// SAFETY: the pointers lead into the area, which is `Send` and lives for ever; access is the ring's owner's.
unsafe impl Send for SharedRings {}
// SAFETY: as above.
unsafe impl Sync for SharedRings {}

impl SharedRings {
    /// Rings of `size` entries, a power of two up to 32768.
    pub fn new(size: u16) -> Result<Self> {
        let n = usize::from(size);
        let available_at = 16 * n;
        let used_at = (available_at + 6 + 2 * n).next_multiple_of(PAGE_SIZE);
        let area = DmaArea::new(used_at + 6 + 8 * n)?;
        Ok(Self { size, descriptors: area.at(0), available: area.at(available_at), used: area.at(used_at), area })
    }

    /// Number of entries.
    #[inline]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// For the device.
    pub fn addresses(&self) -> RingAddresses {
        RingAddresses {
            size: self.size,
            descriptors: self.area.phys(0),
            available: hal_core::memory::phys_of(self.available),
            used: hal_core::memory::phys_of(self.used),
        }
    }

    #[inline]
    fn masked(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Writes a descriptor.
    #[inline]
    pub fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        // SAFETY: masked, so inside the table; the device may read it at any time, which is its affair.
        unsafe { self.descriptors.add(self.masked(index)).write_volatile(descriptor) };
    }

    /// A word of the available ring: flags, index, entries, used event.
    #[inline]
    fn available(&self, word: usize) -> &AtomicU16 {
        debug_assert!(word < 3 + usize::from(self.size));
        // SAFETY: callers pass 0, 1, 2 + a masked index, or 2 + size: all inside, aligned, and only accessed
        // atomically.
        unsafe { &*self.available.add(word) }
    }

    /// A word of the used ring: flags, index, entries of four words, available event.
    #[inline]
    fn used(&self, word: usize) -> &AtomicU16 {
        debug_assert!(word < 3 + 4 * usize::from(self.size));
        // SAFETY: as in `available`, with entries of four words.
        unsafe { &*self.used.add(word) }
    }

    /// Puts a chain's head into an entry of the available ring.
    #[inline]
    pub fn set_available(&self, entry: u16, head: u16) {
        self.available(2 + self.masked(entry)).store(head, Ordering::Relaxed);
    }

    /// Shows the available ring up to `index`, and what was written before.
    #[inline]
    pub fn show_available(&self, index: u16) {
        self.available(1).store(index, Ordering::Release);
    }

    /// The driver's flags: 1 is "no interrupt".
    #[inline]
    pub fn set_flags(&self, flags: u16) {
        self.available(0).store(flags, Ordering::Relaxed);
    }

    /// The used index at which the driver wants an interrupt.
    #[inline]
    pub fn set_used_event(&self, index: u16) {
        self.available(2 + usize::from(self.size)).store(index, Ordering::Relaxed);
    }

    /// How far the used ring goes; what the device wrote before is seen after this.
    #[inline]
    pub fn used_index(&self) -> u16 {
        self.used(1).load(Ordering::Acquire)
    }

    /// Id and length in an entry of the used ring.
    #[inline]
    pub fn used_element(&self, entry: u16) -> (u32, u32) {
        let element = self.used(2 + 4 * self.masked(entry)).as_ptr().cast::<u32>();
        // SAFETY: masked, so inside; aligned to 4; every value is one.
        unsafe { (element.read_volatile(), element.add(1).read_volatile()) }
    }

    /// The device's flags: 1 is "no doorbell".
    #[inline]
    pub fn device_flags(&self) -> u16 {
        self.used(0).load(Ordering::Relaxed)
    }

    /// The available index at which the device wants a doorbell.
    #[inline]
    pub fn available_event(&self) -> u16 {
        self.used(2 + 4 * usize::from(self.size)).load(Ordering::Relaxed)
    }
}
