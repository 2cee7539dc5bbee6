//! Tables that Xen guards and tables that are not yet in use.
//!
//! Xen lets no page table be mapped writable. But only tables that a pinned root leads to are page tables to Xen. So a new
//! table stays ordinary memory, written by plain stores, until it is linked into a guarded one, or its root is loaded for
//! the first time: `fork` builds a whole tree that way, and Xen checks it in one hypercall. Then the tree's frames become
//! read-only in the direct map, which is the only place where they are mapped. A root that no CPU will load again is
//! unpinned, and its tree is memory again before it is taken apart.
//!
//! Whether a table is guarded is told by its entry in the direct map.

use hal_core::{Error, PhysAddr, Result, memory};
use hal_x86::paging::pte;

use super::sys::{self, Extended, Update};
use super::{direct, frames};

/// Updates that go to Xen at once.
const BATCH: usize = 64;

/// Updates that wait to be sent together.
pub struct Batch {
    updates: [Update; BATCH],
    count: usize,
}

impl Batch {
    /// An empty one.
    pub const fn new() -> Self {
        Self { updates: [Update { at: 0, value: 0 }; BATCH], count: 0 }
    }

    /// Adds an update.
    ///
    /// # Safety
    /// As [`sys::mmu_update`]; the batch is finished.
    #[inline]
    pub unsafe fn add(&mut self, at: u64, value: u64) {
        if self.count == BATCH {
            // SAFETY: each update's caller vouched for it.
            unsafe { self.finish() };
        }
        self.updates[self.count] = Update { at, value };
        self.count += 1;
    }

    /// Sends what was added.
    ///
    /// # Safety
    /// As [`Batch::add`].
    pub unsafe fn finish(&mut self) {
        if self.count == 0 {
            return;
        }
        // SAFETY: by the callers of `add`.
        if let Err(error) = unsafe { sys::mmu_update(&self.updates[..self.count]) } {
            refused(error, &self.updates[..self.count]);
        }
        self.count = 0;
    }
}

/// Xen refuses an update only if this kernel's tables are not what it believes, or if another domain still has a frame that
/// became a table: nothing can go on then.
#[cold]
fn refused(error: Error, updates: &[Update]) -> ! {
    panic!("Xen refuses page-table updates ({error:?}): {updates:x?}")
}

/// The table that an entry points to, if it is such an entry.
#[inline]
pub fn lower(entry: u64) -> Option<u64> {
    const MARKS: u64 = pte::PRESENT | pte::APPLICATION;
    (entry & MARKS == MARKS).then(|| frames::guest((entry & pte::ADDRESS) >> 12))
}

/// Entries of the table in guest frame `table`.
fn entries(table: u64, range: core::ops::Range<usize>) -> impl Iterator<Item = u64> {
    let at = memory::direct::<u64>(PhysAddr(table * 4096));
    // SAFETY: a table's frame is in the direct map, and has 512 entries.
    range.map(move |index| unsafe { at.add(index).read_volatile() })
}

/// Which part of a root is an address space's own.
const OWN: core::ops::Range<usize> = 0..256;

/// Calls `each` for the tree's tables, `table` included, as far as `wanted` says yes to them.
fn walk(table: u64, level: u8, wanted: &dyn Fn(u64) -> bool, each: &mut dyn FnMut(u64)) {
    if !wanted(table) {
        return;
    }
    each(table);
    if level > 1 {
        let range = if level == 4 { OWN } else { 0..512 };
        for child in entries(table, range).filter_map(lower) {
            walk(child, level - 1, wanted, each);
        }
    }
}

/// Makes the tree below and with `table`, which nothing leads to yet, read-only, as a part of `batch`.
///
/// # Safety
/// The tables are linked into a guarded one, or pinned, next, and nobody writes to them by stores any more.
pub unsafe fn guard(table: u64, level: u8, batch: &mut Batch) {
    walk(table, level, &|frame| !direct::is_guarded(frame), &mut |frame| {
        let (entry, at) = direct::entry_of(frame);
        // SAFETY: by the caller; the entry shows the same frame with fewer rights.
        unsafe { batch.add(at, entry & !pte::WRITE) };
    });
}

/// Makes a table that nothing leads to ordinary memory again.
///
/// # Safety
/// No guarded table or VCPU leads to it.
pub unsafe fn release(table: u64, batch: &mut Batch) {
    let (entry, at) = direct::entry_of(table);
    // SAFETY: by the caller; the direct map's own entry.
    unsafe { batch.add(at, entry | pte::WRITE) };
}

/// Makes the root in guest frame `root` one that can be loaded, with all its tables.
///
/// # Safety
/// The tree is whole, and nobody writes to it meanwhile.
pub unsafe fn pin(root: u64) -> Result<()> {
    let mut batch = Batch::new();
    // SAFETY: by the caller.
    unsafe {
        guard(root, 4, &mut batch);
        batch.finish();
        sys::mmu_extended(&[Extended::pin_root(frames::of(PhysAddr(root * 4096)))])
    }
}

/// Undoes [`pin`], and makes the tree ordinary memory.
///
/// # Safety
/// No VCPU has the root loaded, nor will load it.
pub unsafe fn unpin(root: u64) -> Result<()> {
    let mut batch = Batch::new();
    // SAFETY: by the caller: after the unpinning nothing leads to the tables.
    unsafe {
        sys::mmu_extended(&[Extended::unpin(frames::of(PhysAddr(root * 4096)))])?;
        walk(root, 4, &direct::is_guarded, &mut |frame| release(frame, &mut batch));
        batch.finish();
    }
    Ok(())
}
