//! Segment descriptors, task state and interrupt tables.

use core::arch::asm;

unsafe extern "C" {
    static coracle_boot_gdt: u8;
}

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Loads the boot GDT at its final address (the assembly used its physical one).
///
/// # Safety
/// On the boot CPU, before anything else changes the GDT.
pub unsafe fn load_boot_gdt() {
    let pointer = TablePointer { limit: 23, base: (&raw const coracle_boot_gdt) as u64 };
    // SAFETY: the same descriptors at another address.
    unsafe { asm!("lgdt [{}]", in(reg) &pointer, options(nostack, preserves_flags)) };
}
