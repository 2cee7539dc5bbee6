//! Drivers for virtio devices (OASIS virtio 1.2; facts of the legacy interface from 0.9.5): network, disk, SCSI,
//! console, entropy, balloon, over PCI and memory-mapped registers.
//!
//! A device is not trusted to keep the protocol: whatever it writes to a ring or a register is checked, and the
//! first lie ends its use, with one line in the log and every request answered by an error. It cannot be
//! kept from scribbling over memory (that is what DMA is), and nothing here tries.
//!
//! Unsafe code is in `dma`, `shared`, `ring`, `registers` and where a driver hands memory to a ring.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

mod balloon;
mod block;
mod console;
mod entropy;
mod features;
mod net;
mod ring;
mod scsi;
mod shared;
mod transport;

#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(any(test, feature = "fake"))]
pub mod fuzz;
#[cfg(any(test, feature = "fake"))]
pub mod scsi_fake;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use hal_core::bus::{BusDevice, Driver};
use hal_core::device::Device;
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};

use transport::{Shared, legacy, mmio, pci};

/// The driver of every virtio device.
pub struct Virtio;

/// The one instance, for the kernel's list.
pub static DRIVER: Virtio = Virtio;

impl Driver for Virtio {
    fn name(&self) -> &'static str {
        "virtio"
    }

    fn probe(&self, device: &BusDevice, cpus: usize) -> Option<Result<Vec<Device>>> {
        let transport: Result<Shared> = match device {
            BusDevice::Pci(function) => {
                let kind = pci::device_type(&**function)?;
                match pci::PciTransport::open(function, kind, transport::platform_messages) {
                    Some(modern) => modern.map(|t| Arc::new(t) as Shared),
                    None => legacy::LegacyTransport::open(function, kind, transport::platform_messages)
                        .map(|t| Arc::new(t) as Shared),
                }
            }
            BusDevice::Mmio(place) if place.compatible == "virtio-mmio" => {
                let mapped = hal_core::platform().mmu().map_device(place.base, place.len);
                let base = match mapped {
                    Ok(base) => base,
                    Err(e) => return Some(Err(e)),
                };
                // SAFETY: mapped for ever just now, and the bus gives a device to one driver.
                let window = unsafe { driver_kit::Registers::new(base, place.len as usize) };
                mmio::MmioTransport::open(place, window, attach_line)?.map(|t| Arc::new(t) as Shared)
            }
            _ => return None,
        };
        Some(transport.and_then(|t| start(t, cpus)))
    }
}

fn attach_line(gsi: u32, level: bool, handler: Handler) -> Result<()> {
    hal_core::platform().interrupts().attach_line(gsi, level, false, handler)
}

/// Brings what is behind `transport` up. On failure the device is told so and left alone.
fn start(transport: Shared, cpus: usize) -> Result<Vec<Device>> {
    let t = transport.clone();
    let one = |device| vec![device];
    let devices = match transport.device_type() {
        1 => net::Net::start(transport, cpus).map(|d| one(Device::Net(d))),
        2 => block::Block::start(transport, cpus).map(|d| one(Device::Block(d))),
        3 => console::Console::start(transport).map(|d| one(Device::Console(d))),
        4 => entropy::Entropy::start(transport).map(|d| one(Device::Entropy(d))),
        5 => balloon::Balloon::start(transport).map(|d| one(Device::Balloon(d))),
        8 => scsi::start(transport, cpus),
        _ => Err(Error::Unsupported),
    };
    if devices.is_err() {
        t.give_up();
    }
    devices
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
