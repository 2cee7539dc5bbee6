//! [`Mmu`] by hypercall. Which tables Xen guards is the affair of `tables`; here are entries, loading roots, and flushes.
//!
//! All pages are marked as the application's (the user bit): Xen needs it for guest-user mode, makes such pages global, and so
//! keeps them in the TLB when the mode changes. The application can thus reach the kernel's memory, as on the other
//! platforms: the virtual machine is the boundary.

use core::sync::atomic::Ordering;

use hal_core::cpu::CpuSet;
use hal_core::mmu::{Flush, Pte};
use hal_core::{Error, Mmu, PhysAddr, PteFlags, Result, VirtAddr, memory};
use hal_x86::paging::{AREA_BASE, AREA_HALF, pte};
use spin::RwLock;

use super::cpu::PvCpu;
use super::sys::{self, Extended};
use super::tables::{self, Batch};
use super::{direct, frames};

/// More pages than this are flushed with everything else.
const FLUSH_PAGES: usize = 16;

/// Flags with a bit of their own. `APPLICATION` tells tables from leaves, so that `USER` has none: every page has it.
const BITS: [(PteFlags, u64); 6] = [
    (PteFlags::WRITE, pte::WRITE),
    (PteFlags::UNCACHED, pte::UNCACHED),
    (PteFlags::ACCESSED, pte::ACCESSED),
    (PteFlags::DIRTY, pte::DIRTY),
    (PteFlags::COW, pte::COW),
    (PteFlags::SPECIAL, pte::SPECIAL),
];

/// Held for reading by stores to tables that Xen does not guard, for writing while such tables become guarded.
static UNGUARDED: RwLock<()> = RwLock::new(());

/// Page tables of a PV guest.
pub struct PvMmu;

fn word(table: PhysAddr, index: usize) -> *mut u64 {
    memory::direct::<u64>(PhysAddr(table.0 + index as u64 * 8))
}

/// Runs `store` if the table is ordinary memory, else gives false.
fn if_unguarded(table: PhysAddr, store: impl FnOnce()) -> bool {
    if direct::is_guarded(table.page()) {
        return false;
    }
    let _reading = UNGUARDED.read();
    if direct::is_guarded(table.page()) {
        return false;
    }
    store();
    true
}

/// Adds an entry's update, after what it needs: the tree that it links must be read-only.
unsafe fn update(batch: &mut Batch, at: u64, value: u64) {
    // SAFETY: by the caller, who owns the entry and, if it is new, the tree.
    unsafe {
        if let Some(child) = tables::lower(value)
            && !direct::is_guarded(child)
        {
            // A new table is empty, or a leaf table: `level` only bounds the walk.
            tables::guard(child, 3, batch);
        }
        batch.add(at, value);
    }
}

impl Mmu for PvMmu {
    fn leaf(&self, frame: PhysAddr, flags: PteFlags, level: u8) -> Pte {
        let mut bits = frames::of(frame) << 12 | pte::PRESENT | pte::USER;
        for (flag, bit) in BITS {
            if flags.contains(flag) {
                bits |= bit;
            }
        }
        if !flags.contains(PteFlags::EXEC) {
            bits |= pte::NO_EXECUTE;
        }
        if level > 1 {
            bits |= pte::HUGE;
        }
        Pte(bits)
    }

    fn table(&self, table: PhysAddr) -> Pte {
        Pte(frames::of(table) << 12 | direct::TABLE)
    }

    fn decode(&self, entry: Pte, _level: u8) -> (PhysAddr, PteFlags) {
        let bits = entry.0;
        let mut flags = PteFlags::USER;
        for (flag, bit) in BITS {
            if bits & bit == bit {
                flags |= flag;
            }
        }
        if bits & pte::NO_EXECUTE == 0 {
            flags |= PteFlags::EXEC;
        }
        (PhysAddr(frames::guest((bits & pte::ADDRESS) >> 12) << 12), flags)
    }

    #[inline]
    unsafe fn read(&self, table: PhysAddr, index: usize) -> Pte {
        // SAFETY: a page table, by the caller; tables are in the direct map.
        Pte(unsafe { word(table, index).read_volatile() })
    }

    unsafe fn write(&self, table: PhysAddr, index: usize, entries: &[Pte]) {
        let stored = if_unguarded(table, || {
            for (i, value) in entries.iter().enumerate() {
                // SAFETY: the caller owns the table, which is ordinary memory.
                unsafe { word(table, index + i).write_volatile(value.0) };
            }
        });
        if stored {
            return;
        }
        let mut batch = Batch::new();
        let at = direct::entry_address(table.page(), index as u64);
        for (i, value) in entries.iter().enumerate() {
            // SAFETY: the caller owns the table.
            unsafe { update(&mut batch, at + i as u64 * 8, value.0) };
        }
        // SAFETY: as above.
        unsafe { batch.finish() };
    }

