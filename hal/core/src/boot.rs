//! What the boot code found: the same on every way in (PVH, BIOS disk, UEFI, Xen PV).

use crate::addr::PhysAddr;

/// Kind of a range in the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Free for the kernel once boot data is consumed.
    Usable,
    /// ACPI tables: readable, and reclaimable after they were read.
    AcpiReclaimable,
    /// Anything else: firmware, MMIO, ACPI NVS, bad memory.
    Reserved,
}

/// A range of guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First byte.
    pub start: PhysAddr,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: MemoryKind,
}

/// A boot module: the root image, when it does not come from a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// First byte.
    pub start: PhysAddr,
    /// Length in bytes.
    pub len: u64,
}

/// At most this many ranges and modules are taken over (the boot loaders leave out what is least needed).
pub const MAX_RANGES: usize = 128;

/// Start-of-day information, copied out of the loader's memory into the kernel's image before any
/// frame is allocated.
#[derive(Debug)]
pub struct BootInfo {
    /// The memory map, sorted by address, not overlapping. Includes what `reserved` names.
    pub memory: &'static [MemoryRange],
    /// Usable memory that is in use: the kernel's image, boot page tables, modules, this information.
    pub reserved: &'static [MemoryRange],
    /// The kernel's command line (UTF-8 checked by the kernel).
    pub command_line: &'static [u8],
    /// Boot modules.
    pub modules: &'static [Module],
    /// ACPI root pointer, if firmware gave one.
    pub rsdp: Option<PhysAddr>,
    /// Time-stamp counter at kernel entry, for the boot chart.
    pub entry_tsc: u64,
    /// The kernel image as mapped: start and end virtual addresses (for the symboliser and W^X).
    pub image: (u64, u64),
}
