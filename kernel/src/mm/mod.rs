//! Memory: frames, heap, kernel stacks, page tables, address spaces, faults, user memory.
//!
//! What lives here: everything that decides which frame holds what and which address shows it. What does
//! not: the encoding of page-table entries (`hal_core::Mmu`), files and their page caches (`base::PageSource`),
//! system call numbers and flags as programs pass them.
//!
//! Lock order, outermost first: a space's region tree, a page-table lock, then a heap class, then an arena.

mod access;
mod advise;
mod entry;
mod fault;
mod fork;
pub mod frame;
pub mod heap;
mod hooks;
mod huge;
mod info;
mod local;
mod map;
pub mod measure;
mod protect;
mod remap;
mod section;
pub mod selftest;
mod shared;
mod shrink;
mod space;
pub mod stack;
mod stress;
mod table;
pub mod user;
mod vma;
mod zap;

pub use advise::Advice;
pub use fault::Fault;
pub use map::{Fixed, Map};
pub use remap::RemapFlags;
pub use space::{AddressSpace, forget_pages};
pub use vma::{Backing, Name, Prot, USER_END, VmaFlags};

pub use shrink::{register_shrinker, take_shortage};

use hal_core::BootInfo;

/// Starts the frame allocator and with it the heap. On the boot CPU, before anything allocates.
pub fn init(info: &'static BootInfo) {
    entry::init();
    section::init(info);
    frame::init();
    local::init();
    register_shrinker(stack::shrink);
}

/// Resolves a page fault in kernel code: the address at which to go on, or `None` if it is a bug.
pub fn kernel_fault(fault: &hal_core::cpu::PageFault, ip: u64) -> Option<u64> {
    user::kernel_fault(fault, ip)
}
