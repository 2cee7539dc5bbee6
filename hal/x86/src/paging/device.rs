//! Device registers, mapped uncached in the second half of the kernel's area. Never unmapped.

use alloc::alloc::{Layout, alloc_zeroed};
use alloc::vec::Vec;

use hal_core::{Error, PhysAddr, Result, VirtAddr, memory};
use spin::Mutex;

use super::{AREA_BASE, AREA_HALF, KERNEL_ROOT, pte};

struct Mappings {
    next: u64,
    /// First frame, bytes, virtual address.
    known: Vec<(u64, u64, u64)>,
}

static MAPPINGS: Mutex<Mappings> = Mutex::new(Mappings { next: AREA_BASE + AREA_HALF, known: Vec::new() });

/// Follows or makes a lower table, from the kernel's heap.
fn descend(table: u64, index: u64) -> Result<u64> {
    let entry = memory::direct::<u64>(PhysAddr(table + (index & 511) * 8));
    // SAFETY: tables of the kernel's area are in the direct map, and the lock of `MAPPINGS` is held.
    unsafe {
        if *entry & pte::PRESENT == 0 {
            let layout = Layout::from_size_align(4096, 4096).map_err(|_| Error::Invalid)?;
            let frame = alloc_zeroed(layout);
            if frame.is_null() {
                return Err(Error::Exhausted);
            }
            entry.write_volatile(memory::phys_of(frame).0 | pte::TABLE);
        }
        Ok(*entry & pte::ADDRESS)
    }
}

/// Maps `len` bytes of registers at `start`; the same range gives the same address again.
pub fn map(start: PhysAddr, len: u64) -> Result<VirtAddr> {
    let offset = start.0 & 0xfff;
    let frame = start.0 - offset;
    let bytes = (offset + len).div_ceil(4096) * 4096;
    let mut mappings = MAPPINGS.lock();
    let known = mappings.known.iter().find(|&&(first, known, _)| first <= frame && frame + bytes <= first + known);
    if let Some(&(first, _, address)) = known {
        return Ok(VirtAddr(address + (frame - first) + offset));
    }
    let address = mappings.next;
    if address + bytes > AREA_BASE + 2 * AREA_HALF {
        return Err(Error::Exhausted);
    }
    let root = crate::boot::phys_of_static(KERNEL_ROOT.as_mut_ptr());
    for at in (0..bytes).step_by(4096) {
        let page = address + at;
        let pdpt = descend(root, page >> 39)?;
        let pd = descend(pdpt, page >> 30)?;
        let pt = descend(pd, page >> 21)?;
        let entry = memory::direct::<u64>(PhysAddr(pt + (page >> 12 & 511) * 8));
        // SAFETY: a fresh entry of a table that `descend` gave; nothing used this address before.
        unsafe {
            entry.write_volatile(
                (frame + at)
                    | pte::PRESENT
                    | pte::WRITE
                    | pte::ACCESSED
                    | pte::DIRTY
                    | pte::UNCACHED
                    | pte::GLOBAL
                    | pte::NO_EXECUTE,
            )
        };
    }
    // An unmapped page between two devices catches accesses past the end.
    mappings.next = address + bytes + 4096;
    mappings.known.push((frame, bytes, address));
    Ok(VirtAddr(address + offset))
}
