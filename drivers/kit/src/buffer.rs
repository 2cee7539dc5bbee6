//! Buffers that a network device fills: heap memory, not cleared, that becomes a packet without being copied.

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::boxed::Box;
use core::ptr::NonNull;

use hal_core::PhysAddr;
use hal_core::device::NetBuf;
use hal_core::memory::phys_of;

/// Room before a copied frame: what a reply in place may add.
const COPY_HEADROOM: usize = 32;

/// Heap memory that the device may be writing to.
pub struct Buffer {
    memory: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its memory.
unsafe impl Send for Buffer {}

#[expect(clippy::len_without_is_empty, reason = "none is empty")]
impl Buffer {
    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len, 1).ok()
    }

    /// A buffer of `len` bytes, more than 0, not cleared; `None` when memory is out.
    pub fn new(len: usize) -> Option<Self> {
        assert!(len > 0, "a buffer has a size");
        // SAFETY: the length is above zero.
        let memory = NonNull::new(unsafe { alloc(Self::layout(len)?) })?;
        Some(Self { memory, len })
    }

    /// Its length.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where the device finds byte `offset`.
    #[inline]
    pub fn phys(&self, offset: usize) -> PhysAddr {
        assert!(offset < self.len, "inside the buffer");
        phys_of(self.memory.as_ptr().wrapping_add(offset))
    }

    /// The memory as bytes: after the device is done with it.
    #[inline]
    pub fn into_bytes(self) -> Box<[u8]> {
        let (memory, len) = (self.memory.as_ptr(), self.len);
        core::mem::forget(self);
        // SAFETY: the assembly stands for the device, which may have written every byte; what it did not write
        // is whatever was in memory, but a value. The pointer and its length are those of a global allocation
        // with alignment 1, which is what a box of bytes is.
        unsafe {
            core::arch::asm!("/* {} */", in(reg) memory, options(nostack, preserves_flags));
            Box::from_raw(core::ptr::slice_from_raw_parts_mut(memory, len))
        }
    }

    /// The `len` bytes at `offset`, after the device is done with them.
    #[inline]
    pub fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset + len <= self.len, "inside the buffer");
        // SAFETY: inside, checked; the assembly stands for the device, which may have written every byte.
        unsafe {
            core::arch::asm!("/* {} */", in(reg) self.memory.as_ptr(), options(nostack, preserves_flags));
            core::slice::from_raw_parts(self.memory.as_ptr().add(offset), len)
        }
    }

    /// The `N` bytes at `offset`, likewise.
    #[inline]
    pub fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(offset, N));
        array
    }

    /// A copy of the `len` bytes at `offset`, as a packet; `None` when memory is out.
    #[inline]
    pub fn copy(&self, offset: usize, len: usize) -> Option<NetBuf> {
        let copy = Self::new(COPY_HEADROOM + len)?;
        let from = self.bytes(offset, len).as_ptr();
        // SAFETY: `copy` has that many bytes behind its headroom, and is another object.
        unsafe { core::ptr::copy_nonoverlapping(from, copy.memory.as_ptr().add(COPY_HEADROOM), len) };
        Some(NetBuf::from_box(copy.into_bytes(), COPY_HEADROOM, len))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len) {
            // SAFETY: allocated with this layout, and still owned.
            unsafe { dealloc(self.memory.as_ptr(), layout) };
        }
    }
}
