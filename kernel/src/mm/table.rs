//! Page tables: walking them, and making the tables in between.

use base::SpinLock;
use hal_core::memory::direct;
use hal_core::mmu::Pte;
use hal_core::{PhysAddr, VirtAddr, platform};

use super::frame::{self, Purpose};

/// Index into the table of `level` (1 leaf, 4 root) for an address.
#[inline]
pub const fn index(at: VirtAddr, level: u8) -> usize {
    (at.0 >> (12 + 9 * (level as u32 - 1))) as usize & 511
}

/// Reads an entry.
///
/// # Safety
/// `table` is a page table.
#[inline]
pub unsafe fn read(table: PhysAddr, index: usize) -> Pte {
    // SAFETY: every table lies in the direct map, readable on every platform; the CPU may change accessed
    // and dirty bits at any time, so the read is volatile.
    unsafe { direct::<Pte>(table).add(index).read_volatile() }
}

/// The table that the entry points to, if there is one.
///
/// # Safety
/// `table` is a page table of `level`, above 1.
#[inline]
pub unsafe fn next(table: PhysAddr, index: usize, level: u8) -> Option<PhysAddr> {
    // SAFETY: by the caller.
    let entry = unsafe { read(table, index) };
    entry.is_present().then(|| platform().mmu().decode(entry, level).0)
}

/// A new empty table for `level`.
pub fn new_table(level: u8, purpose: Purpose) -> Option<PhysAddr> {
    let table = frame::alloc_for(0, purpose)?;
    // SAFETY: the frame is ours alone, and becomes a table before it is linked.
    unsafe {
        frame::zero(direct(table), 1);
        if platform().mmu().adopt_table(table, level).is_err() {
            frame::put(table);
            return None;
        }
    }
    Some(table)
}

/// Frees a table.
///
/// # Safety
/// It is linked nowhere and no CPU uses it.
pub unsafe fn free_table(table: PhysAddr, level: u8) {
    // SAFETY: by the caller.
    unsafe {
        platform().mmu().retire_table(table, level);
        frame::put(table);
    }
}

static KERNEL_TABLES: SpinLock<()> = SpinLock::new(());

/// The leaf table for an address of the kernel area, made if need be. `None` if memory is out.
pub fn ensure_kernel(at: VirtAddr) -> Option<PhysAddr> {
    let _guard = KERNEL_TABLES.lock();
    let mmu = platform().mmu();
    let mut table = mmu.kernel_root();
    for level in [4, 3, 2] {
        // SAFETY: tables of the kernel half, which are never freed; the lock makes this the only writer in
        // the kernel area.
        table = unsafe {
            match next(table, index(at, level), level) {
                Some(next) => next,
                None => {
                    let new = new_table(level - 1, Purpose::Kernel)?;
                    mmu.write(table, index(at, level), &[mmu.table(new)]);
                    new
                }
            }
        };
    }
    Some(table)
}
