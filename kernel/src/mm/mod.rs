//! Memory: frames, heap, kernel stacks, page tables, address spaces, faults, user memory.
//!
//! What lives here: everything that decides which frame holds what and which address shows it. What does
//! not: the encoding of page-table entries (`hal_core::Mmu`), files and their page caches (`base::PageSource`),
//! system call numbers and flags as programs pass them.
//!
//! Lock order, outermost first: a space's region tree, a page-table lock, then a heap class, then an arena.

// The contract is wider than what its present callers use.
#![allow(dead_code)]

pub mod frame;
pub mod heap;
mod hooks;
mod local;
mod section;
mod shrink;
pub mod stack;
mod table;

pub use shrink::register_shrinker;

use hal_core::BootInfo;

/// Starts the frame allocator and with it the heap. On the boot CPU, before anything allocates.
pub fn init(info: &'static BootInfo) {
    section::init(info);
    frame::init();
    local::init();
    register_shrinker(stack::shrink);
}

/// A program's address space.
pub struct AddressSpace;

impl AddressSpace {
    /// Makes this CPU use the space.
    pub fn activate(self: &alloc::sync::Arc<Self>) {}
    /// Makes this CPU use no application's space.
    pub fn activate_kernel() {}
}

/// Resolves a page fault in kernel code.
pub fn kernel_fault(_: &hal_core::cpu::PageFault, _: u64) -> Option<u64> {
    None
}
