//! VirtualBox: a PC that shows KVM's signature to Linux guests by default, so firmware and PCI must tell it. Its devices are
//! ordinary PCI ones (`drivers/intel`, `drivers/ahci`, `drivers/nvme`, `drivers/virtio`).
#![no_std]

#[cfg(test)]
extern crate std;

pub mod evidence;

#[cfg(target_os = "none")]
mod platform;

#[cfg(target_os = "none")]
pub use platform::VIRTUALBOX;
