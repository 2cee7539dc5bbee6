//! Buses and the devices found on them. Drivers match by id; the kernel asks each of its drivers in turn.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::addr::{PhysAddr, VirtAddr};
use crate::interrupt::{Handler, MsiMessage};
use crate::{Result, device::Device};

/// Buses of a platform.
pub trait Buses: Sync {
    /// Enumerates every bus. `command_line` may name devices (virtio_mmio.device=, as QEMU's microvm does).
    fn enumerate(&self, command_line: &str) -> Vec<BusDevice>;
}

/// A device as its bus shows it, before a driver has it.
pub enum BusDevice {
    /// A PCI function; its driver keeps it.
    Pci(Arc<dyn PciFunction>),
    /// Memory-mapped registers at a place that firmware or the command line tells.
    Mmio(MmioDevice),
    /// A device of a paravirtual bus: type and path, handled by that hypervisor's own drivers.
    Named {
        /// Kind as the bus names it: "vif", "vbd".
        kind: String,
        /// Where it is on that bus.
        path: String,
    },
}

/// Memory-mapped registers.
#[derive(Clone, Debug)]
pub struct MmioDevice {
    /// What the bus says it is: "virtio-mmio".
    pub compatible: &'static str,
    /// First byte of the registers.
    pub base: PhysAddr,
    /// Their length in bytes.
    pub len: u64,
    /// Global system interrupt; edge-triggered and active high unless `level`.
    pub gsi: u32,
    /// Level-triggered.
    pub level: bool,
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Memory: address, length, prefetchable.
    Memory(PhysAddr, u64, bool),
    /// I/O ports: first port, length.
    Io(u16, u32),
}

/// One PCI function (PCI Local Bus 3.0). Configuration offsets are bytes, a multiple of the width.
pub trait PciFunction: Send + Sync {
    /// Segment, bus, device, function.
    fn location(&self) -> (u16, u8, u8, u8);
    /// Vendor and device id.
    fn id(&self) -> (u16, u16);
    /// Subsystem vendor and subsystem id.
    fn subsystem(&self) -> (u16, u16);
    /// Class, subclass, programming interface, revision.
    fn class(&self) -> (u8, u8, u8, u8);
    /// Reads 32 bits of configuration space.
    fn read(&self, offset: u16) -> u32;
    /// Writes 32 bits of configuration space.
    fn write(&self, offset: u16, value: u32);
    /// A base address register, sized; `None` if it is not there.
    fn bar(&self, index: u8) -> Option<Bar>;
    /// Turns on memory, I/O decoding and bus mastering.
    fn enable(&self);
    /// Number of MSI-X vectors, 0 if none.
    fn msix_vectors(&self) -> u16;
    /// Programs MSI-X table entry `index` and turns MSI-X on (the first time).
    fn set_msix(&self, index: u16, message: MsiMessage) -> Result<()>;
    /// True if there is the one message of MSI.
    fn has_msi(&self) -> bool {
        false
    }
    /// Programs that message and turns MSI on.
    fn set_msi(&self, _message: MsiMessage) -> Result<()> {
        Err(crate::Error::Unsupported)
    }
    /// The line interrupt: calls `handler` whenever the (level-triggered, shared) line fires.
    fn attach_line(&self, handler: Handler) -> Result<()>;
    /// Maps a memory register, uncached.
    fn map_bar(&self, index: u8) -> Result<(VirtAddr, u64)>;
    /// Reads an I/O port register; widths 1, 2, 4.
    fn io_read(&self, port: u16, width: u8) -> u32;
    /// Writes an I/O port register; widths 1, 2, 4.
    fn io_write(&self, port: u16, width: u8, value: u32);
}

/// A driver: tells whether a device is its own and brings it up.
pub trait Driver: Sync {
    /// Name for the log.
    fn name(&self) -> &'static str;
    /// `Some` if the device is this driver's: what it has, ready for use (a controller has a disk for each unit, or
    /// none), or why it could not be brought up. `cpus` is how many queues are worth having.
    fn probe(&self, device: &BusDevice, cpus: usize) -> Option<Result<Vec<Device>>>;
}
