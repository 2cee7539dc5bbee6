//! KVM and the plain PC: the platform with a paravirtual clock where KVM's CPUID leaves are there, and the same devices
//! without it elsewhere (QEMU's TCG, a hypervisor that nobody here knows).
#![no_std]

#[cfg(target_os = "none")]
mod platform;
#[cfg(target_os = "none")]
mod pvclock;

#[cfg(target_os = "none")]
pub use platform::{KVM, PC, start_clock};
