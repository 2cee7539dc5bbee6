//! [`Mmu`] for platforms where the guest writes its own page tables.

use core::arch::asm;

use hal_core::cpu::CpuSet;
use hal_core::mmu::{Flush, Pte};
use hal_core::{Mmu, PhysAddr, PteFlags, Result, VirtAddr, memory};

use super::{AREA_BASE, AREA_HALF, KERNEL_ROOT, pte};
use crate::arch;

/// Above this many pages a flush of the whole space is cheaper.
const FLUSH_PAGES: usize = 32;

/// The page tables of the hardware. The application runs at ring 0, so that its pages are supervisor pages.
pub struct X86Mmu;

fn entry(table: PhysAddr, index: usize) -> *mut u64 {
    memory::direct::<u64>(PhysAddr(table.0 + index as u64 * 8))
}

/// Flags that each have a bit of their own in an entry.
const BITS: [(PteFlags, u64); 8] = [
    (PteFlags::WRITE, pte::WRITE),
    (PteFlags::USER, pte::APPLICATION),
    (PteFlags::GLOBAL, pte::GLOBAL),
    (PteFlags::UNCACHED, pte::UNCACHED),
    (PteFlags::ACCESSED, pte::ACCESSED),
    (PteFlags::DIRTY, pte::DIRTY),
    (PteFlags::COW, pte::COW),
    (PteFlags::SPECIAL, pte::SPECIAL),
];

impl Mmu for X86Mmu {
    fn leaf(&self, frame: PhysAddr, flags: PteFlags, level: u8) -> Pte {
        let mut bits = frame.0 & pte::ADDRESS | pte::PRESENT;
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
        Pte(table.0 & pte::ADDRESS | pte::TABLE)
    }

    fn decode(&self, entry: Pte, level: u8) -> (PhysAddr, PteFlags) {
        let bits = entry.0;
        let mut flags = PteFlags::empty();
        for (flag, bit) in BITS {
            if bits & bit == bit {
                flags |= flag;
            }
        }
        if bits & pte::NO_EXECUTE == 0 {
            flags |= PteFlags::EXEC;
        }
        if level > 1 && bits & pte::HUGE != 0 {
            flags |= PteFlags::HUGE;
        }
        (PhysAddr(bits & pte::ADDRESS), flags)
    }

    fn address_mask(&self) -> Option<u64> {
        Some(pte::ADDRESS)
    }

    #[inline]
    unsafe fn read(&self, table: PhysAddr, index: usize) -> Pte {
        // SAFETY: a page table, by the caller; tables are in the direct map. The CPU may set A and D meanwhile.
        Pte(unsafe { entry(table, index).read_volatile() })
    }

    unsafe fn write(&self, table: PhysAddr, index: usize, entries: &[Pte]) {
        for (i, value) in entries.iter().enumerate() {
            // SAFETY: the caller owns the table.
            unsafe { entry(table, index + i).write_volatile(value.0) };
        }
    }

    unsafe fn exchange(&self, table: PhysAddr, index: usize, new: Pte) -> Pte {
        // SAFETY: the caller owns the table; entries are 8-byte aligned.
        let word = unsafe { core::sync::atomic::AtomicU64::from_ptr(entry(table, index)) };
        Pte(word.swap(new.0, core::sync::atomic::Ordering::AcqRel))
    }

    unsafe fn adopt_table(&self, _frame: PhysAddr, _level: u8) -> Result<()> {
        Ok(())
    }

    unsafe fn retire_table(&self, _frame: PhysAddr, _level: u8) {}

    fn kernel_root(&self) -> PhysAddr {
        PhysAddr(crate::boot::phys_of_static(KERNEL_ROOT.as_mut_ptr()))
    }

    #[inline]
    unsafe fn switch_root(&self, root: PhysAddr) {
        if arch::cr3() != root.0 {
            // SAFETY: the root maps the kernel, by the caller.
            unsafe { arch::set_cr3(root.0) };
        }
    }

    fn flush_local(&self, what: Flush) {
        flush_local(what);
    }

    fn flush_cpus(&self, cpus: &CpuSet, what: Flush) {
        crate::ipi::flush_cpus(cpus, what);
    }

    fn map_direct(&self, start: PhysAddr, len: u64) -> Result<()> {
        super::map_direct(start, len)
    }

    fn map_device(&self, start: PhysAddr, len: u64) -> Result<VirtAddr> {
        super::device::map(start, len)
    }

    fn kernel_area(&self) -> (VirtAddr, u64) {
        (VirtAddr(AREA_BASE), AREA_HALF)
    }

    fn has_huge(&self, level: u8) -> bool {
        // 2 MiB pages come with long mode; 1 GiB pages are CPUID 0x80000001 EDX bit 26.
        level == 2 || level == 3 && arch::cpuid_checked(0x8000_0001, 0)[3] & 1 << 26 != 0
    }
}

/// Flushes on this CPU.
pub fn flush_local(what: Flush) {
    match what {
        Flush::Range(start, pages) if pages <= FLUSH_PAGES => {
            for page in 0..pages as u64 {
                // SAFETY: forgetting a translation only costs time.
                unsafe {
                    asm!("invlpg [{}]", in(reg) start.0.wrapping_add(page * 4096),
                        options(nostack, preserves_flags))
                };
            }
        }
        // Kernel addresses may be global.
        Flush::Range(start, _) if start.0 >> 63 == 1 => flush_global(),
        Flush::Range(..) | Flush::Space => {
            // SAFETY: the same root again.
            unsafe { arch::set_cr3(arch::cr3()) };
        }
        Flush::All => flush_global(),
    }
}

/// Changing CR4.PGE flushes everything (Intel SDM vol. 3, section 4.10.4.1).
fn flush_global() {
    const PGE: u64 = 1 << 7;
    let cr4 = arch::cr4();
    // SAFETY: the feature was on before and is on again after.
    unsafe {
        arch::set_cr4(cr4 & !PGE);
        arch::set_cr4(cr4);
    }
}
