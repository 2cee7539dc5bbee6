//! Page tables: reading entries, walking, making and splitting tables.
//!
//! What entries look like is in `entry`.

use base::SpinLock;
use hal_core::memory::direct;
use hal_core::mmu::{Mmu, Pte, PteFlags};
use hal_core::{PAGE_SIZE, PhysAddr, VirtAddr};

pub use super::entry::{CACHED, address, decode, held, hold, is_huge, leaf, mmu, without_write};
use super::frame::{self, Purpose};
use super::space::{AddressSpace, USER_ROOT_ENTRIES};

/// Bytes under one entry of the level-2 table: a leaf table, or one huge page.
pub const HUGE_SIZE: usize = 2 << 20;
/// Order of a huge page's block.
pub const HUGE_ORDER: u8 = 9;
/// Entries in a table.
pub const ENTRIES: usize = 512;

/// Index into the table of `level` (1 leaf, 4 root) for an address.
#[inline]
pub const fn index(at: VirtAddr, level: u8) -> usize {
    (at.0 >> (12 + 9 * (level as u32 - 1))) as usize & (ENTRIES - 1)
}

/// Bytes under one entry of a table of `level`.
#[inline]
pub const fn span(level: u8) -> usize {
    PAGE_SIZE << (9 * (level as u32 - 1))
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

/// Writes the entries that are not empty, each run of neighbours at once: on some platforms each write is a call out of the
/// kernel.
///
/// # Safety
/// As [`Mmu::write`].
pub unsafe fn write_runs(table: PhysAddr, index: usize, entries: &[Pte]) {
    let mut next = 0;
    while next < entries.len() {
        let len = entries[next..].iter().take_while(|&&entry| entry != Pte::EMPTY).count();
        if len > 0 {
            // SAFETY: by the caller.
            unsafe { mmu().write(table, index + next, &entries[next..next + len]) };
        }
        next += len + 1;
    }
}

/// The table that the entry points to, if there is one.
///
/// # Safety
/// `table` is a page table of `level`, above 1, and the entry is no leaf.
#[inline]
pub unsafe fn next(table: PhysAddr, index: usize, level: u8) -> Option<PhysAddr> {
    // SAFETY: by the caller.
    let entry = unsafe { read(table, index) };
    entry.is_present().then(|| address(entry, level))
}

/// A new empty table for `level`.
pub fn new_table(level: u8, purpose: Purpose) -> Option<PhysAddr> {
    let table = frame::alloc_for(0, purpose)?;
    // SAFETY: the frame is ours alone, and becomes a table before it is linked.
    unsafe {
        frame::zero(direct(table), 1);
        if mmu().adopt_table(table, level).is_err() {
            frame::put(table);
            return None;
        }
    }
    Some(table)
}

/// A new root with the kernel's half.
pub fn new_root() -> Option<PhysAddr> {
    let mmu = mmu();
    let root = new_table(4, Purpose::User)?;
    let kernel = mmu.kernel_root();
    // SAFETY: both are roots; the kernel's half never changes.
    unsafe {
        let entries: [Pte; ENTRIES - USER_ROOT_ENTRIES] = core::array::from_fn(|i| read(kernel, USER_ROOT_ENTRIES + i));
        mmu.write(root, USER_ROOT_ENTRIES, &entries);
    }
    Some(root)
}

/// Frees a table.
///
/// # Safety
/// It is linked nowhere and no CPU uses it.
pub unsafe fn free_table(table: PhysAddr, level: u8) {
    // SAFETY: by the caller.
    unsafe {
        mmu().retire_table(table, level);
        frame::put(table);
    }
}

static KERNEL_TABLES: SpinLock<()> = SpinLock::new(());

/// The leaf table for an address of the kernel area, made if need be. `None` if memory is out.
pub fn ensure_kernel(at: VirtAddr) -> Option<PhysAddr> {
    let _guard = KERNEL_TABLES.lock();
    let mmu = mmu();
    let mut table = mmu.kernel_root();
    for level in [4, 3, 2] {
        // SAFETY: tables of the kernel half, which are never freed; the lock makes this the only writer in
        // the kernel area.
        table = unsafe { ensure_step(mmu, table, index(at, level), level, Purpose::Kernel)? };
    }
    Some(table)
}

/// The table below an entry, made if need be.
///
/// # Safety
/// `table` is a live table of `level`, the entry no leaf, and the caller is the entry's only writer.
unsafe fn ensure_step(mmu: &dyn Mmu, table: PhysAddr, index: usize, level: u8, purpose: Purpose) -> Option<PhysAddr> {
    // SAFETY: by the caller.
    unsafe {
        if let Some(next) = next(table, index, level) {
            return Some(next);
        }
        let new = new_table(level - 1, purpose)?;
        mmu.write(table, index, &[mmu.table(new)]);
        Some(new)
    }
}

impl AddressSpace {
    /// The level-2 table for `at`, made if need be. The layout is locked. `None` if memory is out.
    #[inline]
    pub(super) fn ensure_level2(&self, at: usize) -> Option<PhysAddr> {
        match self.level2(at) {
            None => self.make_level2(at),
            found => found,
        }
    }

    /// The level-2 table for `at`, if there is one.
    #[inline]
    pub(super) fn level2(&self, at: usize) -> Option<PhysAddr> {
        let at = VirtAddr(at as u64);
        // SAFETY: tables of this space, which live while its layout is locked; applications have no 1 GiB leaves.
        unsafe { next(next(self.root, index(at, 4), 4)?, index(at, 3), 3) }
    }

    #[cold]
    fn make_level2(&self, at: usize) -> Option<PhysAddr> {
        let at = VirtAddr(at as u64);
        let mmu = mmu();
        let _guard = self.upper.lock();
        // SAFETY: this space's tables; entries at these levels are written under this lock only.
        unsafe {
            let level3 = ensure_step(mmu, self.root, index(at, 4), 4, Purpose::User)?;
            ensure_step(mmu, level3, index(at, 3), 3, Purpose::User)
        }
    }

    /// The leaf table for `at`, made if need be; a huge page there is split. `None` if memory is out. The caller
    /// holds the leaf lock of `at`, or the layout for writing.
    pub(super) fn ensure_leaf(&self, at: usize) -> Option<PhysAddr> {
        let level2 = self.ensure_level2(at)?;
        let slot = index(VirtAddr(at as u64), 2);
        // SAFETY: a live table of this space; the caller is the entry's only writer.
        unsafe {
            if is_huge(read(level2, slot)) {
                return split_huge(level2, slot);
            }
            ensure_step(mmu(), level2, slot, 2, Purpose::User)
        }
    }
}

/// Replaces a huge page by a table of single pages with the same frames and rights; returns that table. No flush is
/// needed: both translate alike. `None` if memory is out.
///
/// # Safety
/// The entry is a huge leaf whose block has one reference, and the caller is its only writer.
pub unsafe fn split_huge(level2: PhysAddr, slot: usize) -> Option<PhysAddr> {
    let mmu = mmu();
    let leaf_table = new_table(1, Purpose::User)?;
    // SAFETY: by the caller; the new table is linked only when it is complete.
    unsafe {
        let (block, flags) = mmu.decode(read(level2, slot), 2);
        frame::split(block, HUGE_ORDER);
        let flags = flags - PteFlags::HUGE;
        for first in (0..ENTRIES).step_by(64) {
            let entries: [Pte; 64] = core::array::from_fn(|i| leaf(block + ((first + i) * PAGE_SIZE) as u64, flags));
            mmu.write(leaf_table, first, &entries);
        }
        mmu.exchange(level2, slot, mmu.table(leaf_table));
    }
    Some(leaf_table)
}
