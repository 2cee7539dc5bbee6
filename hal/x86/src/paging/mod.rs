//! Four-level page tables (Intel SDM vol. 3, chapter 4): the direct map, device mappings, and [`hal_core::Mmu`] for
//! every platform where the guest writes its own tables.

mod device;
mod direct;
mod mmu;

use core::cell::UnsafeCell;

pub use direct::{add_pool, early_direct, map_direct, prepare_roots};
pub use mmu::{X86Mmu, flush_local};

/// Bits of an entry.
pub mod pte {
    /// In use.
    pub const PRESENT: u64 = 1;
    /// May be written.
    pub const WRITE: u64 = 1 << 1;
    /// Reachable from ring 3.
    pub const USER: u64 = 1 << 2;
    /// Write-through and no caching: device memory.
    pub const UNCACHED: u64 = 1 << 3 | 1 << 4;
    /// Was used.
    pub const ACCESSED: u64 = 1 << 5;
    /// Was written.
    pub const DIRTY: u64 = 1 << 6;
    /// A leaf above level 1.
    pub const HUGE: u64 = 1 << 7;
    /// The same in every address space.
    pub const GLOBAL: u64 = 1 << 8;
    /// Software: copy on write.
    pub const COW: u64 = 1 << 9;
    /// Software: not reference-counted.
    pub const SPECIAL: u64 = 1 << 10;
    /// Software: the application's.
    pub const APPLICATION: u64 = 1 << 11;
    /// No instruction fetch.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// The frame's address.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// An entry that points to a lower table, for the kernel.
    pub const TABLE: u64 = PRESENT | WRITE | ACCESSED;
}

/// A static frame for a table.
#[repr(C, align(4096))]
pub struct Frame(UnsafeCell<[u64; 512]>);

// SAFETY: only reached through raw pointers by code that owns the table.
unsafe impl Sync for Frame {}

impl Frame {
    /// A zeroed frame.
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; 512]))
    }
    /// Its words.
    pub const fn as_mut_ptr(&self) -> *mut [u64; 512] {
        self.0.get()
    }
    /// Its address as seen now: before the jump to the final place this is the physical address.
    pub fn address(&self) -> u64 {
        self.as_mut_ptr() as u64
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

/// The kernel's root; its lower half is empty.
pub static KERNEL_ROOT: Frame = Frame::new();

/// Root entry of the kernel's own mappings: stacks in the first half, device registers in the second.
pub const AREA_SLOT: usize = 496;
/// First address of [`AREA_SLOT`].
pub const AREA_BASE: u64 = 0xffff << 48 | (AREA_SLOT as u64) << 39;
/// Length of each half of the area.
pub const AREA_HALF: u64 = 1 << 38;

/// Physical address of the kernel's root.
pub fn kernel_root_phys() -> u64 {
    crate::boot::phys_of_static(KERNEL_ROOT.as_mut_ptr())
}

/// Copies the kernel's half to the root with the identity map. Boot only.
pub fn copy_roots_to_identity() {
    let identity = hal_core::memory::direct::<[u64; 512]>(hal_core::PhysAddr(crate::boot::identity_root()));
    // SAFETY: both tables are static and only the boot CPU runs; the direct map covers the image.
    unsafe { (&mut (*identity))[256..].copy_from_slice(&(&(*KERNEL_ROOT.as_mut_ptr()))[256..]) };
}
