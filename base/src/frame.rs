//! A handle to one reference-counted 4 KiB page frame.
//!
//! The page cache, tmpfs and anonymous memory hold these. The application may have the same frame
//! mapped and write to it at any time, so the contents are only copied in and out, never borrowed.

use core::ptr::NonNull;

use crate::errno::{Errno, Result};
use crate::hooks;

/// Bytes in a frame.
pub const FRAME_SIZE: usize = 4096;

/// One reference to a frame; the last one to drop frees it.
#[derive(Debug)]
pub struct Frame(NonNull<u8>);

// SAFETY: the frame is only accessed by copies through raw pointers, and its count is atomic.
unsafe impl Send for Frame {}
// SAFETY: as above.
unsafe impl Sync for Frame {}

impl Frame {
    /// A new frame of zeroes. `ENOMEM` when memory is out.
    pub fn zeroed() -> Result<Self> {
        // SAFETY: the hook has no precondition.
        NonNull::new(unsafe { hooks::__coracle_frame_alloc() }).map(Self).ok_or(Errno::ENOMEM)
    }

    /// Takes over one reference that the caller holds.
    ///
    /// # Safety
    /// `address` is the direct-map address of an allocated frame, and the caller gives up one reference.
    pub unsafe fn from_raw(address: NonNull<u8>) -> Self {
        Self(address)
    }

    /// Gives the reference to the caller, as the frame's direct-map address.
    pub fn into_raw(self) -> NonNull<u8> {
        let address = self.0;
        core::mem::forget(self);
        address
    }

    /// The frame's address in the direct map.
    #[inline]
    pub fn address(&self) -> NonNull<u8> {
        self.0
    }

    /// How many references there are now.
    pub fn references(&self) -> u32 {
        // SAFETY: `self` holds a reference, so the frame is alive.
        unsafe { hooks::__coracle_frame_refs(self.0.as_ptr()) }
    }

    /// Copies out from `offset`; returns the bytes copied, which stop at the frame's end.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> usize {
        let n = to.len().min(FRAME_SIZE.saturating_sub(offset));
        // SAFETY: `offset + n` is within the frame; `to` is a separate object. A concurrent writer can
        // only make the bytes mixed, as with any shared mapping.
        unsafe { core::ptr::copy_nonoverlapping(self.0.as_ptr().add(offset.min(FRAME_SIZE)), to.as_mut_ptr(), n) };
        n
    }

    /// Copies in at `offset`; returns the bytes copied, which stop at the frame's end.
    pub fn write(&self, offset: usize, from: &[u8]) -> usize {
        let n = from.len().min(FRAME_SIZE.saturating_sub(offset));
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), self.0.as_ptr().add(offset.min(FRAME_SIZE)), n) };
        n
    }

    /// Zeroes `range`, cut to the frame.
    pub fn zero(&self, range: core::ops::Range<usize>) {
        let end = range.end.min(FRAME_SIZE);
        if range.start < end {
            // SAFETY: the range is within the frame.
            unsafe { core::ptr::write_bytes(self.0.as_ptr().add(range.start), 0, end - range.start) };
        }
    }

    /// A new frame with the same contents.
    pub fn duplicate(&self) -> Result<Self> {
        let copy = Self::zeroed()?;
        // SAFETY: both are whole frames, and different ones.
        unsafe { core::ptr::copy_nonoverlapping(self.0.as_ptr(), copy.0.as_ptr(), FRAME_SIZE) };
        Ok(copy)
    }
}

/// Something whose pages can be mapped: a file's page cache, shared memory.
///
/// `read`, `write` and `mmap` of a file all use these same frames.
pub trait PageSource: Send + Sync {
    /// The frame of page `index`, read in if need be (may sleep). `ENXIO` beyond the end (the program gets
    /// SIGBUS), `EIO` if the medium failed.
    fn page(&self, index: u64) -> Result<Frame>;
    /// The frame of page `index` if it is there already. Must not sleep. A page fault asks this first, and for
    /// the neighbours of the page that it needs.
    fn page_if_cached(&self, _index: u64) -> Option<Frame> {
        None
    }
    /// A shared mapping may have written to page `index`. Called again when that mapping is synchronised or
    /// ends. A cache must keep a page while [`Frame::references`] says that it is mapped.
    fn mark_dirty(&self, index: u64);
    /// Writes the pages of this range that were marked dirty to the medium and waits (`msync` with `MS_SYNC`).
    fn write_back(&self, _pages: core::ops::Range<u64>) -> Result<()> {
        Ok(())
    }
    /// Identity for `/proc/PID/maps` and for shared futexes: device and inode number.
    fn identity(&self) -> (u64, u64);
}

impl Clone for Frame {
    #[inline]
    fn clone(&self) -> Self {
        // SAFETY: `self` holds a reference, so the frame is alive.
        unsafe { hooks::__coracle_frame_get(self.0.as_ptr()) };
        Self(self.0)
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this handle's reference ends here.
        unsafe { hooks::__coracle_frame_put(self.0.as_ptr()) };
    }
}
