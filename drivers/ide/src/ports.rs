//! The ports of a channel, and what is in them (ATA8-APT; Intel 82371SB datasheet, section 2.7: bus master).

use alloc::sync::Arc;

use hal_core::bus::PciFunction;

/// Port accesses, of 1, 2 or 4 bytes.
pub(crate) trait Ports: Send + Sync {
    /// Reads.
    fn read(&self, port: u16, width: u8) -> u32;
    /// Writes.
    fn write(&self, port: u16, width: u8, value: u32);
}

/// Those of a PCI function.
pub(crate) struct PciPorts(pub Arc<dyn PciFunction>);

impl Ports for PciPorts {
    fn read(&self, port: u16, width: u8) -> u32 {
        self.0.io_read(port, width)
    }
    fn write(&self, port: u16, width: u8, value: u32) {
        self.0.io_write(port, width, value);
    }
}

/// Command block: data.
pub(crate) const DATA: u16 = 0;
/// Command block: features.
pub(crate) const FEATURES: u16 = 1;
/// Command block: count.
pub(crate) const COUNT: u16 = 2;
/// Command block: sector number, three bytes from here.
pub(crate) const SECTOR: u16 = 3;
/// Command block: drive.
pub(crate) const DRIVE: u16 = 6;
/// Command block: status when read (and the interrupt is acknowledged), command when written.
pub(crate) const COMMAND: u16 = 7;

/// Bus master: command.
pub(crate) const MASTER_COMMAND: u16 = 0;
/// Bus master: status.
pub(crate) const MASTER_STATUS: u16 = 2;
/// Bus master: address of the table.
pub(crate) const MASTER_TABLE: u16 = 4;

/// Status: busy.
pub(crate) const BUSY: u8 = 1 << 7;
/// Status: device fault.
pub(crate) const FAULT: u8 = 1 << 5;
/// Status: data wanted.
pub(crate) const WANTS_DATA: u8 = 1 << 3;
/// Status: error.
pub(crate) const ERROR: u8 = 1 << 0;

/// Control: reset.
pub(crate) const RESET: u8 = 1 << 2;
/// Control: no interrupts.
pub(crate) const NO_INTERRUPTS: u8 = 1 << 1;

/// Bus master command: run.
pub(crate) const RUN: u8 = 1 << 0;
/// Bus master command: to memory.
pub(crate) const TO_MEMORY: u8 = 1 << 3;
/// Bus master status: the device has interrupted; ones clear.
pub(crate) const INTERRUPT: u8 = 1 << 2;
/// Bus master status: error; ones clear.
pub(crate) const MASTER_ERROR: u8 = 1 << 1;
/// Bus master status: what the BIOS has written about the drives, and stays.
pub(crate) const CAPABLE: u8 = 3 << 5;