    unsafe fn exchange(&self, table: PhysAddr, index: usize, new: Pte) -> Pte {
        // SAFETY: the caller owns the table; entries are 8-byte aligned.
        let entry = unsafe { core::sync::atomic::AtomicU64::from_ptr(word(table, index)) };
        let mut old = 0;
        if if_unguarded(table, || old = entry.swap(new.0, Ordering::AcqRel)) {
            return Pte(old);
        }
        // Xen keeps accessed and dirty bits that are set until it writes. What it cannot do is tell them of an entry that is
        // cleared: those set after this look are lost with the entry.
        let old = entry.load(Ordering::Acquire);
        let how = if new.is_present() { sys::PRESERVE_AD } else { 0 };
        let mut batch = Batch::new();
        // SAFETY: as above.
        unsafe {
            update(&mut batch, direct::entry_address(table.page(), index as u64) | how, new.0);
            batch.finish();
        }
        Pte(old)
    }

    unsafe fn adopt_table(&self, _frame: PhysAddr, _level: u8) -> Result<()> {
        // Ordinary memory until it is linked.
        Ok(())
    }

    unsafe fn retire_table(&self, frame: PhysAddr, level: u8) {
        if !direct::is_guarded(frame.page()) {
            return;
        }
        // SAFETY: no CPU uses the table and nothing leads to it, by the caller.
        unsafe {
            if level == 4 {
                self.close_root(frame);
            } else {
                let mut batch = Batch::new();
                tables::release(frame.page(), &mut batch);
                batch.finish();
            }
        }
    }

    unsafe fn close_root(&self, root: PhysAddr) {
        if direct::is_guarded(root.page()) {
            // SAFETY: no CPU has it loaded, by the caller.
            if let Err(error) = unsafe { tables::unpin(root.page()) } {
                panic!("Xen does not let go of the page tables at {root:?}: {error:?}");
            }
        }
    }

    fn kernel_root(&self) -> PhysAddr {
        PhysAddr(direct::root() * 4096)
    }

    unsafe fn switch_root(&self, root: PhysAddr) {
        let cpu = PvCpu::this();
        if cpu.root.load(Ordering::Relaxed) == root.0 {
            return;
        }
        let mut result = Ok(());
        if !direct::is_guarded(root.page()) {
            let _alone = UNGUARDED.write();
            if !direct::is_guarded(root.page()) {
                // SAFETY: the root is whole, by the caller; stores to its tables wait for the lock.
                result = unsafe { tables::pin(root.page()) };
            }
        }
        let machine = frames::of(root);
        // SAFETY: the root maps the kernel, by the caller.
        let result = result.and_then(|()| unsafe {
            sys::mmu_extended(&[Extended::kernel_root(machine), Extended::user_root(machine)])
        });
        if let Err(error) = result {
            panic!("Xen does not load the page tables at {root:?}: {error:?}");
        }
        cpu.root.store(root.0, Ordering::Relaxed);
    }

    fn flush_local(&self, what: Flush) {
        let mut operations = [Extended::flush_local(); FLUSH_PAGES];
        let count = match what {
            Flush::Range(start, pages) if pages <= FLUSH_PAGES => {
                for (page, operation) in operations[..pages].iter_mut().enumerate() {
                    *operation = Extended::flush_page_local(start.0.wrapping_add(page as u64 * 4096));
                }
                pages
            }
            _ => 1,
        };
        // SAFETY: forgetting a translation only costs time.
        let flushed = unsafe { sys::mmu_extended(&operations[..count]) };
        debug_assert!(flushed.is_ok());
    }

    fn flush_cpus(&self, cpus: &CpuSet, what: Flush) {
        // VCPU numbers are the kernel's CPU numbers; Xen passes over those that do not run.
        let map = cpus.words();
        let operation = match what {
            Flush::Range(start, 1) => Extended::flush_page_multi(start.0, map),
            _ => Extended::flush_multi(map),
        };
        // SAFETY: as in `flush_local`; the map lives on for the call.
        let flushed = unsafe { sys::mmu_extended(&[operation]) };
        debug_assert!(flushed.is_ok());
    }

    fn map_direct(&self, start: PhysAddr, len: u64) -> Result<()> {
        direct::map(start, len)
    }

    fn map_device(&self, _start: PhysAddr, _len: u64) -> Result<VirtAddr> {
        // A domain without devices of its own.
        Err(Error::Unsupported)
    }

    fn kernel_area(&self) -> (VirtAddr, u64) {
        (VirtAddr(AREA_BASE), AREA_HALF)
    }

    fn has_huge(&self, _level: u8) -> bool {
        false
    }
}
