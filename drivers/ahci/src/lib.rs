//! Serial ATA disks behind an AHCI controller: 32 commands in flight (queued where the disk can), flush, trim, and
//! starting anew after errors. Packet devices (CD-ROM) and port multipliers are not driven.
//!
//! A controller is not trusted: what is in flight is the driver's own knowledge, and each request is answered once,
//! whatever the registers say.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

mod command;
mod controller;
mod disk;
mod port;
mod registers;

#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(any(test, feature = "fake"))]
pub mod fuzz;

use alloc::sync::Arc;
use alloc::vec::Vec;

use driver_kit::{Io, Registers};
use hal_core::bus::{BusDevice, Driver, PciFunction};
use hal_core::device::{BlockDevice, Device};
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};

/// The driver.
pub struct Ahci;

/// The one instance, for the kernel's list.
pub static DRIVER: Ahci = Ahci;

impl Driver for Ahci {
    fn name(&self) -> &'static str {
        "ahci"
    }

    fn probe(&self, device: &BusDevice, _cpus: usize) -> Option<Result<Vec<Device>>> {
        match device {
            // Mass storage, serial ATA, AHCI (PCI Code and ID assignment specification).
            BusDevice::Pci(function) if matches!(function.class(), (1, 6, 1, _)) => Some(start(&**function)),
            _ => None,
        }
    }
}

fn start(function: &dyn PciFunction) -> Result<Vec<Device>> {
    function.enable();
    let (base, len) = function.map_bar(5)?;
    if len < (registers::PORTS + registers::PORT) as u64 {
        return Err(Error::Device("the register window is too small"));
    }
    // SAFETY: mapped for ever just now, and the bus gives a device to one driver.
    let io: Arc<dyn Io> = Arc::new(unsafe { Registers::new(base, len as usize) });
    let disks = attach(io, |handler| connect(function, handler))?;
    Ok(disks.into_iter().map(Device::Block).collect())
}

/// Starts the controller and its disks, with interrupts if there are any.
fn attach(io: Arc<dyn Io>, connect: impl FnOnce(Handler) -> Result<()>) -> Result<Vec<Arc<dyn BlockDevice>>> {
    let disks: Arc<[_]> = controller::start(&io)?.into();
    if !disks.is_empty() {
        let (wire, known) = (io.clone(), disks.clone());
        connect(Arc::new(move || controller::interrupt(&*wire, &known)))?;
        controller::enable_interrupts(&*io);
    }
    Ok(disks.iter().map(|disk| disk.clone() as Arc<dyn BlockDevice>).collect())
}

/// Connects the interrupt: a message where the controller can, else the line.
fn connect(function: &dyn PciFunction, handler: Handler) -> Result<()> {
    if function.has_msi()
        && let Ok(message) = hal_core::platform().interrupts().allocate_message(0, handler.clone())
    {
        return function.set_msi(message);
    }
    function.attach_line(handler)
}
