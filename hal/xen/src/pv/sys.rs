//! The hypercalls that only PV guests make (xen.h, callback.h, physdev.h, arch-x86/xen.h).

use hal_core::Result;

use super::traps::Trap;
use crate::abi::{DOMID_SELF, op, vcpu};
use crate::hypercall::{call, check};

/// The flat code segment as guest-kernel mode shows it: privilege 0, which Xen makes 3 (arch-x86/xen-x86_64.h).
pub const KERNEL_CODE: u16 = 0xe030;
/// The flat code segment.
pub const CODE: u16 = 0xe033;
/// The flat stack segment.
pub const STACK: u16 = 0xe02b;

/// `SEGBASE_FS`.
pub const SEGMENT_FS: u32 = 0;
/// `SEGBASE_GS_KERNEL`.
pub const SEGMENT_GS_KERNEL: u32 = 2;

/// Physical devices' hypercall (xen.h).
const PHYSDEV: u32 = 33;

/// `struct mmu_update`: the low bits of the address say how.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Update {
    /// Machine address of the entry.
    pub at: u64,
    /// Its new value.
    pub value: u64,
}

/// In [`Update::at`]: accessed and dirty bits stay.
pub const PRESERVE_AD: u64 = 2;

/// `struct mmuext_op`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Extended {
    command: u32,
    pad: u32,
    first: u64,
    second: u64,
}

impl Extended {
    const fn new(command: u32, first: u64, second: u64) -> Self {
        Self { command, pad: 0, first, second }
    }
    /// The machine frame is a root, and what it leads to are tables, until it is unpinned.
    pub const fn pin_root(frame: u64) -> Self {
        Self::new(3, frame, 0)
    }
    /// Undoes [`Extended::pin_root`].
    pub const fn unpin(frame: u64) -> Self {
        Self::new(4, frame, 0)
    }
    /// The root of guest-kernel mode.
    pub const fn kernel_root(frame: u64) -> Self {
        Self::new(5, frame, 0)
    }
    /// The root of guest-user mode.
    pub const fn user_root(frame: u64) -> Self {
        Self::new(15, frame, 0)
    }
    /// Flushes this VCPU.
    pub const fn flush_local() -> Self {
        Self::new(6, 0, 0)
    }
    /// Flushes one page on this VCPU.
    pub const fn flush_page_local(address: u64) -> Self {
        Self::new(7, address, 0)
    }
    /// Flushes the VCPUs of a bit map.
    pub fn flush_multi(map: &[u64]) -> Self {
        Self::new(8, 0, map.as_ptr() as u64)
    }
    /// Flushes one page on the VCPUs of a bit map.
    pub fn flush_page_multi(address: u64, map: &[u64]) -> Self {
        Self::new(9, address, map.as_ptr() as u64)
    }
}

/// Writes page-table entries.
///
/// # Safety
/// The entries keep memory safety: see [`hal_core::Mmu`].
pub unsafe fn mmu_update(updates: &[Update]) -> Result<()> {
    let arguments = [updates.as_ptr() as u64, updates.len() as u64, 0, u64::from(DOMID_SELF), 0];
    // SAFETY: by the caller; Xen checks the rest.
    check(unsafe { call(op::MMU_UPDATE, arguments) }).map(|_| ())
}

/// Pins, switches and flushes.
///
/// # Safety
/// As [`mmu_update`].
pub unsafe fn mmu_extended(operations: &[Extended]) -> Result<()> {
    let arguments = [operations.as_ptr() as u64, operations.len() as u64, 0, u64::from(DOMID_SELF), 0];
    // SAFETY: by the caller.
    check(unsafe { call(op::MMUEXT, arguments) }).map(|_| ())
}

/// Writes the leaf entry of a virtual address of the loaded root and flushes it on this VCPU.
///
/// # Safety
/// As [`mmu_update`].
pub unsafe fn update_mapping(address: u64, entry: u64) -> Result<()> {
    /// `UVMF_INVLPG | UVMF_LOCAL`.
    const FLUSH: u64 = 2;
    // SAFETY: by the caller.
    check(unsafe { call(op::UPDATE_VA_MAPPING, [address, entry, FLUSH, 0, 0]) }).map(|_| ())
}

