//! When a 2 MiB page is used, and where its block comes from.
//!
//! Zeroing 2 MiB for a program that touches little of it costs more than the faults it saves. So a huge page comes
//! only in a region that has shown that it is used densely (the neighbouring 2 MiB was touched up to its edge) or that was
//! marked by `MADV_HUGEPAGE`, and only while there is plenty of memory.

use core::ops::Range;

use base::Once;
use hal_core::memory::direct;
use hal_core::mmu::Pte;
use hal_core::{PAGE_SIZE, PhysAddr, VirtAddr};

use super::frame;
use super::table::{self, ENTRIES, HUGE_ORDER, HUGE_SIZE, mmu};
use super::vma::{Prot, Vma, VmaFlags};

/// A smaller region gets no huge page by itself.
const SMALLEST: usize = 4 << 20;
/// Free memory below which no huge page is used, in pages (128 MiB).
pub(super) const PLENTY: usize = (128 << 20) / PAGE_SIZE;

/// A zeroed block for a huge page, if memory is plentiful.
pub(super) fn alloc() -> Option<PhysAddr> {
    if frame::approximate_free() < PLENTY {
        return None;
    }
    let block = frame::alloc(HUGE_ORDER)?;
    // SAFETY: just allocated, 512 frames.
    unsafe { frame::zero(direct(block), ENTRIES) };
    Some(block)
}

/// True if the first touch of `page` should bring a huge page; its level-2 entry, in `level2`, is empty.
pub(super) fn wanted(vma: &Vma, range: &Range<usize>, page: usize, level2: PhysAddr) -> bool {
    let base = page & !(HUGE_SIZE - 1);
    if base < range.start || base + HUGE_SIZE > range.end || (range.len() < SMALLEST && !forced(vma)) {
        return false;
    }
    static SUPPORTED: Once<bool> = Once::new();
    if !vma.is_anonymous()
        || !vma.is_private()
        || !vma.prot.contains(Prot::WRITE)
        || vma.flags.contains(VmaFlags::NOHUGE)
        || !*SUPPORTED.call_once(|| mmu().has_huge(2))
    {
        return false;
    }
    if forced(vma) {
        return true;
    }
    let slot = table::index(VirtAddr(base as u64), 2);
    // The neighbours within the same level-2 table; at its edge there is none to ask, which only delays.
    (base >= range.start + HUGE_SIZE && slot > 0 && is_dense(level2, slot - 1, ENTRIES - 1))
        || (base + 2 * HUGE_SIZE <= range.end && slot < ENTRIES - 1 && is_dense(level2, slot + 1, 0))
}

fn forced(vma: &Vma) -> bool {
    vma.flags.contains(VmaFlags::HUGE)
}

/// True if the 2 MiB of that entry are a huge page, or were touched at `edge`.
fn is_dense(level2: PhysAddr, slot: usize, edge: usize) -> bool {
    // SAFETY: a live table; leaf tables are freed only with the layout locked for writing, and the caller has it for reading.
    unsafe {
        let entry = table::read(level2, slot);
        entry.is_present()
            && (table::is_huge(entry)
                || table::next(level2, slot, 2).is_some_and(|leaf| table::read(leaf, edge) != Pte::EMPTY))
    }
}
