//! NVM Express disks on PCI: a pair of queues per CPU with its own interrupt vector, several namespaces, flush, deallocate,
//! and a reset of the controller when it does not answer. Namespaces with metadata are not driven.
//!
//! A controller is not trusted: which commands are in flight is the driver's own knowledge, and a completion for
//! another one resets the controller.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

mod controller;
mod disk;
mod identify;
mod prp;
mod queue;
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

use controller::Controller;
use disk::Disk;

/// The driver.
pub struct Nvme;

/// The one instance, for the kernel's list.
pub static DRIVER: Nvme = Nvme;

/// Namespaces that are looked at.
const MOST_NAMESPACES: usize = 64;

impl Driver for Nvme {
    fn name(&self) -> &'static str {
        "nvme"
    }

    fn probe(&self, device: &BusDevice, cpus: usize) -> Option<Result<Vec<Device>>> {
        match device {
            // Mass storage, non-volatile memory, NVM Express.
            BusDevice::Pci(function) if matches!(function.class(), (1, 8, 2, _)) => Some(open(&**function, cpus)),
            _ => None,
        }
    }
}

fn open(function: &dyn PciFunction, cpus: usize) -> Result<Vec<Device>> {
    function.enable();
    let (base, len) = function.map_bar(0)?;
    if len < registers::DOORBELLS as u64 + 16 {
        return Err(Error::Device("the register window is too small"));
    }
    // SAFETY: mapped for ever just now, and the bus gives a device to one driver.
    let io: Arc<dyn Io> = Arc::new(unsafe { Registers::new(base, len as usize) });
    // A queue that could not be interrupted for, or whose doorbells are not there, is of no use.
    let stride = 4u64 << (io.read(registers::CAP + 4) & 0xf);
    let reachable = (len - registers::DOORBELLS as u64) / (2 * stride);
    let wanted = cpus.min(usize::from(function.msix_vectors())).min(reachable.saturating_sub(1) as usize);
    start(io, wanted, |handlers, line| connect(function, handlers, line))
}

/// Starts the controller and its namespaces.
fn start(
    io: Arc<dyn Io>,
    queues: usize,
    connect: impl FnOnce(Vec<Handler>, Handler) -> Result<usize>,
) -> Result<Vec<Device>> {
    let (controller, about) = Controller::start(io, queues, connect)?;
    log::info!("nvme: {}, {} queues", about.model, controller.queues());
    let mut disks = Vec::new();
    for number in numbers(&controller, about.namespaces) {
        let described = controller.identify(registers::admin::NAMESPACE, number);
        match described.and_then(|data| identify::Namespace::parse(&data)) {
            Ok(Some(namespace)) => {
                let disk: Arc<dyn BlockDevice> = Arc::new(Disk::new(&controller, number, &about, namespace));
                disks.push(Device::Block(disk));
            }
            Ok(None) => {}
            Err(error) => log::warn!("nvme: namespace {number}: {error:?}"),
        }
    }
    Ok(disks)
}

/// The numbers of the namespaces: the list that controllers since 1.1 have, else all up to their number.
fn numbers(controller: &Controller, count: u32) -> Vec<u32> {
    match controller.identify(registers::admin::ACTIVE, 0) {
        Ok(list) => list
            .chunks(4)
            .map(|n| u32::from_le_bytes([n[0], n[1], n[2], n[3]]))
            .take_while(|&n| n != 0)
            .take(MOST_NAMESPACES)
            .collect(),
        Err(_) => (1..=count.min(MOST_NAMESPACES as u32)).collect(),
    }
}

/// Connects the interrupts: a message per queue, on its CPU, else the line. Returns the number of messages.
fn connect(function: &dyn PciFunction, handlers: Vec<Handler>, line: Handler) -> Result<usize> {
    let count = handlers.len();
    if count <= usize::from(function.msix_vectors()) {
        let interrupts = hal_core::platform().interrupts();
        let messages: Result<Vec<_>> =
            handlers.into_iter().enumerate().map(|(cpu, handler)| interrupts.allocate_message(cpu, handler)).collect();
        if let Ok(messages) = messages {
            for (index, message) in messages.into_iter().enumerate() {
                function.set_msix(index as u16, message)?;
            }
            return Ok(count);
        }
    }
    function.attach_line(line)?;
    Ok(0)
}

/// The CPU that runs this, for choosing a queue.
#[cfg(not(any(test, feature = "fake")))]
fn this_cpu() -> usize {
    hal_core::percpu::cpu_id()
}

/// The host's tests play one CPU.
#[cfg(any(test, feature = "fake"))]
fn this_cpu() -> usize {
    0
}
