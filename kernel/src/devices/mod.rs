//! Devices: probing, disks, network queues, entropy, balloon, console.
//!
//! What lives here is the kernel's side of a device: who waits for it, on which CPU its work is done. How a
//! device works is its driver's affair.

pub mod balloon;
pub mod block;
pub mod console;
pub mod entropy;
pub mod module;
pub mod net;
pub mod selftest;
pub mod volume;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hal_core::bus::BusDevice;
use hal_core::device::Device;
use hal_core::platform;

use crate::backends::DRIVERS;
use crate::process::random;

/// Finds the devices of all buses and brings them up. Called once, when deferred work can run and before
/// anything needs a device. Interrupts are enabled.
pub fn init(command_line: &str) {
    let cpus = platform().cpu().count();
    let mut found = Found::default();
    for bus_device in platform().buses().enumerate(command_line) {
        for driver in DRIVERS {
            let Some(result) = driver.probe(&bus_device, cpus) else {
                continue;
            };
            let place = describe(&bus_device);
            match result {
                Ok(devices) => {
                    if devices.is_empty() {
                        log::info!("{place}: the {} driver finds nothing on it", driver.name());
                    }
                    for device in devices {
                        found.take(device, driver.name(), &place);
                    }
                }
                Err(error) => log::warn!("{place}: the {} driver cannot use it: {error:?}", driver.name()),
            }
            break;
        }
    }
    if let Some(device) = platform().balloon() {
        balloon::start(balloon::Source::Platform(device));
    }
    block::set(found.disks);
    volume::scan();
    net::set(found.interfaces);
    entropy::feed(random::add_entropy);
}

/// What was found, until it is published.
#[derive(Default)]
struct Found {
    disks: Vec<alloc::sync::Arc<block::Disk>>,
    interfaces: Vec<alloc::sync::Arc<net::Nic>>,
}

impl Found {
    fn take(&mut self, device: Device, driver: &'static str, place: &str) {
        match device {
            Device::Block(device) => {
                let disk = block::Disk::new(self.disks.len(), device, driver);
                let caps = disk.caps();
                log::info!(
                    "{}: {} MiB{}, {} queues ({driver}, {place})",
                    disk.name(),
                    caps.size >> 20,
                    if caps.read_only { ", read-only" } else { "" },
                    caps.queues
                );
                if disk.has_usable_blocks() {
                    self.disks.push(disk);
                } else {
                    log::warn!("{place}: a disk with blocks of {} bytes cannot be used", caps.block_size);
                }
            }
            Device::Net(device) => {
                let caps = device.caps();
                let [a, b, c, d, e, f] = caps.mac;
                log::info!(
                    "eth{}: {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, MTU {}, {} queues ({driver}, {place})",
                    self.interfaces.len(),
                    caps.mtu,
                    caps.queues
                );
                self.interfaces.push(net::Nic::new(device, driver));
            }
            Device::Console(device) => {
                log::info!("console ({driver}, {place})");
                console::add(device);
            }
            Device::Entropy(device) => {
                log::info!("entropy ({driver}, {place})");
                entropy::add(device);
            }
            Device::Balloon(device) => {
                log::info!("balloon ({driver}, {place})");
                balloon::start(balloon::Source::Device(device));
            }
        }
    }
}

/// Where a device is, for the log.
fn describe(device: &BusDevice) -> String {
    match device {
        BusDevice::Pci(function) => {
            let (segment, bus, slot, number) = function.location();
            let (vendor, id) = function.id();
            format!("pci {segment:04x}:{bus:02x}:{slot:02x}.{number} {vendor:04x}:{id:04x}")
        }
        BusDevice::Mmio(place) => format!("mmio {:?}", place.base),
        BusDevice::Named { kind, path } => format!("{kind} {path}"),
    }
}
