//! Drivers for VMware's paravirtual devices: the network interface vmxnet3 and the SCSI adapter pvscsi. Their interfaces are
//! known from the headers that VMware published with its Linux drivers (`vmxnet3_defs.h`, `upt1_defs.h`, `vmw_pvscsi.h`),
//! and from QEMU's models of both.
//!
//! A device is not trusted to keep the protocol: what it writes to a ring is read once and checked, and the first lie ends
//! its use, with one line in the log and an error for every request.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

mod interrupts;
mod pvscsi;
mod window;

use alloc::boxed::Box;
use alloc::vec::Vec;

use hal_core::Result;
use hal_core::bus::{BusDevice, Driver};
use hal_core::device::Device;

const VENDOR: u16 = 0x15ad;
const PVSCSI: u16 = 0x07c0;

/// The driver of every VMware device.
pub struct Vmware;

/// The one instance, for the kernel's list.
pub static DRIVER: Vmware = Vmware;

impl Driver for Vmware {
    fn name(&self) -> &'static str {
        "vmware"
    }

    fn probe(&self, device: &BusDevice, _cpus: usize) -> Option<Result<Vec<Device>>> {
        let BusDevice::Pci(function) = device else {
            return None;
        };
        match function.id() {
            (VENDOR, PVSCSI) => Some((|| {
                let window = window::map_large(&**function, pvscsi::REGISTERS)?;
                pvscsi::start(Box::new(window), &mut |causes| interrupts::connect(&**function, causes))
            })()),
            _ => None,
        }
    }
}
