//! The direct map: opened on demand in 2 MiB pages, so that boot does nothing for memory that nobody uses.
//!
//! Its tables come from a pool: a few static frames first, then one frame per GiB of memory, set aside (not touched)
//! right behind the image. Thus opening a range never allocates.

use hal_core::{Error, PhysAddr, Result};
use spin::Mutex;

use super::{Frame, KERNEL_ROOT, pte};

const HUGE: u64 = 2 << 20;

static FIRST_PDPT: Frame = Frame::new();
static FIRST_TABLES: [Frame; 6] = [const { Frame::new() }; 6];

struct Pool {
    next: u64,
    end: u64,
    /// Taken when the first is used up: next and end.
    second: (u64, u64),
    /// No new root entries: address spaces may have copied them.
    sealed: bool,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { next: 0, end: 0, second: (0, 0), sealed: false });

impl Pool {
    /// A zeroed frame's physical address; `window` is where physical memory is seen now.
    fn take(&mut self, window: u64) -> Result<u64> {
        if self.next == self.end {
            (self.next, self.end) = core::mem::take(&mut self.second);
        }
        if self.next == self.end {
            return Err(Error::Exhausted);
        }
        let frame = self.next;
        self.next += 4096;
        // SAFETY: the pool's frames are mapped in the window and belong to it.
        unsafe { core::ptr::write_bytes((window + frame) as *mut u8, 0, 4096) };
        Ok(frame)
    }

    /// Follows entry `index` of the table at `table`, making the lower table if there is none.
    fn descend(&mut self, window: u64, table: u64, index: u64) -> Result<u64> {
        let entry = (window + table + (index & 511) * 8) as *mut u64;
        // SAFETY: a table of the direct map, in the window; the lock is held.
        unsafe {
            if *entry & pte::PRESENT == 0 {
                let frame = self.take(window)?;
                entry.write_volatile(frame | pte::TABLE);
            }
            Ok(*entry & pte::ADDRESS)
        }
    }

    fn map(&mut self, window: u64, root: u64, base: u64, start: u64, len: u64) -> Result<()> {
        let mut at = start & !(HUGE - 1);
        while at < start + len {
            let address = base + at;
            let slot = (window + root + (address >> 39 & 511) * 8) as *const u64;
            // SAFETY: the root is in the window.
            if self.sealed && unsafe { *slot } & pte::PRESENT == 0 {
                return Err(Error::Invalid);
            }
            let pdpt = self.descend(window, root, address >> 39)?;
            let pd = self.descend(window, pdpt, address >> 30)?;
            let entry = (window + pd + (address >> 21 & 511) * 8) as *mut u64;
            // SAFETY: as in `descend`. The entry was not present or stays the same, so no flush is needed.
            unsafe {
                entry.write_volatile(
                    at | pte::PRESENT
                        | pte::WRITE
                        | pte::ACCESSED
                        | pte::DIRTY
                        | pte::HUGE
                        | pte::GLOBAL
                        | pte::NO_EXECUTE,
                )
            };
            at += HUGE;
        }
        Ok(())
    }
}

/// Begins the direct map at `base` with the image; identity-mapped code only.
///
/// # Safety
/// The kernel's root and the static tables are unused, and seen at their physical addresses.
pub unsafe fn early_direct(base: u64, image: u64, len: u64) {
    let mut pool = POOL.lock();
    pool.next = FIRST_TABLES[0].address();
    pool.end = pool.next + 4096 * FIRST_TABLES.len() as u64;
    // SAFETY: nothing else uses the root.
    unsafe { (*KERNEL_ROOT.as_mut_ptr())[(base >> 39 & 511) as usize] = FIRST_PDPT.address() | pte::TABLE };
    // The static pool is large enough for two GiB borders; the result cannot be shown anywhere yet.
    let _ = pool.map(0, KERNEL_ROOT.address(), base, image, len);
}

/// Makes `len` bytes from `start` accessible in the direct map.
pub fn map_direct(start: PhysAddr, len: u64) -> Result<()> {
    let base = hal_core::memory::direct_base();
    let root = crate::boot::phys_of_static(KERNEL_ROOT.as_mut_ptr());
    POOL.lock().map(base, root, base, start.0, len)
}

/// Gives the pool the frames from `start` to `end`, which are in the direct map already or are mapped by this.
pub fn add_pool(start: u64, end: u64) -> Result<()> {
    map_direct(PhysAddr(start), end - start)?;
    POOL.lock().second = (start, end);
    Ok(())
}

/// Makes the root entries for memory up to `end`; afterwards the root never changes.
pub fn prepare_roots(end: u64) -> Result<()> {
    let base = hal_core::memory::direct_base();
    let root = crate::boot::phys_of_static(KERNEL_ROOT.as_mut_ptr());
    let mut pool = POOL.lock();
    for slot in 0..end.div_ceil(1 << 39).max(1) {
        pool.descend(base, root, (base >> 39) + slot)?;
    }
    pool.sealed = true;
    Ok(())
}