/// Registers this VCPU's exception handlers; the table ends with an empty entry.
pub fn set_trap_table(table: &[Trap]) -> Result<()> {
    // SAFETY: the handlers are those of `traps`.
    check(unsafe { call(op::SET_TRAP_TABLE, [table.as_ptr() as u64, 0, 0, 0, 0]) }).map(|_| ())
}

/// Registers where this VCPU continues for events (kind 0), failing returns (1), system calls (2); events are masked there.
pub fn register_callback(kind: u16, address: u64) -> Result<()> {
    #[repr(C)]
    struct Register {
        kind: u16,
        flags: u16,
        address: u64,
    }
    let mut register = Register { kind, flags: 1, address };
    // SAFETY: the address is that of `traps` or `user`.
    check(unsafe { call(op::CALLBACK, [0, (&raw mut register) as u64, 0, 0, 0]) }).map(|_| ())
}

/// The stack on which the application is left.
pub fn stack_switch(top: u64) -> Result<()> {
    // SAFETY: the stack is the VCPU's own (`cpu`).
    check(unsafe { call(op::STACK_SWITCH, [u64::from(STACK), top, 0, 0, 0]) }).map(|_| ())
}

/// Sets a segment's base; a bad one only makes later accesses fault.
pub fn set_segment_base(which: u32, base: u64) {
    // SAFETY: the kernel does not use FS, and passes its own block for GS.
    unsafe { call(op::SET_SEGMENT_BASE, [u64::from(which), base, 0, 0, 0]) };
}

/// Lets guest-kernel mode execute port instructions: Xen then answers them with ones instead of a fault.
pub fn allow_ports() -> Result<()> {
    let mut level = 1u32;
    // SAFETY: `PHYSDEVOP_set_iopl` (6); there is no port behind it.
    check(unsafe { call(PHYSDEV, [6, (&raw mut level) as u64, 0, 0, 0]) }).map(|_| ())
}

/// Tells Xen where VCPU `number` has its part of the shared information.
///
/// # Safety
/// The 64 bytes at `offset` of machine frame `frame` serve this alone, for ever.
pub unsafe fn register_vcpu_info(number: u32, frame: u64, offset: u32) -> Result<()> {
    let mut argument = vcpu::RegisterInfo { frame, offset, reserved: 0 };
    // SAFETY: by the caller.
    check(unsafe { call(op::VCPU, [vcpu::REGISTER_INFO, u64::from(number), (&raw mut argument) as u64, 0, 0]) })
        .map(|_| ())
}

/// A VCPU operation without argument.
pub fn vcpu_plain(command: u64, number: u32) -> i64 {
    // SAFETY: up, down, is-up and stopping timers touch no memory.
    unsafe { call(op::VCPU, [command, u64::from(number), 0, 0, 0]) }
}

/// Gives a VCPU its first state.
///
/// # Safety
/// `context` is one that runs this kernel's code soundly.
pub unsafe fn vcpu_initialise(number: u32, context: *const u8) -> Result<()> {
    // SAFETY: by the caller.
    check(unsafe { call(op::VCPU, [vcpu::INITIALISE, u64::from(number), context as u64, 0, 0]) }).map(|_| ())
}

/// Waits for an event, with events unmasked on return.
pub fn block() {
    // SAFETY: only waits.
    unsafe { call(op::SCHED, [crate::abi::sched::BLOCK, 0, 0, 0, 0]) };
}

/// CPUID as Xen shows it to this guest: an invalid instruction with Xen's mark before the real one is emulated
/// (arch-x86/xen.h, `XEN_CPUID`).
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (a, b, c, d): (u32, u64, u32, u32);
    // SAFETY: Xen emulates it; rbx is put back, since the compiler keeps it.
    unsafe {
        core::arch::asm!(
            "mov {keep}, rbx",
            ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2",
            "xchg {keep}, rbx",
            keep = out(reg) b,
            inlateout("eax") leaf => a,
            inlateout("ecx") subleaf => c,
            lateout("edx") d,
            options(nostack, preserves_flags)
        );
    }
    [a, b as u32, c, d]
}
