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

#[cfg(any(test, feature = "fake"))]
pub mod fuzz;
mod interrupts;
mod pvscsi;
mod vmxnet3;
mod window;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use hal_core::Result;
use hal_core::bus::{BusDevice, Driver};
use hal_core::device::Device;

use interrupts::Connect;

const VENDOR: u16 = 0x15ad;
const VMXNET3: u16 = 0x07b0;
const PVSCSI: u16 = 0x07c0;

/// The driver of every VMware device.
pub struct Vmware;

/// The one instance, for the kernel's list.
pub static DRIVER: Vmware = Vmware;

impl Driver for Vmware {
    fn name(&self) -> &'static str {
        "vmware"
    }

    fn probe(&self, device: &BusDevice, cpus: usize) -> Option<Result<Vec<Device>>> {
        let BusDevice::Pci(function) = device else {
            return None;
        };
        match function.id() {
            (VENDOR, PVSCSI) => Some((|| {
                let window = window::map_large(&**function, pvscsi::REGISTERS)?;
                pvscsi::start(Box::new(window), &mut |causes| interrupts::connect(&**function, causes))
            })()),
            (VENDOR, VMXNET3) => Some((|| {
                let bells = window::map(&**function, 0, vmxnet3::REGISTERS)?;
                let control = window::map(&**function, 1, vmxnet3::REGISTERS)?;
                let connect: Connect<'_> = &mut |causes| interrupts::connect(&**function, causes);
                let nic = vmxnet3::start(Box::new(bells), Box::new(control), cpus, connect)?;
                Ok(vec![Device::Net(nic)])
            })()),
            _ => None,
        }
    }
}
