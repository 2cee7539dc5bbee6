//! VMware: a PC whose time-stamp counter's frequency the hypervisor tells, and its wall clock, so that nothing is measured
//! at boot. Its devices are ordinary PCI ones (`drivers/vmware`, `drivers/intel`).
#![no_std]

#[cfg(test)]
extern crate std;

pub mod answers;

#[cfg(target_os = "none")]
mod backdoor;
#[cfg(target_os = "none")]
mod platform;

#[cfg(target_os = "none")]
pub use platform::VMWARE;
