//! Intel's gigabit network interfaces that hypervisors emulate: 8254x (e1000) and 82574 (e1000e). One pair of queues,
//! checksums and IPv4 TCP segmentation by the device, interrupts by MSI-X or the line.
//!
//! A device is not trusted: lengths are read once and checked, which descriptor is next is the driver's own count, and
//! the first lie ends the device's use.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

mod header;
mod model;
mod nic;
mod registers;
mod rx;
mod tx;

#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(any(test, feature = "fake"))]
pub mod fuzz;

use alloc::sync::Arc;
use alloc::vec::Vec;

use driver_kit::Registers;
use hal_core::bus::{BusDevice, Driver, PciFunction};
use hal_core::device::Device;
use hal_core::{Error, Result};

use nic::{Handlers, Nic};

/// The driver.
pub struct Intel;

/// The one instance, for the kernel's list.
pub static DRIVER: Intel = Intel;

impl Driver for Intel {
    fn name(&self) -> &'static str {
        "e1000"
    }

    fn probe(&self, device: &BusDevice, _cpus: usize) -> Option<Result<Vec<Device>>> {
        let BusDevice::Pci(function) = device else {
            return None;
        };
        let model = model::find(function.id())?;
        Some(open(&**function).and_then(|registers| {
            let connect = |handlers| connect(&**function, model.messages, handlers);
            Ok(alloc::vec![Device::Net(Nic::start(Arc::new(registers), model, connect)?)])
        }))
    }
}

/// Maps the registers, BAR 0.
fn open(function: &dyn PciFunction) -> Result<Registers> {
    function.enable();
    let (base, len) = function.map_bar(0)?;
    if len < registers::END as u64 {
        return Err(Error::Device("the register window is too small"));
    }
    // SAFETY: mapped for ever just now, and the bus gives a device to one driver.
    Ok(unsafe { Registers::new(base, len as usize) })
}

/// Connects the interrupts: two messages if there are some, else the line. True for messages.
fn connect(function: &dyn PciFunction, messages: bool, handlers: Handlers) -> Result<bool> {
    if messages && function.msix_vectors() >= 2 {
        let interrupts = hal_core::platform().interrupts();
        let queues = interrupts.allocate_message(0, handlers.queues);
        let other = interrupts.allocate_message(0, handlers.other);
        if let (Ok(queues), Ok(other)) = (queues, other) {
            function.set_msix(0, queues)?;
            function.set_msix(1, other)?;
            return Ok(true);
        }
    }
    function.attach_line(handlers.line)?;
    Ok(false)
}
