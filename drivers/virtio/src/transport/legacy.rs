//! The legacy PCI transport (virtio 0.9.5; virtio 1.2, section 4.1.4.10): I/O ports of BAR 0.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use hal_core::bus::{Bar, PciFunction};
use hal_core::{Error, PAGE_SIZE, Result};

use super::msix::{NO_VECTOR, Vectors};
use super::{Messages, Source, Transport};
use crate::ring::RingAddresses;
use driver_kit::IrqLock;

const DEVICE_FEATURES: u16 = 0;
const DRIVER_FEATURES: u16 = 4;
const QUEUE_PFN: u16 = 8;
const QUEUE_SIZE: u16 = 12;
const QUEUE_SELECT: u16 = 14;
const QUEUE_NOTIFY: u16 = 16;
const STATUS: u16 = 18;
const ISR: u16 = 19;
// Only there while MSI-X is on; then the device's own configuration starts behind them.
const CONFIG_VECTOR: u16 = 20;
const QUEUE_VECTOR: u16 = 22;

/// A legacy PCI device.
pub(crate) struct LegacyTransport {
    pci: Arc<dyn PciFunction>,
    device_type: u32,
    port: u16,
    len: u32,
    msix: AtomicBool,
    vectors: Vectors,
    messages: fn(usize, hal_core::interrupt::Handler) -> Result<hal_core::interrupt::MsiMessage>,
    select: IrqLock<()>,
}

impl LegacyTransport {
    /// Takes the function over.
    pub fn open(
        pci: &Arc<dyn PciFunction>,
        device_type: u32,
        messages: fn(usize, hal_core::interrupt::Handler) -> Result<hal_core::interrupt::MsiMessage>,
    ) -> Result<Self> {
        let Some(Bar::Io(port, len)) = pci.bar(0) else {
            return Err(Error::Device("no interface that we know: no capabilities, no I/O BAR"));
        };
        if len < 24 || u32::from(port) + len > 0x1_0000 {
            return Err(Error::Device("the I/O BAR is too small"));
        }
        pci.enable();
        Ok(Self {
            pci: pci.clone(),
            device_type,
            port,
            len,
            msix: AtomicBool::new(false),
            vectors: Vectors::new(),
            messages,
            select: IrqLock::new(()),
        })
    }

    fn read(&self, offset: u16, width: u8) -> u32 {
        self.pci.io_read(self.port + offset, width)
    }

    fn write(&self, offset: u16, width: u8, value: u32) {
        self.pci.io_write(self.port + offset, width, value);
    }

    /// Where byte `offset` of the device's own configuration is.
    fn config_port(&self, offset: usize, width: u8) -> Option<u16> {
        let start = if self.msix.load(Ordering::Relaxed) { 24 } else { 20 };
        let end = offset.checked_add(start)?.checked_add(usize::from(width))?;
        (end <= self.len as usize).then(|| (start + offset) as u16)
    }
}

impl Transport for LegacyTransport {
    fn device_type(&self) -> u32 {
        self.device_type
    }
    fn is_legacy(&self) -> bool {
        true
    }
    fn features(&self) -> u64 {
        u64::from(self.read(DEVICE_FEATURES, 4))
    }
    fn accept(&self, features: u64) {
        self.write(DRIVER_FEATURES, 4, features as u32);
    }
    fn status(&self) -> u8 {
        self.read(STATUS, 1) as u8
    }
    fn set_status(&self, status: u8) {
        self.write(STATUS, 1, u32::from(status));
    }
    fn queue_size(&self, queue: u16) -> u16 {
        let _one = self.select.lock();
        self.write(QUEUE_SELECT, 2, u32::from(queue));
        self.read(QUEUE_SIZE, 2) as u16
    }
    fn start_queue(&self, queue: u16, ring: &RingAddresses) -> Result<()> {
        let frame = u32::try_from(ring.descriptors.0 / PAGE_SIZE as u64).map_err(|_| Error::Unsupported)?;
        let _one = self.select.lock();
        self.write(QUEUE_SELECT, 2, u32::from(queue));
        if self.msix.load(Ordering::Relaxed) {
            let vector = u32::from(self.vectors.queue(queue));
            self.write(QUEUE_VECTOR, 2, vector);
            if self.read(QUEUE_VECTOR, 2) != vector {
                return Err(Error::Device("the device refuses a queue's vector"));
            }
        }
        self.write(QUEUE_PFN, 4, frame);
        Ok(())
    }
    fn notify(&self, queue: u16) {
        self.write(QUEUE_NOTIFY, 2, u32::from(queue));
    }
    fn config_read(&self, offset: usize, width: u8) -> u32 {
        self.config_port(offset, width).map_or(u32::MAX, |port| self.read(port, width))
    }
    fn config_write(&self, offset: usize, width: u8, value: u32) {
        if let Some(port) = self.config_port(offset, width) {
            self.write(port, width, value);
        }
    }
    fn config_generation(&self) -> u32 {
        // There is none; readers of legacy devices compare two readings if they must.
        0
    }
    fn connect(&self, sources: Vec<Source>) -> Result<()> {
        let (pci, port) = (self.pci.clone(), self.port);
        let messages: Messages<'_> = &self.messages;
        let by_message =
            self.vectors.connect(&*self.pci, messages, sources, move || pci.io_read(port + ISR, 1) as u8)?;
        self.msix.store(by_message, Ordering::Relaxed);
        if by_message {
            let vector = self.vectors.config();
            self.write(CONFIG_VECTOR, 2, u32::from(vector));
            if vector != NO_VECTOR && self.read(CONFIG_VECTOR, 2) != u32::from(vector) {
                return Err(Error::Device("the device refuses the vector of its configuration"));
            }
        }
        Ok(())
    }
}
