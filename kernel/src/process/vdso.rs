//! The vDSO's pages: the clock's page, then the shared object that `build.rs` made of `vdso/vdso.rs`.
//!
//! The object is copied to frames once; every process maps the same ones.

use alloc::sync::Arc;
use alloc::vec::Vec;

use base::frame::FRAME_SIZE;
use base::{Errno, Frame, Once, PageSource, Result};

static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vdso.so"));

/// The pages: 0 is the clock's data, the rest the code.
pub struct Vdso {
    pages: Vec<Frame>,
}

impl Vdso {
    fn new() -> Result<Self> {
        let clock = hal_core::memory::image_phys_of(&raw const hal_core::clock::PARAMS);
        // SAFETY: the static is page-aligned, part of the kernel's image, and so reserved for ever.
        let clock = unsafe { crate::mm::frame::of_reserved(clock) }.ok_or(Errno::ENOMEM)?;
        let mut pages = Vec::new();
        pages.push(clock);
        for piece in IMAGE.chunks(FRAME_SIZE) {
            let frame = Frame::zeroed()?;
            frame.write(0, piece);
            pages.push(frame);
        }
        Ok(Self { pages })
    }

    /// Bytes of the clock's data, mapped read-only before the code.
    pub const DATA_LEN: usize = FRAME_SIZE;

    /// Bytes of the code, mapped read-only and executable.
    pub fn code_len() -> usize {
        IMAGE.len().next_multiple_of(FRAME_SIZE)
    }
}

impl PageSource for Vdso {
    fn page(&self, index: u64) -> Result<Frame> {
        usize::try_from(index).ok().and_then(|index| self.pages.get(index)).cloned().ok_or(Errno::ENXIO)
    }

    fn page_if_cached(&self, index: u64) -> Option<Frame> {
        self.page(index).ok()
    }

    fn mark_dirty(&self, _index: u64) {}

    fn identity(&self) -> (u64, u64) {
        (0, 0)
    }
}

/// The pages to map, made at the first call; `None` where that failed (the programs then use system calls).
pub fn source() -> Option<Arc<Vdso>> {
    static VDSO: Once<Option<Arc<Vdso>>> = Once::new();
    VDSO.call_once(|| Vdso::new().map(Arc::new).inspect_err(|error| log::warn!("no vDSO: {error}")).ok()).clone()
}
