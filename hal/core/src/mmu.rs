//! Page tables: the entries' format, and how they are written where a hypervisor must agree (Xen PV).
//!
//! The walk over tables, VMAs and faults are the kernel's. A table is one frame of 512 entries; level 1
//! is the leaf table, 4 the root. Every write to a live table goes through [`Mmu`].

use crate::Result;
use crate::addr::{PhysAddr, VirtAddr};
use crate::cpu::CpuSet;

bitflags::bitflags! {
    /// Rights and state of a mapping, independent of the encoding.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PteFlags: u32 {
        /// May be written.
        const WRITE = 1 << 0;
        /// May be executed.
        const EXEC = 1 << 1;
        /// Belongs to the application. Whether that needs the hardware's user bit is the backend's affair.
        const USER = 1 << 2;
        /// The same in every address space.
        const GLOBAL = 1 << 3;
        /// Not cached: device memory.
        const UNCACHED = 1 << 4;
        /// A 2 MiB (level 2) or 1 GiB (level 3) leaf.
        const HUGE = 1 << 5;
        /// Was read or written (set by the CPU).
        const ACCESSED = 1 << 6;
        /// Was written (set by the CPU).
        const DIRTY = 1 << 7;
        /// Software bit for the kernel: copy on write.
        const COW = 1 << 8;
        /// Software bit for the kernel: the frame is not reference-counted (device, root image in place).
        const SPECIAL = 1 << 9;
    }
}

/// An encoded entry. 0 is "not present"; other not-present values are the kernel's to use if bit 0 is clear.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pte(pub u64);

impl Pte {
    /// The empty entry.
    pub const EMPTY: Self = Self(0);

    /// True if the CPU would use it.
    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & 1 != 0
    }
}

/// What a flush covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// `pages` pages of 4 KiB from this address.
    Range(VirtAddr, usize),
    /// Everything but global entries.
    Space,
    /// Everything.
    All,
}

/// Page-table operations.
///
/// # Safety of the `unsafe` methods
/// A wrong entry breaks memory safety: the caller owns the table (its address space's lock is held) and
/// the frames that it maps.
pub trait Mmu: Sync {
    /// Encodes a leaf that maps `frame` at `level` (1, or 2/3 with `HUGE`).
    fn leaf(&self, frame: PhysAddr, flags: PteFlags, level: u8) -> Pte;
    /// Encodes an entry that points to a lower table, with all rights (leaves restrict).
    fn table(&self, table: PhysAddr) -> Pte;
    /// Decodes a present entry of a table at `level`: the frame, or next table, and the flags.
    fn decode(&self, entry: Pte, level: u8) -> (PhysAddr, PteFlags);
    /// If entries hold guest-physical addresses as they are: the bits that the address has in an entry, so that
    /// a walk need not call [`Mmu::decode`] for each step. `None` where a hypervisor translates frames.
    fn address_mask(&self) -> Option<u64> {
        None
    }
    /// Reads an entry.
    ///
    /// # Safety
    /// `table` is a page table.
    unsafe fn read(&self, table: PhysAddr, index: usize) -> Pte;
    /// Writes consecutive entries from `index` on (one batched hypercall on Xen PV). Does not flush.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn write(&self, table: PhysAddr, index: usize, entries: &[Pte]);
    /// Exchanges an entry atomically, so that no accessed or dirty bit is lost.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn exchange(&self, table: PhysAddr, index: usize, new: Pte) -> Pte;
    /// Tells that the zeroed frame becomes a table of `level` (Xen PV makes it read-only and pins roots).
    ///
    /// # Safety
    /// The frame is the caller's and nothing else writes to it from now on.
    unsafe fn adopt_table(&self, frame: PhysAddr, level: u8) -> Result<()>;
    /// Tells that the table is no longer linked anywhere; afterwards the frame is ordinary memory.
    ///
    /// # Safety
    /// No CPU uses it any more.
    unsafe fn retire_table(&self, frame: PhysAddr, level: u8);
    /// Tells that no CPU has `root` loaded or will load it again: what comes next takes its tables apart.
    ///
    /// # Safety
    /// It is so.
    unsafe fn close_root(&self, _root: PhysAddr) {}
    /// The root whose upper half is the kernel's: a new address space copies those 256 entries, and they
    /// never change afterwards (the tables below them do).
    fn kernel_root(&self) -> PhysAddr;
    /// Makes this CPU use `root`. No effect and no cost if it does already.
    ///
    /// # Safety
    /// The root maps the kernel as [`Mmu::kernel_root`] does.
    unsafe fn switch_root(&self, root: PhysAddr);
    /// Flushes on this CPU.
    fn flush_local(&self, what: Flush);
    /// Flushes on these CPUs and waits until they have done it. Interrupts must be enabled.
    fn flush_cpus(&self, cpus: &CpuSet, what: Flush);
    /// Makes usable memory accessible in the direct map. 2 MiB aligned; cheap for what is mapped already.
    fn map_direct(&self, start: PhysAddr, len: u64) -> Result<()>;
    /// Maps device registers, uncached. Lasts for ever; the same range gives the same address.
    fn map_device(&self, start: PhysAddr, len: u64) -> Result<VirtAddr>;
    /// A kernel virtual range free for the kernel's own mappings (stacks with guard pages): start, length.
    /// Its root entries exist, so that mappings made there are seen in every address space.
    fn kernel_area(&self) -> (VirtAddr, u64);
    /// True if leaves of `level` (2: 2 MiB, 3: 1 GiB) can be used for applications.
    fn has_huge(&self, level: u8) -> bool;
}
