//! Frames that are not this domain's memory (the grant table), mapped in the second half of the kernel's area. Never unmapped.

use alloc::alloc::{Layout, alloc_zeroed};

use hal_core::mmu::Pte;
use hal_core::{Error, Mmu, PhysAddr, Result, VirtAddr, memory};
use hal_x86::paging::{AREA_BASE, AREA_HALF, pte};
use spin::Mutex;

use super::direct;
use super::mmu::PvMmu;

static NEXT: Mutex<u64> = Mutex::new(AREA_BASE + AREA_HALF);

/// Follows or makes a lower table, from the kernel's heap.
fn descend(table: PhysAddr, index: usize) -> Result<PhysAddr> {
    // SAFETY: tables of the kernel's area, which are never freed; the lock of `NEXT` is held.
    unsafe {
        let entry = PvMmu.read(table, index);
        if entry.is_present() {
            return Ok(PvMmu.decode(entry, 2).0);
        }
        let layout = Layout::from_size_align(4096, 4096).map_err(|_| Error::Invalid)?;
        let frame = alloc_zeroed(layout);
        if frame.is_null() {
            return Err(Error::Exhausted);
        }
        let lower = memory::phys_of(frame);
        PvMmu.write(table, index, &[PvMmu.table(lower)]);
        Ok(lower)
    }
}

/// Maps machine frame `machine` for reading and writing.
///
/// # Safety
/// The frame is one that Xen gives this domain access to, and means what the caller takes it for.
pub unsafe fn map(machine: u64) -> Result<VirtAddr> {
    let mut next = NEXT.lock();
    let at = *next;
    let mut table = PhysAddr(direct::root() * 4096);
    for level in [4, 3, 2] {
        table = descend(table, (at >> (12 + 9 * (level - 1))) as usize & 511)?;
    }
    // SAFETY: a fresh entry; by the caller for the frame.
    unsafe { PvMmu.write(table, (at >> 12) as usize & 511, &[Pte(machine << 12 | direct::LEAF | pte::WRITE)]) };
    *next += 4096;
    Ok(VirtAddr(at))
}
