//! PV: the guest that runs without virtualization hardware, entered by its own way, at ring 3, with page tables that Xen
//! checks. `docs/architecture.md` tells how the application runs there.

mod area;
mod balloon;
mod builder;
mod clock;
mod cpu;
mod direct;
mod entry;
mod frames;
mod mmu;
mod mode;
mod platform;
mod smp;
mod start;
mod sys;
mod tables;
mod traps;
mod user;

pub use platform::PV;
