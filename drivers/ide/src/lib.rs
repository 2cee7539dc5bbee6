//! Parallel ATA disks, which emulators give to systems that know nothing better: two channels of two drives, one command at a
//! time for each channel, by bus master below 4 GiB and else through the data port. Packet devices (CD-ROM), drives
//! without 48-bit sector numbers and controllers without PCI are not driven.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

mod channel;
mod disk;
mod ports;

#[cfg(any(test, feature = "fake"))]
pub mod fake;

use alloc::sync::Arc;
use alloc::vec::Vec;

use ata::Identity;
use driver_kit::Lock;
use hal_core::bus::{Bar, BusDevice, Driver, PciFunction};
use hal_core::device::{BlockDevice, Device};
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};

use channel::{Channel, Line, Place};
use disk::{Disk, Shared};
use ports::{PciPorts, Ports};

/// The driver.
pub struct Ide;

/// The one instance, for the kernel's list.
pub static DRIVER: Ide = Ide;

/// The places and ISA interrupts of channels in compatibility mode (PCI IDE Controller Specification 1.0).
const COMPATIBLE: [(u16, u16, u32); 2] = [(0x1f0, 0x3f6, 14), (0x170, 0x376, 15)];

impl Driver for Ide {
    fn name(&self) -> &'static str {
        "ide"
    }

    fn probe(&self, device: &BusDevice, _cpus: usize) -> Option<Result<Vec<Device>>> {
        match device {
            // Mass storage, IDE.
            BusDevice::Pci(function) if matches!(function.class(), (1, 1, _, _)) => Some(start(function)),
            _ => None,
        }
    }
}

fn start(function: &Arc<dyn PciFunction>) -> Result<Vec<Device>> {
    function.enable();
    let (_, _, interface, _) = function.class();
    let master = match function.bar(4) {
        // Bit 7 of the interface: there is a bus master.
        Some(Bar::Io(port, len)) if interface & 0x80 != 0 && len >= 16 && port != 0 => Some(port),
        _ => None,
    };
    let ports: Arc<dyn Ports> = Arc::new(PciPorts(function.clone()));
    let mut devices = Vec::new();
    for (index, &(command, control, interrupt)) in (0u8..).zip(&COMPATIBLE) {
        let native = interface >> (2 * index) & 1 != 0;
        let (command, control) = match (native, function.bar(2 * index), function.bar(2 * index + 1)) {
            (false, ..) => (command, control),
            (true, Some(Bar::Io(command, _)), Some(Bar::Io(control, _))) if command != 0 => (command, control + 2),
            (true, ..) => continue,
        };
        let master = master.map(|port| port + 8 * u16::from(index));
        let connect = |handler| {
            if native {
                function.attach_line(handler)
            } else {
                // An ISA line: edge-triggered, active high.
                hal_core::platform().interrupts().attach_line(interrupt, false, false, handler)
            }
        };
        match attach(ports.clone(), Place { command, control, master }, connect) {
            Ok(disks) => devices.extend(disks.into_iter().map(Device::Block)),
            Err(error) => log::warn!("ide: channel {index}: {error:?}"),
        }
    }
    Ok(devices)
}

/// Brings up the disks of a channel.
fn attach(
    ports: Arc<dyn Ports>,
    place: Place,
    connect: impl FnOnce(Handler) -> Result<()>,
) -> Result<Vec<Arc<dyn BlockDevice>>> {
    let Some(mut channel) = Channel::new(ports, place)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for drive in 0..2 {
        match channel.identify(drive).and_then(|data| data.as_ref().map(Identity::parse).transpose()) {
            Ok(Some(identity)) => found.push((drive, identity)),
            Ok(None) => {}
            Err(error) => log::warn!("ide: drive {drive}: {error:?}"),
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let line = channel.line();
    let shared = Arc::new(Shared { channel: Lock::new(channel), handler: spin::Once::new() });
    let told = shared.clone();
    connect(Arc::new(move || interrupt(&line, &told)))?;
    shared.channel.lock().enable_interrupts();
    let disk = |(drive, identity)| Ok(Arc::new(Disk::new(&shared, drive, identity)?) as Arc<dyn BlockDevice>);
    found.into_iter().map(disk).collect::<Result<_>>().map_err(|e: Error| e)
}

fn interrupt(line: &Line, shared: &Shared) {
    if line.look()
        && let Some(handler) = shared.handler.get()
    {
        handler();
    }
}
