//! Memory that the device reads or writes: page-aligned areas that are never freed while a device may know them.

use alloc::alloc::{Layout, alloc_zeroed};
use core::ptr::NonNull;

use hal_core::memory::phys_of;
use hal_core::{Error, PAGE_SIZE, PhysAddr, Result};

/// A zeroed, page-aligned, physically contiguous area. It lives for ever: a device is brought up once and is
/// never removed, and after a failed start the loss of a few pages is better than a device that
/// writes to memory that has a new owner.
pub struct DmaArea {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the area is only reached through raw pointers by whoever has the lock of the structure around it.
unsafe impl Send for DmaArea {}
// SAFETY: as above.
unsafe impl Sync for DmaArea {}

impl DmaArea {
    /// An area of at least `len` bytes.
    pub fn new(len: usize) -> Result<Self> {
        let layout =
            Layout::from_size_align(len.max(1).next_multiple_of(PAGE_SIZE), PAGE_SIZE).map_err(|_| Error::Invalid)?;
        // SAFETY: the layout has a size above zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Error::Exhausted)?;
        Ok(Self { start, len: layout.size() })
    }

    /// A pointer to the `T` at byte `offset`. Panics if it is not inside: offsets are the driver's own numbers.
    #[inline]
    pub fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.len, "inside the area");
        // SAFETY: inside the allocation, checked above.
        unsafe { self.start.as_ptr().add(offset).cast() }
    }

    /// What the device must be told to reach byte `offset`.
    #[inline]
    pub fn phys(&self, offset: usize) -> PhysAddr {
        phys_of(self.at::<u8>(offset))
    }

    /// Copies `value` to byte `offset`.
    #[inline]
    pub fn put<T: Copy>(&self, offset: usize, value: T) {
        // SAFETY: `at` checked the place; the device may read it while we write, as with any DMA memory,
        // and then sees a mixture, which only it suffers from.
        unsafe { self.at::<T>(offset).write_unaligned(value) };
    }

    /// Reads the byte at `offset`, which the device may have written.
    #[inline]
    pub fn byte(&self, offset: usize) -> u8 {
        // SAFETY: inside the area, and every byte is a value.
        unsafe { self.at::<u8>(offset).read_volatile() }
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len, "inside the area");
        // SAFETY: checked above; `bytes` is a separate object.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(offset), bytes.len()) };
    }

    /// Copies bytes out.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        assert!(offset + to.len() <= self.len, "inside the area");
        // SAFETY: checked above; `to` is a separate object.
        unsafe { core::ptr::copy_nonoverlapping(self.start.as_ptr().add(offset), to.as_mut_ptr(), to.len()) };
    }
}

// The fake device of the tests can be unplugged; then nobody knows its areas any more.
#[cfg(feature = "host")]
impl Drop for DmaArea {
    fn drop(&mut self) {
        crate::host::retire(self.start.as_ptr(), Layout::from_size_align(self.len, PAGE_SIZE).expect("as in `new`"));
    }
}
