//! What every x86-64 backend shares: boot entry, paging, descriptor tables and traps, APIC, ACPI, clocks, PCI.
//!
//! No hypervisor is named here; a backend (`hal/kvm`, ...) picks from these parts. Modules that are pure
//! arithmetic and parsing also build, and are tested, on the host.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod dmi;
pub mod memmap;
pub mod mmio_line;
pub mod pvclock;
pub mod s5;
pub mod scale;
pub mod signature;

#[cfg(target_os = "none")]
pub mod acpi;
#[cfg(target_os = "none")]
pub mod apic;
#[cfg(target_os = "none")]
pub mod arch;
#[cfg(target_os = "none")]
pub mod boot;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod cpuinfo;
#[cfg(target_os = "none")]
pub mod descriptors;
#[cfg(target_os = "none")]
pub mod entropy;
#[cfg(target_os = "none")]
pub mod features;
#[cfg(target_os = "none")]
pub mod interrupts;
#[cfg(target_os = "none")]
pub mod ioapic;
#[cfg(target_os = "none")]
pub mod ipi;
#[cfg(target_os = "none")]
pub mod local;
#[cfg(target_os = "none")]
pub mod mmio;
#[cfg(target_os = "none")]
pub mod paging;
#[cfg(target_os = "none")]
pub mod patch;
#[cfg(target_os = "none")]
pub mod pc;
#[cfg(target_os = "none")]
pub mod pci;
#[cfg(target_os = "none")]
pub mod platform;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
pub mod power_button;
#[cfg(target_os = "none")]
pub mod rtc;
#[cfg(target_os = "none")]
pub mod screen;
#[cfg(target_os = "none")]
pub mod serial;
#[cfg(target_os = "none")]
pub mod smp;
#[cfg(target_os = "none")]
pub mod timer;
#[cfg(target_os = "none")]
pub mod traps;
#[cfg(target_os = "none")]
pub mod tsc;
#[cfg(target_os = "none")]
pub mod user;
