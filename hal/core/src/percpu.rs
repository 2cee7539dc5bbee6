//! The per-CPU block, at the kernel's GS base.
//!
//! The first fields are fixed (assembly uses them); the kernel hangs its own per-CPU data on `kernel`.
//! Each CPU's block is written by that CPU alone, except where a field says otherwise.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

/// What GS points to. `repr(C)`: the offsets below are part of the contract with the entry code.
#[repr(C, align(64))]
pub struct PerCpu {
    /// Offset 0: address of this block.
    pub this: AtomicU64,
    /// Offset 8: scratch for the system call entry (the application's stack pointer).
    pub scratch: AtomicU64,
    /// Offset 16: the [`crate::UserContext`] that the application's registers are saved to.
    pub user_context: AtomicU64,
    /// Offset 24: number of this CPU, from 0, dense.
    pub cpu: AtomicU32,
    /// Offset 28: non-zero if the next return to the application must go through the kernel's loop:
    /// a reschedule, deferred work or a signal is pending. Any CPU may set it.
    pub attention: AtomicU32,
    /// Offset 32: the kernel's own per-CPU data.
    pub kernel: AtomicPtr<()>,
    /// Offset 40: the running thread (the kernel's type).
    pub thread: AtomicPtr<()>,
    /// Offset 48: for the backend.
    pub backend: AtomicPtr<()>,
    /// Offset 56: more scratch for entry code.
    pub scratch2: AtomicU64,
}

impl PerCpu {
    /// A block with nothing in it: CPU 0, no thread.
    #[expect(clippy::declare_interior_mutable_const, reason = "an initial value, never used in place")]
    pub const EMPTY: Self = Self {
        this: AtomicU64::new(0),
        scratch: AtomicU64::new(0),
        user_context: AtomicU64::new(0),
        cpu: AtomicU32::new(0),
        attention: AtomicU32::new(0),
        kernel: AtomicPtr::new(core::ptr::null_mut()),
        thread: AtomicPtr::new(core::ptr::null_mut()),
        backend: AtomicPtr::new(core::ptr::null_mut()),
        scratch2: AtomicU64::new(0),
    };
}

/// This CPU's block.
#[inline]
pub fn this() -> &'static PerCpu {
    let block: *const PerCpu;
    // SAFETY: GS base is set to this CPU's block before any Rust code that uses it runs, and the
    // block's first word is its own address; blocks are never freed.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) block, options(nostack, preserves_flags, readonly));
        &*block
    }
}

/// Number of this CPU, from 0. Stable only while the caller does not block.
#[inline]
pub fn cpu_id() -> usize {
    let id: u32;
    // SAFETY: as in `this`.
    unsafe { core::arch::asm!("mov {:e}, gs:[24]", out(reg) id, options(nostack, preserves_flags, readonly)) };
    id as usize
}
