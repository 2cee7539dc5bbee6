//! Anonymous shared memory: what `MAP_SHARED | MAP_ANONYMOUS` maps.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use base::{Errno, Frame, PageSource, Result, SpinLock};

/// Pages that appear when they are first touched.
pub struct SharedMemory {
    pages: SpinLock<BTreeMap<u64, Frame>>,
    len: u64,
    id: u64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl SharedMemory {
    /// `pages` pages of zeroes.
    pub fn create(pages: usize) -> Result<Arc<dyn PageSource>> {
        Ok(Arc::new(Self {
            pages: SpinLock::new(BTreeMap::new()),
            len: pages as u64,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        }))
    }
}

impl PageSource for SharedMemory {
    fn page(&self, index: u64) -> Result<Frame> {
        if index >= self.len {
            return Err(Errno::ENXIO);
        }
        if let Some(frame) = self.page_if_cached(index) {
            return Ok(frame);
        }
        let fresh = Frame::zeroed()?;
        Ok(self.pages.lock().entry(index).or_insert(fresh).clone())
    }

    fn page_if_cached(&self, index: u64) -> Option<Frame> {
        self.pages.lock().get(&index).cloned()
    }

    fn mark_dirty(&self, _index: u64) {}

    fn identity(&self) -> (u64, u64) {
        // Device 1 is Linux's internal shared-memory mount, too.
        (1, self.id)
    }
}
