//! What every x86-64 backend shares: boot entry, paging, descriptor tables and traps, APIC, ACPI, clocks, PCI.
//!
//! No hypervisor is named here; a backend (`hal/kvm`, ...) picks from these parts. Modules that are pure
//! arithmetic and parsing also build, and are tested, on the host.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod memmap;

#[cfg(target_os = "none")]
pub mod arch;
#[cfg(target_os = "none")]
pub mod boot;
#[cfg(target_os = "none")]
pub mod descriptors;
#[cfg(target_os = "none")]
pub mod features;
#[cfg(target_os = "none")]
pub mod ipi;
#[cfg(target_os = "none")]
pub mod paging;
#[cfg(target_os = "none")]
pub mod serial;
#[cfg(target_os = "none")]
pub mod smp;
#[cfg(target_os = "none")]
pub mod user;
