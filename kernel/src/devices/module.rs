//! A boot module as a root image: its frames are handed out in place, without copying.

use base::{Errno, Frame, Result};
use fs::erofs::Image;
use hal_core::PhysAddr;
use hal_core::memory::phys_of;

use crate::mm::frame;

const PAGE: u64 = hal_core::PAGE_SIZE as u64;

/// The memory of a module, which is mapped and stays reserved for ever.
pub struct ModuleImage {
    start: PhysAddr,
    len: u64,
}

impl ModuleImage {
    /// Of a module's bytes in the direct map; `None` if they do not start at a page.
    pub fn new(bytes: &'static [u8]) -> Option<Self> {
        let start = phys_of(bytes.as_ptr());
        start.0.is_multiple_of(PAGE).then_some(Self { start, len: bytes.len() as u64 })
    }
}

impl Image for ModuleImage {
    fn len(&self) -> u64 {
        self.len
    }

    fn pages(&self, first: u64, count: u64, put: &mut dyn FnMut(u64, Frame)) -> Result<()> {
        let end = self.len.div_ceil(PAGE).min(first.saturating_add(count.max(1)));
        if first >= end {
            return Err(Errno::EIO);
        }
        for index in first..end {
            let at = PhysAddr(self.start.0 + index * PAGE);
            // SAFETY: the module's memory is reserved from the start, for ever, and nothing else uses it.
            let frame = unsafe { frame::of_reserved(at) }.ok_or(Errno::ENOMEM)?;
            // Beyond the image's end the loader may have left anything.
            let left = self.len - index * PAGE;
            if left < PAGE {
                frame.zero(left as usize..PAGE as usize);
            }
            put(index, frame);
        }
        Ok(())
    }

    fn in_place(&self) -> bool {
        true
    }
}
